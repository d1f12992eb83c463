// What is around the product with the patch weights: the patches of byte images, a row each, and
// the tokens that their embeddings become.
//
//   patches   out[(b, y, x)][(c, i, j)] = pixels[b][c][y P + i][x P + j]
//   tokens    out[(b, 0)] = class_row;  out[(b, 1 + i)] = embedded[(b, i)] + positions[i]
//
// Every byte is exact in float32, float16 and bfloat16; sums are rounded once. Bound by bandwidth.
#pragma once

#include <cstdint>

#include "cpu/cpu_features.h"
#include "cpu/typed_matrix.h"

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

struct TokensProblem {
    TypedMatrix embedded;   // (images * patches, width)
    TypedMatrix class_row;  // (1, width)
    TypedMatrix positions;  // (patches, width)
    TypedMatrix out;        // (images * (1 + patches), width); written
    std::int64_t width;
    Isa isa;
    int threads;
};

void patches(const PatchesProblem& problem);
void tokens(const TokensProblem& problem);

}  // namespace clipfast
