// Pillow's 8-bit bicubic resize of the cropped region, bit for bit: two passes, each rounded to a
// byte.
//
//   pass: out[i] = clip((2^21 + sum_k weight[i, k] in[first[i] + k]) >> 22, 0, 255)
//   weight = round(2^22 w / sum w), w = keys((k - center + 0.5) / stretch) in float64, a = -0.5
//
// Doubles are added, multiplied and divided one operation at a time: a fused multiply-add would
// round weights otherwise. Memory is bounded whatever the image: the source positions of the second
// axis go by in chunks of kChunkPositions. Source: Pillow 13's Resample.c (MIT-CMU), from its
// description; Keys 1981 for the kernel.
#pragma once

#include "cuda/fragment.h"
#include "cuda/resize_params.h"

namespace clipfast::cuda {

// Keys' cubic with a = -0.5.
template <class M>
__device__ __forceinline__ double keys_cubic(M& m, double x) {
    x = fabs(x);
    if (x < 1.0) {
        const double inner = m.sum(m.product(1.5, x), -2.5);
        return m.sum(m.product(m.product(inner, x), x), 1.0);
    }
    if (x < 2.0) {
        const double inner = m.sum(m.product(m.sum(x, -5.0), x), 8.0);
        return m.product(m.sum(m.product(inner, x), -4.0), -0.5);
    }
    return 0.0;
}

// Taps of position `position` of an axis of `source` pixels that become `resized`, to the table. An
// axis that keeps its size is copied: one tap of weight one.
template <class M>
__device__ __forceinline__ void make_taps(M& m, int64_t source, int64_t resized, int64_t position,
                                          int32_t* taps) {
    if (source == resized) {
        m.store(taps, static_cast<int32_t>(position));
        m.store(taps + 1, 1);
        m.store(taps + 2, 1 << kWeightBits);
        return;
    }
    const double scale = m.quotient(static_cast<double>(source), static_cast<double>(resized));
    const double stretch = fmax(scale, 1.0), support = m.product(2.0, stretch);
    const double center = m.product(m.sum(static_cast<double>(position), 0.5), scale);
    const double inverse = m.quotient(1.0, stretch);
    const auto begin = static_cast<int64_t>(m.sum(m.sum(center, -support), 0.5));
    const auto end = static_cast<int64_t>(m.sum(m.sum(center, support), 0.5));
    const int64_t first = begin > 0 ? begin : 0;
    const auto count = static_cast<int32_t>((end < source ? end : source) - first);
    const auto weight = [&](int k) {
        const double offset = m.sum(m.sum(static_cast<double>(first + k), -center), 0.5);
        return keys_cubic(m, m.product(offset, inverse));
    };
    double total = 0.0;
    for (int k = 0; k < count; ++k) total = m.sum(total, weight(k));
    m.store(taps, static_cast<int32_t>(first));
    m.store(taps + 1, count);
    for (int k = 0; k < count; ++k) {
        const double share = total != 0.0 ? m.quotient(weight(k), total) : weight(k);
        const double scaled = m.product(share, static_cast<double>(1 << kWeightBits));
        m.store(taps + 2 + k, static_cast<int32_t>(m.sum(scaled, share < 0.0 ? -0.5 : 0.5)));
    }
}

// Block: image, then axis.
template <class M>
__device__ __forceinline__ void fill_taps(M& m, const ResizeParams& p) {
    const ResizeImage* image = p.images + m.block_x() / 2;
    const int axis = m.block_x() % 2;
    const int64_t source = m.load(&image->source[axis]), resized = m.load(&image->resized[axis]);
    const int64_t start = m.load(&image->start[axis]), stride = m.load(&image->stride[axis]);
    int32_t* taps = p.taps + m.load(&image->taps[axis]);
    for (int output = m.thread(); output < p.size; output += m.threads()) {
        make_taps(m, source, resized, start + output, taps + output * stride);
    }
}

__device__ __forceinline__ uint8_t to_byte(int32_t sum) {
    return static_cast<uint8_t>(min(max(sum >> kWeightBits, 0), 255));
}

// One axis of an image: the taps of its outputs, and how far apart its pixels lie.
struct TapTable {
    const int32_t* taps;
    int64_t stride;
    int64_t pixel_stride;

    template <class M>
    __device__ __forceinline__ int first(M& m, int output) const {
        return m.load(taps + output * stride);
    }
    template <class M>
    __device__ __forceinline__ int count(M& m, int output) const {
        return m.load(taps + output * stride + 1);
    }
    template <class M>
    __device__ __forceinline__ int32_t weight(M& m, int output, int k) const {
        return m.load(taps + output * stride + 2 + k);
    }
};

// A band of one image's outputs along the second axis, all of them along the first.
template <class M>
class ResizeBand {
  public:
    __device__ __forceinline__ ResizeBand(M& m, const ResizeParams& p) : size_(p.size) {
        const int bands = divide_up(p.size, p.band), index = m.block_x() / bands;
        const ResizeImage* image = p.images + index;
        begin_ = m.block_x() % bands * p.band;
        end_ = min(begin_ + p.band, p.size);
        vertical_first_ = m.load(&image->vertical_first) != 0;
        pixels_ = reinterpret_cast<const uint8_t*>(m.load(&image->pixels));
        const int64_t row_stride = m.load(&image->row_stride);
        const int first = vertical_first_ ? 1 : 0, second = 1 - first;
        first_ = {p.taps + m.load(&image->taps[first]), m.load(&image->stride[first]),
                  vertical_first_ ? row_stride : 3};
        second_ = {p.taps + m.load(&image->taps[second]), m.load(&image->stride[second]),
                   vertical_first_ ? 3 : row_stride};
        out_ = p.out + static_cast<int64_t>(index) * 3 * p.size * p.size;
        sums_at_ = 3 * kChunkPositions * p.size;
    }

    __device__ __forceinline__ void run(M& m) {
        const int sums = (end_ - begin_) * 3 * size_;
        for (int i = m.thread(); i < sums; i += m.threads()) {
            m.shared_store(sums_at_ + 4 * i, 1 << (kWeightBits - 1));
        }
        const int first = second_.first(m, begin_);
        const int last = second_.first(m, end_ - 1) + second_.count(m, end_ - 1);
        for (int position = first; position < last; position += kChunkPositions) {
            const int positions = min(kChunkPositions, last - position);
            pass_first_axis(m, position, positions);
            m.sync();
            add_second_axis(m, position, positions);
            m.sync();
        }
        write(m);
    }

  private:
    // Bytes of the chunk: [position][channel][output].
    __device__ __forceinline__ void pass_first_axis(M& m, int position, int positions) {
        for (int i = m.thread(); i < positions * size_; i += m.threads()) {
            // Neighbouring threads read neighbouring pixels of a row.
            const int p = vertical_first_ ? i % positions : i / size_;
            const int output = vertical_first_ ? i / positions : i % size_;
            const int first = first_.first(m, output), count = first_.count(m, output);
            const uint8_t* from =
                pixels_ + (position + p) * second_.pixel_stride + first * first_.pixel_stride;
            int32_t sum[3] = {1 << (kWeightBits - 1), 1 << (kWeightBits - 1),
                              1 << (kWeightBits - 1)};
            for (int k = 0; k < count; ++k, from += first_.pixel_stride) {
                const int32_t weight = first_.weight(m, output, k);
#pragma unroll
                for (int c = 0; c < 3; ++c) sum[c] += weight * m.load(from + c);
            }
#pragma unroll
            for (int c = 0; c < 3; ++c) {
                m.shared_store((p * 3 + c) * size_ + output, to_byte(sum[c]));
            }
        }
    }

    // Sums of the band: [output of the second axis][channel][output of the first].
    __device__ __forceinline__ void add_second_axis(M& m, int position, int positions) {
        for (int output = begin_; output < end_; ++output) {
            const int first = second_.first(m, output), count = second_.count(m, output);
            const int from = max(first, position);
            const int to = min(first + count, position + positions);
            if (from >= to) continue;
            for (int i = m.thread(); i < 3 * size_; i += m.threads()) {
                const uint32_t at = sums_at_ + 4 * ((output - begin_) * 3 * size_ + i);
                auto sum = m.template shared_load<int32_t>(at);
                for (int p = from; p < to; ++p) {
                    sum += second_.weight(m, output, p - first) *
                           m.template shared_load<uint8_t>((p - position) * 3 * size_ + i);
                }
                m.shared_store(at, sum);
            }
        }
    }

    __device__ __forceinline__ void write(M& m) {
        const int outputs = end_ - begin_;
        for (int i = m.thread(); i < outputs * 3 * size_; i += m.threads()) {
            const int first = i % size_, channel = i / size_ % 3, second = i / size_ / 3;
            const int row = vertical_first_ ? first : begin_ + second;
            const int column = vertical_first_ ? begin_ + second : first;
            const uint8_t byte = to_byte(m.template shared_load<int32_t>(sums_at_ + 4 * i));
            m.store(out_ + (static_cast<int64_t>(channel) * size_ + row) * size_ + column, byte);
        }
    }

    int size_, begin_, end_;
    bool vertical_first_;
    const uint8_t* pixels_;
    TapTable first_, second_;
    uint8_t* out_;
    uint32_t sums_at_;
};

}  // namespace clipfast::cuda
