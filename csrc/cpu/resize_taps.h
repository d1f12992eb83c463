// Weights of Pillow's 8-bit resampling: which source pixels make an output pixel, in fixed point.
//
//   scale = (end - begin) / resized;  stretch = max(scale, 1);  center = begin + (i + 0.5) * scale
//   taps k from int(center - support * stretch + 0.5) up to int(center + support * stretch + 0.5),
//   clipped to the source; weight = filter((k - center + 0.5) / stretch), normalised in float64,
//   then rounded to 22 fractional bits.   Source: Pillow 13, Resample.c (described in its
//   documentation).
#pragma once

#include <cstdint>
#include <vector>

namespace clipfast {

enum class ResizeFilter { bicubic = 0, bilinear = 1 };  // Keys' cubic with a = -0.5; triangle

constexpr int kWeightBits = 22;
constexpr int kLowBits = 12;  // weight = high * 2^12 + low, so both halves fit 16-bit multiplies

// From `begin` to `end` of `source` pixels, 0 <= begin < end <= source, become `resized`, of which
// [start, start + length) are kept.
struct ResizeAxis {
    std::int64_t source;
    double begin, end;
    std::int64_t resized, start, length;

    bool changes() const { return begin != 0.0 || end != static_cast<double>(resized); }
};

// The taps of consecutive outputs; each output has `padded` weights, zeros after its own.
struct Taps {
    std::int64_t outputs = 0, padded = 0;
    std::vector<std::int64_t> first;      // (outputs,) source pixel of the first tap
    std::vector<std::int64_t> counts;     // (outputs,)
    std::vector<std::int32_t> weights;    // (outputs, padded)
    std::vector<std::int16_t> high, low;  // (outputs, padded), low in [0, 2^12)

    std::int64_t begin() const { return first.front(); }
    std::int64_t end() const { return first.back() + counts.back(); }
};

// Largest number of taps of one output.
std::int64_t max_taps(const ResizeAxis& axis, ResizeFilter filter);

// The source pixels that the kept outputs read: [begin, end).
void source_range(const ResizeAxis& axis, ResizeFilter filter, std::int64_t* begin,
                  std::int64_t* end);

// Taps of the kept outputs [from, to), 0 <= from < to <= axis.length; padded is a multiple of 8.
Taps make_taps(const ResizeAxis& axis, ResizeFilter filter, std::int64_t from, std::int64_t to);

}  // namespace clipfast
