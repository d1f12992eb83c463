// The passes of a separable 8-bit resize, one table of functions per instruction set.
//
//   out[i] = clip((2^21 + sum_k weight[i, k] * in[first[i] + k]) >> 22, 0, 255)
//
// Accumulator: int32, as in Pillow; sums wrap at most inside it, so every order gives the same
// bits. Bound by multiply-adds: taps * 2 16-bit multiplies (high and low half of the weight) a
// byte.
#pragma once

#include <cstdint>

#include "cpu/cpu_features.h"
#include "cpu/resize_taps.h"

namespace clipfast {

// Row i begins at data + i * stride. `readable`: bytes from data on that may be read.
struct PixelRows {
    const std::uint8_t* data;
    std::int64_t stride, rows, readable;

    const std::uint8_t* row(std::int64_t i) const { return data + i * stride; }
};

constexpr std::int64_t kReadSlack = 64;  // bytes that kernels may read or write past a row's end

struct ResizePasses {
    // Along a row, for every row of `in`; pixel `origin` of the source is the first byte of a row.
    // out: rows of taps.outputs pixels, kReadSlack writable bytes after each (the next row's
    // count).
    void (*horizontal[2])(const PixelRows& in, std::int64_t origin, const Taps& taps,
                          std::uint8_t* out, std::int64_t out_stride);
    // Down the columns: taps.outputs rows of `bytes` bytes; source row `origin` is row 0 of `in`.
    void (*vertical)(const PixelRows& in, std::int64_t origin, const Taps& taps, std::int64_t bytes,
                     std::uint8_t* out, std::int64_t out_stride);
    // size RGB pixels to three planes `plane` bytes apart. Reads no further than the pixels.
    void (*split)(const std::uint8_t* rgb, std::int64_t size, std::uint8_t* red,
                  std::int64_t plane);
};

// horizontal[0] is for 1 channel, horizontal[1] for 3.
const ResizePasses& resize_passes(Isa isa);

}  // namespace clipfast
