// One image at a time, one pass after the other; threads are the caller's.

#include "cpu/resize.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "cpu/resize_passes.h"

namespace clipfast {
namespace {

// Taps made at once: bounds their memory to about 20 MB where a side is very long.
constexpr std::int64_t kMaxTaps = 1 << 20;

std::int64_t padded_stride(std::int64_t bytes) { return (bytes + kReadSlack + 63) / 64 * 64; }

struct Buffer {
    std::unique_ptr<std::uint8_t[]> bytes;
    std::int64_t stride = 0, rows = 0;

    Buffer(std::int64_t row_bytes, std::int64_t row_count)
        : stride(padded_stride(row_bytes)), rows(row_count) {
        bytes.reset(new std::uint8_t[stride * rows + kReadSlack]);
    }
    PixelRows view() const { return {bytes.get(), stride, rows, stride * rows + kReadSlack}; }
};

// Taps of a whole axis, in blocks of outputs that stay within kMaxTaps.
class AxisTaps {
  public:
    AxisTaps(const ResizeAxis& axis, ResizeFilter filter) : axis_(axis), filter_(filter) {
        source_range(axis, filter, &begin, &end);
        if (!axis.changes()) return;
        block_ = std::clamp<std::int64_t>(kMaxTaps / max_taps(axis, filter), 1, axis.length);
        if (block_ == axis.length) whole_ = make_taps(axis, filter, 0, axis.length);
    }

    // Calls pass(taps, first output) for each block.
    template <class Pass>
    void for_each(const Pass& pass) const {
        if (block_ == axis_.length) return pass(whole_, 0);
        for (std::int64_t from = 0; from < axis_.length; from += block_)
            pass(make_taps(axis_, filter_, from, std::min(from + block_, axis_.length)), from);
    }

    bool changes() const { return axis_.changes(); }
    std::int64_t length() const { return axis_.length; }

    std::int64_t begin = 0, end = 0;  // source pixels that are read

  private:
    ResizeAxis axis_;
    ResizeFilter filter_;
    std::int64_t block_ = 0;
    Taps whole_;
};

class Resizer {
  public:
    Resizer(const ResizeJob& job, Isa isa)
        : job_(job),
          passes_(resize_passes(isa)),
          horizontal_(job.horizontal, job.filter),
          vertical_(job.vertical, job.filter),
          middle_(job.vertical_first ? (horizontal_.end - horizontal_.begin) * job.channels
                                     : horizontal_.length() * job.channels,
                  job.vertical_first ? vertical_.length() : vertical_.end - vertical_.begin),
          result_(horizontal_.length() * job.channels, vertical_.length()) {}

    void run(const std::uint8_t* pixels, std::uint8_t* out) {
        const std::int64_t c = job_.channels;
        const std::int64_t offset = vertical_.begin * job_.row_stride + horizontal_.begin * c;
        const std::int64_t size =
            (job_.vertical.source - 1) * job_.row_stride + job_.horizontal.source * c;
        const PixelRows region = {pixels + offset, job_.row_stride, vertical_.end - vertical_.begin,
                                  size - offset};
        if (job_.vertical_first)
            write(across(down(region, (horizontal_.end - horizontal_.begin) * c, middle_), result_),
                  out);
        else
            write(down(across(region, middle_), horizontal_.length() * c, result_), out);
    }

  private:
    PixelRows across(const PixelRows& in, Buffer& buffer) const {
        if (!horizontal_.changes()) return in;
        const std::int64_t c = job_.channels;
        const auto pass = passes_.horizontal[c == 3];
        // The last rows are copied where a kernel would read past the end of the image.
        const std::int64_t row_bytes = (horizontal_.end - horizontal_.begin) * c;
        std::int64_t safe = in.rows;
        while (safe > 0 && (safe - 1) * in.stride + row_bytes + kReadSlack > in.readable) --safe;
        Buffer tail(row_bytes, in.rows - safe);
        for (std::int64_t i = safe; i < in.rows; ++i)
            std::memcpy(tail.bytes.get() + (i - safe) * tail.stride, in.row(i), row_bytes);
        horizontal_.for_each([&](const Taps& taps, std::int64_t from) {
            std::uint8_t* out = buffer.bytes.get() + from * c;
            const PixelRows head = {in.data, in.stride, safe, in.readable};
            pass(head, horizontal_.begin, taps, out, buffer.stride);
            pass(tail.view(), horizontal_.begin, taps, out + safe * buffer.stride, buffer.stride);
        });
        return buffer.view();
    }

    PixelRows down(const PixelRows& in, std::int64_t bytes, Buffer& buffer) const {
        if (!vertical_.changes()) return in;
        vertical_.for_each([&](const Taps& taps, std::int64_t from) {
            passes_.vertical(in, vertical_.begin, taps, bytes,
                             buffer.bytes.get() + from * buffer.stride, buffer.stride);
        });
        return buffer.view();
    }

    void write(const PixelRows& rows, std::uint8_t* out) const {
        const std::int64_t height = vertical_.length(), width = horizontal_.length();
        const std::int64_t plane = height * width;
        for (std::int64_t y = 0; y < height; ++y) {
            const std::uint8_t* row = rows.row(y);
            std::uint8_t* target = out + y * width * (job_.planar ? 1 : 3);
            if (job_.channels == 3 && job_.planar) {
                passes_.split(row, width, target, plane);
            } else if (job_.channels == 3) {
                std::memcpy(target, row, 3 * width);
            } else if (job_.planar) {
                for (int channel = 0; channel < 3; ++channel)
                    std::memcpy(target + channel * plane, row, width);
            } else {
                for (std::int64_t x = 0; x < width; ++x) std::memset(target + 3 * x, row[x], 3);
            }
        }
    }

    const ResizeJob& job_;
    const ResizePasses& passes_;
    AxisTaps horizontal_, vertical_;
    Buffer middle_, result_;
};

}  // namespace

void resize_crop(const ResizeJob& job, Isa isa) {
    if (job.count == 0) return;
    Resizer resizer(job, isa);
    for (std::int64_t i = 0; i < job.count; ++i)
        resizer.run(job.pixels + i * job.image_stride, job.out + i * job.out_stride);
}

}  // namespace clipfast
