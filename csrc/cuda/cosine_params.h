// What similarity and top-k are asked for, and how the gallery is shared out. Plain C++: tests run
// it anywhere.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/element.h"

namespace clipfast::cuda {

// (rows, width), unit stride in the last axis; `stride` in elements. Rows beyond `rows` and columns
// beyond `width` count as zeros.
struct RowMatrix {
    const void* data;
    int64_t stride;
    int32_t rows, width;
};

// Cosines of every query to every gallery row. Blocks: slice, then tile of 128 queries; a slice is
// consecutive tiles of 128 gallery rows, so that the blocks of one slice read the same rows at
// about the same time.
struct CosineParams {
    RowMatrix queries, gallery;
    int32_t query_tiles, slices;
};

// candidates: (slices, query_tiles * 128, capacity) keys, written by the scan and read by the
// merge.
struct TopKParams {
    CosineParams cosines;
    uint64_t* candidates;
    float* scores;     // (queries, k), descending
    int64_t* indices;  // (queries, k)
    int32_t k, capacity;
};

// logits: (queries, gallery) fp32, in the end the probabilities. partials: (slices, query_tiles *
// 128) pairs of the largest logit and the sum of exponentials relative to it.
struct SimilarityParams {
    CosineParams cosines;
    float* logits;
    FloatPair* partials;
    float scale;
};

constexpr int kMaxK = 128;
constexpr int kRescaleThreads = 256, kRescaleColumns = 4096;
constexpr int kCosineBlocksPerMultiprocessor = 2;

// Candidates kept per query: room for k and at least as many more, in whole warps.
constexpr int kMostCandidates = 256;
constexpr int candidate_capacity(int k) {
    return k <= 16 ? 32 : k <= 32 ? 64 : k <= 64 ? 128 : 256;
}

static_assert(candidate_capacity(kMaxK) == kMostCandidates, "a warp sorts them in registers");

// Blocks of the pass over the logits: each takes kRescaleColumns of a query.
inline int64_t rescale_blocks(const CosineParams& params) {
    return int64_t{params.queries.rows} *
           ((params.gallery.rows + kRescaleColumns - 1) / kRescaleColumns);
}

// Tiles of both sides, and slices enough for one wave of blocks.
inline void share_gallery(CosineParams& params, int multiprocessors) {
    const int tiles = (params.gallery.rows + 127) / 128;
    params.query_tiles = (params.queries.rows + 127) / 128;
    const int wave = multiprocessors * kCosineBlocksPerMultiprocessor;
    params.slices = std::clamp(wave / std::max(1, params.query_tiles), 1, std::max(1, tiles));
}

}  // namespace clipfast::cuda
