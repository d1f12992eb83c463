// Operands of the product that are rows of a matrix: 16-bit rows, copied as they are, and int8
// rows, widened on arrival.
//
// Each thread widens, and sums the squares of, only chunks that it copied itself, which its own
// wait makes visible.
#pragma once

#include "cuda/cosine_params.h"
#include "cuda/product_loop.h"

namespace clipfast::cuda {

// 1 / max(|x|, 1e-12), as torch.nn.functional.normalize divides.
__device__ __forceinline__ float inverse_norm(float squares) {
    return 1.0f / fmaxf(sqrtf(squares), 1e-12f);
}

// Rows of 16-bit elements in copies of kCopyBytes. With kNorms, finish_tile leaves the 128 inverse
// norms at `norms`.
template <class T, int kCopyBytes, bool kNorms>
class ElementRows {
  public:
    static constexpr int kAhead = kStages - 1;
    static constexpr uint32_t kSharedBytes = kStages * kSliceBytes;

    // Tiles begin at row first_row; `repeats` reads the same rows again for every tile.
    __device__ __forceinline__ ElementRows(const RowMatrix& matrix, int first_row, bool repeats,
                                           uint32_t shared_at, uint32_t norms)
        : matrix_(matrix),
          first_row_(first_row),
          repeats_(repeats),
          at_(shared_at),
          norms_(norms) {}

    template <class M>
    __device__ __forceinline__ void issue(M& m, int step, int slice, int tile) {
        const auto* data = static_cast<const uint16_t*>(matrix_.data);
        const int first = first_row_ + (repeats_ ? 0 : tile * kTileRows);
#pragma unroll
        for (int i = 0; i < kRowsAThread; ++i) {
            const int row = first + row_of(m, i);
#pragma unroll
            for (int part = 0; part < kParts; ++part) {
                const int column =
                    slice * kSlice + chunk_of(m) * kChunkElements + part * (kCopyBytes / 2);
                const bool inside = row < matrix_.rows && column < matrix_.width;
                m.template copy_async<kCopyBytes>(
                    chunk_at(m, step, i) + part * kCopyBytes,
                    data + (inside ? row * matrix_.stride + column : 0), inside);
            }
        }
    }

    template <class M>
    __device__ __forceinline__ void land([[maybe_unused]] M& m, [[maybe_unused]] int step) {
        if constexpr (kNorms) {
            if (counts_) add_squares(m, step);
        }
    }

    __device__ __forceinline__ uint32_t tile_at(int step) const {
        return at_ + step % kStages * kSliceBytes;
    }

    template <class M>
    __device__ __forceinline__ void finish_tile([[maybe_unused]] M& m) {
        if constexpr (kNorms) {
            if (counts_) store_norms(m);
        }
    }

  private:
    static constexpr int kRowStep = kProductThreads / kSliceChunks;
    static constexpr int kRowsAThread = kTileRows / kRowStep;
    static constexpr int kParts = kChunkBytes / kCopyBytes;

    template <class M>
    __device__ __forceinline__ void add_squares(M& m, int step) {
#pragma unroll
        for (int i = 0; i < kRowsAThread; ++i) {
            const auto mine = m.template shared_load<Vector16>(chunk_at(m, step, i));
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const FloatPair pair = m.template unpack<T>(mine.word[w]);
                squares_[i] = fmaf(pair.low, pair.low, squares_[i]);
                squares_[i] = fmaf(pair.high, pair.high, squares_[i]);
            }
        }
    }

    template <class M>
    __device__ __forceinline__ void store_norms(M& m) {
        counts_ = !repeats_;  // repeated rows keep the norms that they have
#pragma unroll
        for (int i = 0; i < kRowsAThread; ++i) {
            const float squares = quad_sum(m, squares_[i]);
            squares_[i] = 0.0f;
            if (chunk_of(m) == 0) m.shared_store(norms_ + 4 * row_of(m, i), inverse_norm(squares));
        }
    }

    template <class M>
    static __device__ __forceinline__ int row_of(M& m, int i) {
        return m.thread() / kSliceChunks + i * kRowStep;
    }
    template <class M>
    static __device__ __forceinline__ int chunk_of(M& m) {
        return m.thread() % kSliceChunks;
    }
    template <class M>
    __device__ __forceinline__ uint32_t chunk_at(M& m, int step, int i) const {
        return tile_at(step) + chunk_offset<kSliceChunks>(row_of(m, i), chunk_of(m));
    }

    const RowMatrix& matrix_;
    int first_row_;
    bool repeats_, counts_ = true;
    uint32_t at_, norms_;
    float squares_[kRowsAThread] = {};
};

// Rows of int8: a raw ring, widened to T slice by slice into two buffers. A row's scale, if it has
// one, cancels in a cosine. Always with norms.
template <class T>
class ByteRows {
  public:
    static constexpr int kAhead = kStages - 1;
    static constexpr uint32_t kRawBytes = kTileRows * kSlice;
    static constexpr uint32_t kSharedBytes = kStages * kRawBytes + 2 * kSliceBytes;

    __device__ __forceinline__ ByteRows(const RowMatrix& matrix, int first_row, bool,
                                        uint32_t shared_at, uint32_t norms)
        : matrix_(matrix), first_row_(first_row), at_(shared_at), norms_(norms) {}

    template <class M>
    __device__ __forceinline__ void issue(M& m, int step, int slice, int tile) {
        const auto* data = static_cast<const int8_t*>(matrix_.data);
        const int thread = m.thread_anew();
        const int row = first_row_ + tile * kTileRows + thread / kThreadsARow;
        const int column = slice * kSlice + thread % kThreadsARow * kBytesAThread;
        const bool inside = row < matrix_.rows && column < matrix_.width;
        m.template copy_async<16>(raw_at(m, step),
                                  data + (inside ? row * matrix_.stride + column : 0), inside);
    }

    template <class M>
    __device__ __forceinline__ void land(M& m, int step) {
        const auto bytes = m.template shared_load<Vector16>(raw_at(m, step));
        const int row = m.thread() / kThreadsARow, first = m.thread() % kThreadsARow * 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Vector16 wide;
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const uint32_t four = bytes.word[2 * half + w / 2] >> (w % 2 * 16);
                const float low = signed_byte(m, four), high = signed_byte(m, four >> 8);
                squares_ = fmaf(low, low, squares_);
                squares_ = fmaf(high, high, squares_);
                wide.word[w] = m.template pack<T>(low, high);
            }
            m.shared_store(tile_at(step) + chunk_offset<kSliceChunks>(row, first + half), wide);
        }
    }

    __device__ __forceinline__ uint32_t tile_at(int step) const {
        return at_ + kStages * kRawBytes + step % 2 * kSliceBytes;
    }

    template <class M>
    __device__ __forceinline__ void finish_tile(M& m) {
        const float squares = squares_ + m.shuffle_xor(squares_, 1);
        squares_ = 0.0f;
        if (m.thread() % kThreadsARow == 0) {
            m.shared_store(norms_ + 4 * (m.thread() / kThreadsARow), inverse_norm(squares));
        }
    }

  private:
    static constexpr int kThreadsARow = kProductThreads / kTileRows;
    static constexpr int kBytesAThread = kSlice / kThreadsARow;
    static_assert(kBytesAThread == 16, "a thread copies one chunk of a slice");

    template <class M>
    __device__ __forceinline__ uint32_t raw_at(M& m, int step) const {
        return at_ + step % kStages * kRawBytes + m.thread() * 16;
    }
    // The lowest byte as a number: 2^23 + (byte + 128) is exact, and so is the difference.
    template <class M>
    static __device__ __forceinline__ float signed_byte(M& m, uint32_t word) {
        return m.float_from_bits(0x4b000000u | ((word & 0xffu) ^ 0x80u)) - 8388736.0f;
    }

    const RowMatrix& matrix_;
    int first_row_;
    uint32_t at_, norms_;
    float squares_ = 0.0f;
};

}  // namespace clipfast::cuda
