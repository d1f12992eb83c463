// The k largest cosines of each query: one scan of the gallery that keeps candidates, then a merge
// of the slices' lists.
//
// A candidate is a 64-bit key: the score's bits in an order that integers have, then the complement
// of the row's index, so that larger is better and the lower index wins a tie. A score is compared
// with its row's threshold, the k-th best when the row's candidates were last sorted, in a
// register; what may still be among the best is appended in any order and sorted when the row is
// full. Keys are distinct and only keys below k others are dropped, so the result does not depend
// on the order in which threads append.
#pragma once

#include "cuda/scan_loop.h"

namespace clipfast::cuda {

constexpr uint64_t kNoKey = 0;

// NaN below every number; both zeros alike.
template <class M>
__device__ __forceinline__ uint64_t make_key(M& m, float score, uint32_t index) {
    const uint32_t bits = m.bits_of(score + 0.0f);
    uint32_t order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    if (score != score) order = 0;
    return static_cast<uint64_t>(order) << 32 | (0xffffffffu - index);
}
template <class M>
__device__ __forceinline__ float score_of_key(M& m, uint64_t key) {
    const auto order = static_cast<uint32_t>(key >> 32);
    if (order == 0) return m.float_from_bits(0x7fffffffu);
    return m.float_from_bits(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}
__device__ __forceinline__ uint32_t index_of_key(uint64_t key) {
    return 0xffffffffu - static_cast<uint32_t>(key);
}

// Sorts the first `count` candidates of a row, descending, and keeps k of them (kNoKey where there
// are fewer), by a whole warp: a candidate's place is the number of better ones. `copy_at`: room
// for the candidates. The k-th, if there is one, goes to `threshold_at`.
template <class M>
__device__ __forceinline__ void keep_best(M& m, uint64_t* row, int count, int k, uint32_t copy_at,
                                          uint32_t threshold_at) {
    const int lane = m.thread() & 31;
    for (int i = lane; i < count; i += 32) m.shared_store(copy_at + 8 * i, m.load_written(row + i));
    m.sync_warp();
    for (int i = lane; i < count; i += 32) {
        const auto mine = m.template shared_load<uint64_t>(copy_at + 8 * i);
        int place = 0;
        for (int j = 0; j < count; ++j) {
            place += m.template shared_load<uint64_t>(copy_at + 8 * j) > mine;
        }
        if (place < k) m.store(row + place, mine);
        if (place == k - 1) m.shared_store(threshold_at, mine);
    }
    for (int i = count + lane; i < k; i += 32) m.store(row + i, kNoKey);
    m.sync_warp();
}

// A score of the tile that reached its row's threshold.
struct alignas(8) Hit {
    float score;
    int32_t position;  // row * 128 + column in the tile, or kDone
};

constexpr int kHits = 512, kDone = -1;

// Shared memory of the epilogue: thresholds and counts of 128 rows, hits and their number, and
// candidates of one row for each warp.
constexpr uint32_t top_k_shared_bytes(int capacity) {
    return kTileRows * (8 + 4) + kHits * sizeof(Hit) + 8 + kProductThreads / 32 * capacity * 8;
}

// The epilogue of the scan. Shared memory: norms of queries and gallery rows, then kSharedBytes of
// its own.
template <class M>
class TopKEpilogue {
  public:
    __device__ __forceinline__ TopKEpilogue(M& m, const TopKParams& p, int slice, int query_tile,
                                            int first_tile, uint32_t query_norms,
                                            uint32_t gallery_norms, uint32_t shared_at)
        : candidates_(p.candidates +
                      (static_cast<int64_t>(slice) * p.cosines.query_tiles + query_tile) *
                          kTileRows * p.capacity),
          k_(p.k),
          capacity_(p.capacity),
          queries_(min(kTileRows, p.cosines.queries.rows - query_tile * kTileRows)),
          gallery_rows_(p.cosines.gallery.rows),
          first_tile_(first_tile),
          query_norms_(query_norms),
          gallery_norms_(gallery_norms),
          thresholds_(shared_at),
          counts_(thresholds_ + 8 * kTileRows),
          hits_(counts_ + 4 * kTileRows),
          hit_count_(hits_ + kHits * sizeof(Hit)),
          copies_(hit_count_ + 8) {
        for (int row = m.thread(); row < kTileRows; row += m.threads()) {
            m.shared_store(thresholds_ + 8 * row, kNoKey);
            m.shared_store(counts_ + 4 * row, 0);
        }
        if (m.thread() == 0) m.shared_store(hit_count_, 0);
#pragma unroll
        for (float& least : least_) least = -INFINITY;
    }

    __device__ __forceinline__ void take(M& m, int tile, Accumulator& sum) {
        m.sync();  // the norms
        const int thread = m.thread_anew();
        const int first_row = first_row_of(thread), first_column = first_column_of(thread);
        const int gallery_row = (first_tile_ + tile) * kTileRows;
        uint32_t pending[2] = {};
#pragma unroll
        for (int r = 0; r < 2 * kWarpRowTiles; ++r) {
            const int row = first_row + 16 * (r / 2) + 8 * (r % 2);
            if (row >= queries_) continue;
            pending[r / 4] |= scale_and_compare(m, sum, r, row, first_column,
                                                gallery_rows_ - gallery_row - first_column)
                              << (r % 4 * 8);
        }
        while (m.sync_or((pending[0] | pending[1]) != 0)) {
            hand_over(m, sum, pending);
            m.sync();
            place_hits(m, gallery_row);
            if (m.thread() == 0) m.shared_store(hit_count_, 0);
#pragma unroll
            for (int r = 0; r < 2 * kWarpRowTiles; ++r) {
                const auto key = m.template shared_load<uint64_t>(
                    thresholds_ + 8 * (first_row + 16 * (r / 2) + 8 * (r % 2)));
                least_[r] = key == kNoKey ? -INFINITY : score_of_key(m, key);
            }
        }
    }

    // Leaves each row's best candidates sorted, k of them, kNoKey where there are fewer.
    __device__ __forceinline__ void finish(M& m) { sort_rows(m, 0); }

  private:
    // Turns the products of the thread's r-th row into cosines and returns which of the first
    // `columns` columns reach its threshold, a bit each. A NaN passes: its key decides.
    __device__ __forceinline__ uint32_t scale_and_compare(M& m, Accumulator& sum, int r, int row,
                                                          int first_column, int columns) {
        const auto query_norm = m.template shared_load<float>(query_norms_ + 4 * row);
        uint32_t passed = 0;
#pragma unroll
        for (int c = 0; c < 2 * kWarpColumnTiles; ++c) {
            const int column = 8 * (c / 2) + c % 2;
            float& score = sum.at[r / 2][c / 2][2 * (r % 2) + c % 2];
            score = score * query_norm *
                    m.template shared_load<float>(gallery_norms_ + 4 * (first_column + column));
            if (column < columns && !(score < least_[r])) passed |= 1u << c;
        }
        return passed;
    }

    // Lists pending scores as hits, as many as there is room for.
    __device__ __forceinline__ void hand_over(M& m, const Accumulator& sum,
                                              uint32_t (&pending)[2]) {
        const int thread = m.thread_anew();
        const int first_position = first_row_of(thread) * kTileRows + first_column_of(thread);
#pragma unroll
        for (int bit = 0; bit < 64; ++bit) {
            const int r = bit / 8, c = bit % 8;
            if (!(pending[bit / 32] >> (bit % 32) & 1)) continue;
            const int slot = m.shared_increment(hit_count_);
            if (slot >= kHits) continue;
            const int offset = (16 * (r / 2) + 8 * (r % 2)) * kTileRows + 8 * (c / 2) + c % 2;
            m.shared_store(hits_ + slot * sizeof(Hit),
                           Hit{sum.at[r / 2][c / 2][2 * (r % 2) + c % 2], first_position + offset});
            pending[bit / 32] &= ~(1u << bit % 32);
        }
    }

    // Appends each hit that beats its row's threshold to the row's candidates; full rows are sorted
    // between rounds.
    __device__ __forceinline__ void place_hits(M& m, int gallery_row) {
        const int hits = min(m.template shared_load<int>(hit_count_), kHits);
        bool again;
        do {
            again = false;
            for (int i = m.thread(); i < hits; i += m.threads()) {
                const auto hit = m.template shared_load<Hit>(hits_ + i * sizeof(Hit));
                if (hit.position == kDone) continue;
                const int row = hit.position / kTileRows, column = hit.position % kTileRows;
                const uint64_t key =
                    make_key(m, hit.score, static_cast<uint32_t>(gallery_row + column));
                if (key > m.template shared_load<uint64_t>(thresholds_ + 8 * row)) {
                    const int slot = m.shared_increment(counts_ + 4 * row);
                    if (slot >= capacity_) {
                        again = true;
                        continue;
                    }
                    m.store(candidates_ + row * capacity_ + slot, key);
                }
                m.shared_store(hits_ + i * sizeof(Hit), Hit{0.0f, kDone});
            }
            m.sync();
            sort_rows(m, capacity_);
        } while (m.sync_or(again));
    }

    // Sorts the rows that hold `least` candidates or more, a warp each.
    __device__ __forceinline__ void sort_rows(M& m, int least) {
        const int warp = m.thread() >> 5;
        const uint32_t copy_at = copies_ + warp * capacity_ * 8;
        for (int row = warp; row < queries_; row += m.threads() >> 5) {
            const int count = min(m.template shared_load<int>(counts_ + 4 * row), capacity_);
            if (count < least) continue;
            keep_best(m, candidates_ + row * capacity_, count, k_, copy_at, thresholds_ + 8 * row);
            if ((m.thread() & 31) == 0) m.shared_store(counts_ + 4 * row, min(count, k_));
        }
    }

    uint64_t* candidates_;
    int k_, capacity_, queries_, gallery_rows_, first_tile_;
    uint32_t query_norms_, gallery_norms_, thresholds_, counts_, hits_, hit_count_, copies_;
    float least_[2 * kWarpRowTiles];  // of the thread's rows: 16 i + g, then 16 i + g + 8
};

template <class M, class T, class Gallery>
__device__ __forceinline__ void scan_top_k(M& m, const TopKParams& p) {
    scan_gallery<M, T, Gallery, TopKEpilogue<M>>(m, p);
}

// One warp a query: takes the best head of the slices' sorted lists, k times. Shared memory: a
// cursor for each slice.
template <class M>
__device__ __forceinline__ void merge_top_k(M& m, const TopKParams& p) {
    const int query = m.block_x(), lane = m.thread() & 31;
    const int64_t slice_stride =
        static_cast<int64_t>(p.cosines.query_tiles) * kTileRows * p.capacity;
    const uint64_t* lists = p.candidates + static_cast<int64_t>(query) * p.capacity;
    for (int slice = lane; slice < p.cosines.slices; slice += 32) m.shared_store(4 * slice, 0);
    for (int place = 0; place < p.k; ++place) {
        uint64_t best = kNoKey;
        int owner = 0;
        for (int slice = lane; slice < p.cosines.slices; slice += 32) {
            const int cursor = m.template shared_load<int>(4 * slice);
            const uint64_t head =
                cursor < p.k ? m.load(lists + slice * slice_stride + cursor) : kNoKey;
            if (head > best) {
                best = head;
                owner = slice;
            }
        }
        uint64_t winner = best;
#pragma unroll
        for (int mask = 16; mask > 0; mask >>= 1) {
            const uint64_t other = m.shuffle_xor(winner, mask);
            winner = other > winner ? other : winner;
        }
        if (best == winner && best != kNoKey)
            m.shared_store(4 * owner, m.template shared_load<int>(4 * owner) + 1);
        if (lane == 0) {
            const int64_t at = static_cast<int64_t>(query) * p.k + place;
            m.store(p.scores + at, score_of_key(m, winner));
            m.store(p.indices + at, static_cast<int64_t>(index_of_key(winner)));
        }
    }
}

}  // namespace clipfast::cuda
