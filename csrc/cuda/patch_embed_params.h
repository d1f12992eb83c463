// What the patch embedding is asked for. Plain C++.
#pragma once

#include <cstdint>

#include "cuda/cosine_params.h"

namespace clipfast::cuda {

// Numbers in the weights' type, or in fp32 when `wide`. Null data: zeros.
struct Numbers {
    const void* data;
    bool wide;
};

// pixels: (images, 3, R, R) uint8 with unit stride in the last axis, strides in bytes. weight: (D,
// 3 P^2). bias, class_row: (D,). positions: (grid^2, D) contiguous. out: (images, 1 + grid^2, D)
// contiguous, 16-byte aligned.
struct PatchEmbedParams {
    const uint8_t* pixels;
    int64_t image_stride;
    int32_t channel_stride, row_stride;
    int32_t images, grid;
    RowMatrix weight;
    Numbers bias, class_row, positions;
    uint16_t* out;
};

constexpr int kPatchBlocksPerMultiprocessor = 2;

inline int64_t patch_embed_blocks(const PatchEmbedParams& p) {
    const int64_t rows = int64_t{p.images} * p.grid * p.grid;
    return (rows + 127) / 128 * ((p.weight.rows + 127) / 128);
}

}  // namespace clipfast::cuda
