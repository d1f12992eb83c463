// One pass of the gallery under a tile of queries: what similarity and top-k share.
#pragma once

#include "cuda/operand_loop.h"

namespace clipfast::cuda {

// The gallery tiles of one slice.
struct SliceTiles {
    int first, count;

    __device__ __forceinline__ SliceTiles(const CosineParams& p, int slice) {
        const int64_t tiles = divide_up(p.gallery.rows, kTileRows);
        first = static_cast<int>(tiles * slice / p.slices);
        count = static_cast<int>(tiles * (slice + 1) / p.slices) - first;
    }
};

// Shared memory of a scan: both operands, their norms, and what the epilogue keeps.
template <class Gallery>
constexpr uint32_t scan_shared_bytes(uint32_t epilogue_bytes) {
    return kStages * kSliceBytes + Gallery::kSharedBytes + 2 * 4 * kTileRows + epilogue_bytes;
}

// One block: 128 queries against one slice of the gallery. The epilogue takes each tile of
// products, and finishes.
template <class M, class T, class Gallery, class Epilogue, class Params>
__device__ __forceinline__ void scan_gallery(M& m, const Params& p) {
    using Queries = ElementRows<T, 16, true>;
    constexpr uint32_t kGallery = Queries::kSharedBytes;
    constexpr uint32_t kQueryNorms = kGallery + Gallery::kSharedBytes;
    constexpr uint32_t kGalleryNorms = kQueryNorms + 4 * kTileRows;
    const CosineParams& c = p.cosines;
    const int query_tile = m.block_x() % c.query_tiles, slice = m.block_x() / c.query_tiles;
    const SliceTiles tiles(c, slice);
    Queries queries(c.queries, query_tile * kTileRows, true, 0, kQueryNorms);
    Gallery gallery(c.gallery, tiles.first * kTileRows, false, kGallery, kGalleryNorms);
    Epilogue epilogue(m, p, slice, query_tile, tiles.first, kQueryNorms, kGalleryNorms,
                      kGalleryNorms + 4 * kTileRows);
    multiply_tiles<M, T>(m, queries, gallery, tiles.count, divide_up(c.queries.width, kSlice),
                         epilogue);
    m.sync();
    epilogue.finish(m);
}

}  // namespace clipfast::cuda
