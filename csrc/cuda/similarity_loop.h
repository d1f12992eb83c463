// p = softmax over the gallery of scale * cos(query, row): one scan that writes logits and, for
// each row and slice, the largest logit and the sum of exponentials relative to it; then one pass
// over the logits.
#pragma once

#include "cuda/scan_loop.h"

namespace clipfast::cuda {

// Of the epilogue: a pair for each row and each of four warps that share it.
constexpr uint32_t kSoftmaxSharedBytes = kTileRows * 4 * sizeof(FloatPair);

// (largest, sum) of two sets of exponentials.
template <class M>
__device__ __forceinline__ FloatPair join(M& m, FloatPair a, FloatPair b) {
    const float largest = fmaxf(a.low, b.low);
    if (largest == -INFINITY) return {largest, 0.0f};
    return {largest, a.high * m.exp2((a.low - largest) * kLog2E) +
                         b.high * m.exp2((b.low - largest) * kLog2E)};
}

template <class M>
class SoftmaxEpilogue {
  public:
    static constexpr uint32_t kSharedBytes =
        4 * kTileRows * 8;  // a pair for each row and warp column

    __device__ __forceinline__ SoftmaxEpilogue(M& m, const SimilarityParams& p, int slice,
                                               int query_tile, int first_tile, uint32_t query_norms,
                                               uint32_t gallery_norms, uint32_t shared_at)
        : logits_(p.logits + static_cast<int64_t>(query_tile) * kTileRows * p.cosines.gallery.rows),
          partials_(p.partials +
                    (static_cast<int64_t>(slice) * p.cosines.query_tiles + query_tile) * kTileRows),
          scale_(p.scale),
          queries_(min(kTileRows, p.cosines.queries.rows - query_tile * kTileRows)),
          gallery_rows_(p.cosines.gallery.rows),
          first_tile_(first_tile),
          query_norms_(query_norms),
          gallery_norms_(gallery_norms),
          shared_at_(shared_at) {
#pragma unroll
        for (FloatPair& row : rows_) row = {-INFINITY, 0.0f};
        (void)m;
    }

    __device__ __forceinline__ void take(M& m, int tile, Accumulator& sum) {
        m.sync();  // the norms
        const int thread = m.thread_anew();
        const int first_row = first_row_of(thread), first_column = first_column_of(thread);
        const int gallery_row = (first_tile_ + tile) * kTileRows + first_column;
#pragma unroll
        for (int r = 0; r < 2 * kWarpRowTiles; ++r) {
            const int row = first_row + 16 * (r / 2) + 8 * (r % 2);
            if (row >= queries_) continue;
            const float query_norm = m.template shared_load<float>(query_norms_ + 4 * row) * scale_;
            float* out = logits_ + static_cast<int64_t>(row) * gallery_rows_ + gallery_row;
            float largest = rows_[r].low;
#pragma unroll
            for (int c = 0; c < 2 * kWarpColumnTiles; ++c) {
                const int column = 8 * (c / 2) + c % 2;
                const bool exists = gallery_row + column < gallery_rows_;
                float& logit = sum.at[r / 2][c / 2][2 * (r % 2) + c % 2];
                logit = logit * query_norm *
                        m.template shared_load<float>(gallery_norms_ + 4 * (first_column + column));
                if (exists) m.store(out + column, logit);
                if (!exists) logit = -INFINITY;
                largest = fmaxf(largest, logit);
            }
            if (largest == -INFINITY) continue;
            float total = rows_[r].high * m.exp2((rows_[r].low - largest) * kLog2E);
#pragma unroll
            for (int c = 0; c < 2 * kWarpColumnTiles; ++c) {
                const float logit = sum.at[r / 2][c / 2][2 * (r % 2) + c % 2];
                total += m.exp2((logit - largest) * kLog2E);
            }
            rows_[r] = {largest, total};
        }
    }

    // Joins the threads' parts of each row, in one order, and stores them.
    __device__ __forceinline__ void finish(M& m) {
        const int first_row = first_row_of(m.thread()), warp_column = m.thread() >> 5 & 3;
#pragma unroll
        for (int r = 0; r < 2 * kWarpRowTiles; ++r) {
            FloatPair row = rows_[r];
#pragma unroll
            for (int mask = 1; mask < 4; mask <<= 1) {
                row = join(m, row, {m.shuffle_xor(row.low, mask), m.shuffle_xor(row.high, mask)});
            }
            if ((m.thread() & 3) == 0) {
                const int at = first_row + 16 * (r / 2) + 8 * (r % 2);
                m.shared_store(shared_at_ + 8 * (at * 4 + warp_column), row);
            }
        }
        m.sync();
        for (int row = m.thread(); row < queries_; row += m.threads()) {
            FloatPair whole = {-INFINITY, 0.0f};
            for (int part = 0; part < 4; ++part) {
                whole = join(m, whole,
                             m.template shared_load<FloatPair>(shared_at_ + 8 * (row * 4 + part)));
            }
            m.store(partials_ + row, whole);
        }
    }

  private:
    float* logits_;
    FloatPair* partials_;
    float scale_;
    int queries_, gallery_rows_, first_tile_;
    uint32_t query_norms_, gallery_norms_, shared_at_;
    FloatPair rows_[2 * kWarpRowTiles];
};

template <class M, class T, class Gallery>
__device__ __forceinline__ void scan_similarity(M& m, const SimilarityParams& p) {
    scan_gallery<M, T, Gallery, SoftmaxEpilogue<M>>(m, p);
}

// Block: query, then kRescaleColumns of its logits.
template <class M>
__device__ __forceinline__ void rescale_logits(M& m, const SimilarityParams& p) {
    const int columns = p.cosines.gallery.rows, parts = divide_up(columns, kRescaleColumns);
    const int query = m.block_x() / parts, part = m.block_x() % parts;
    FloatPair whole = {-INFINITY, 0.0f};
    for (int slice = 0; slice < p.cosines.slices; ++slice) {
        const int64_t at = static_cast<int64_t>(slice) * p.cosines.query_tiles * kTileRows + query;
        whole = join(m, whole, m.load(p.partials + at));
    }
    const float share = 1.0f / whole.high;
    float* row = p.logits + static_cast<int64_t>(query) * columns;
    const int end = min(columns, (part + 1) * kRescaleColumns);
    for (int i = part * kRescaleColumns + m.thread(); i < end; i += m.threads()) {
        m.store(row + i, m.exp2((m.load_written(row + i) - whole.low) * kLog2E) * share);
    }
}

}  // namespace clipfast::cuda
