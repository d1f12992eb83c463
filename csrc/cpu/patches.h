// The patches of byte images, one row each, ready for the product with the patch weights.
//
//   out[(b, y, x)][(c, i, j)] = pixels[b][c][y P + i][x P + j]
//
// Every byte is exact in float32, float16 and bfloat16. Bound by bandwidth.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"

namespace clipfast {

struct PatchesProblem {
    const std::uint8_t* pixels;
    std::int64_t images, image_stride, channel_stride, row_stride;  // the last axis has stride 1
    std::int64_t grid;                                              // patches a side
    std::int64_t patch;                                             // pixels a side of a patch
    Matrix out;  // (images * grid^2, 3 * patch^2); written
    Dtype dtype;
    int threads;
};

void patches(const PatchesProblem& problem);

}  // namespace clipfast
