// out = softmax(q k^T) v for tiles of 16 query rows a warp, on tensor cores, over a machine.
//
//   S (16 x keys) = Q K^T;  P = 2^((S - max) log2 e);  O = (P V) / sum P    # the scale is in Q
//
// Scores, statistics and sums are fp32; P is rounded to the storage type, unnormalised. Keys are
// scored in eights and weighed in sixteens (a last eight by m16n8k8), so 50, 197 and 257 keys cost
// 56, 200 and 264. Every query row is computed alone and in one order: its bits do not depend on
// the batch, the number of warps, or the row blocks. Source: Vaswani et al. 2017, arXiv:1706.03762,
// equation 1; running softmax: Milakov & Gimelshein 2018, arXiv:1805.02867.
#pragma once

#include "cuda/attention_tile.h"
#include "cuda/single_query_loop.h"

namespace clipfast::cuda {

// K and V whole in shared memory, one maximum and one sum a row.
template <class M, class T, int kHeadDim, int kKeyTiles>
__device__ __forceinline__ void attend_resident(M& m, const AttentionParams& p,
                                                const AttentionPlan& plan) {
    constexpr int kChunks = kHeadDim / kChunkElements;
    constexpr uint32_t kTileBytes = 8 * kChunks * kChunkBytes;
    constexpr uint32_t kKeys = 0, kValues = kKeyTiles * kTileBytes, kScratch = 2 * kValues;
    // Eights of keys are scored in fours, whose products run side by side between two branches; in
    // twos where 128 registers hold no more.
    constexpr int kGroups = kKeyTiles == 10 ? 5 : (kKeyTiles + 2) / 4;
    const DenseBlock block(m.block_x(), p.heads, plan.row_blocks + (plan.query_block > 0));
    const Head head = find_head(m, p, kHeadDim, block.sequence, block.head);

    copy_rows<M, kChunks>(m, m.thread(), m.threads(), kKeys, head.query + head.width, head.stride,
                          0, kKeyTiles * 8, head.rows);
    m.commit_copies();
    copy_rows<M, kChunks>(m, m.thread(), m.threads(), kValues, head.query + 2 * head.width,
                          head.stride, 0, kKeyTiles * 8, head.rows);
    m.commit_copies();

    const int warp = m.thread() >> 5, warps = m.threads() >> 5;
    const Rounds rounds(head.rows - plan.first_row, warps, block.row_block, plan.row_blocks);
    const int visible[2] = {head.rows, head.rows};
    for (int round = rounds.first; round < rounds.end; ++round) {
        const int first_row = plan.first_row + (round * warps + warp) * kRowTile;
        uint32_t q[kChunks][2];
        load_queries<M, kChunks>(m, head, first_row, q);
        if (round == rounds.first) {
            m.template wait_copies<1>();
            m.sync();
        }
        float s[kKeyTiles][4];
        float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
            const int first = kKeyTiles * group / kGroups, end = kKeyTiles * (group + 1) / kGroups;
            score_eights<M, T, kChunks>(m, q, kKeys, first, end, s);
            if (end * 8 > head.rows) mask_eights(m, first, end, visible, s);
            find_largest(first, end, s, largest);
        }
        if (round == rounds.first) {
            m.template wait_copies<0>();
            m.sync();
        }
        float total[2] = {};
        uint32_t weights[kKeyTiles][2];
#pragma unroll
        for (int half = 0; half < 2; ++half) largest[half] = quad_max(m, largest[half]) * kLog2E;
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
            exponentiate<M, T>(m, s[n], largest, weights[n], total);
        }
        float o[kChunks][4] = {};
#pragma unroll
        for (int n = 0; n + 2 <= kKeyTiles; n += 2) {
            weigh_sixteen_values<M, T, kChunks>(m, weights[n], weights[n + 1],
                                                kValues + n * kTileBytes, o);
        }
        if constexpr (kKeyTiles % 2 == 1) {
            weigh_eight_values<M, T, kChunks>(m, weights[kKeyTiles - 1],
                                              kValues + (kKeyTiles - 1) * kTileBytes, o);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) total[half] = quad_sum(m, total[half]);
        store_rows<M, T, kChunks>(m, head, first_row, o, total);
    }
    if (plan.first_row && block.row_block == plan.query_block) {
        if (rounds.first == rounds.end) {
            m.template wait_copies<0>();
            m.sync();
        }
        attend_one_query<M, T>(m, head.query, SharedRows<kChunks>{kKeys},
                               SharedRows<kChunks>{kValues}, head.rows, kChunks, kScratch,
                               head.out);
    }
}

// Threads that share one head's keys: a block, or one warp of it.
struct BlockTeam {
    static constexpr int kSlots = kOnlineSlots;
    template <class M>
    static __device__ __forceinline__ void sync(M& m) {
        m.sync();
    }
    template <class M>
    static __device__ __forceinline__ int thread(M& m) {
        return m.thread();
    }
    template <class M>
    static __device__ __forceinline__ int threads(M& m) {
        return m.threads();
    }
};

struct WarpTeam {
    static constexpr int kSlots = 1;
    template <class M>
    static __device__ __forceinline__ void sync(M& m) {
        m.sync_warp();
    }
    template <class M>
    static __device__ __forceinline__ int thread(M& m) {
        return m.thread() & 31;
    }
    template <class M>
    static __device__ __forceinline__ int threads(M&) {
        return 32;
    }
};

// The running softmax of a warp's 16 rows.
template <int kChunks>
struct RunningRows {
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
    float o[kChunks][4] = {};
};

// Folds kKeyTiles * 8 keys into the running softmax, in sixteens; the first `live` eights matter.
// kWhole: all do, nothing is masked, and there are no branches.
template <class M, class T, int kChunks, int kKeyTiles, bool kWhole>
__device__ __forceinline__ void attend_tile(M& m, const uint32_t (&q)[kChunks][2], uint32_t keys_at,
                                            uint32_t values_at, int live, const int (&visible)[2],
                                            RunningRows<kChunks>& rows) {
    constexpr uint32_t kTileBytes = 8 * kChunks * kChunkBytes;
    float s[kKeyTiles][4];
    float now[2] = {rows.largest[0], rows.largest[1]};
#pragma unroll
    for (int first = 0; first < kKeyTiles; first += 2) {
        if (kWhole || first < live) {
            score_eights<M, T, kChunks>(m, q, keys_at, first, first + 2, s);
            if (!kWhole) mask_eights(m, first, first + 2, visible, s);
        } else {
#pragma unroll
            for (int e = 0; e < 8; ++e) s[first + e / 4][e % 4] = -INFINITY;
        }
        find_largest(first, first + 2, s, now);
    }
    uint32_t p[kKeyTiles][2];
    float scaled[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        now[half] = quad_max(m, now[half]);
        scaled[half] = now[half] * kLog2E;
        const float shrink = m.exp2(fmaf(rows.largest[half], kLog2E, -scaled[half]));
        rows.largest[half] = now[half];
        rows.total[half] *= shrink;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
            rows.o[c][2 * half] *= shrink;
            rows.o[c][2 * half + 1] *= shrink;
        }
    }
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) exponentiate<M, T>(m, s[n], scaled, p[n], rows.total);
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
        if (kWhole || n < live) {
            weigh_sixteen_values<M, T, kChunks>(m, p[n], p[n + 1], values_at + n * kTileBytes,
                                                rows.o);
        }
    }
}

// One head by one team: rounds of row tiles, each against the key tiles that it sees, with a
// running softmax.
template <class M, class T, int kHeadDim, int kKeyTiles, class Team>
__device__ __forceinline__ void attend_online(M& m, const Head& head, bool causal,
                                              const AttentionPlan& plan, uint32_t shared_at,
                                              int warp, int warps, const Rounds& rounds) {
    constexpr int kChunks = kHeadDim / kChunkElements, kKeys = kKeyTiles * 8;
    constexpr uint32_t kRowBytes = kChunks * kChunkBytes;
    constexpr int kAhead = Team::kSlots - 1;
    const uint32_t values_at = shared_at + plan.kept_rows * kRowBytes;

    // Loads one tile of keys and values, zeros beyond the sequence, and closes the group even when
    // there is none.
    const auto load_tile = [&](int tile, int tiles) {
        if (tile < tiles) {
            const int slot = plan.keeps_all ? tile : tile % Team::kSlots;
            const int rows = min(kKeys, plan.kept_rows - slot * kKeys);
            const uint32_t at = slot * kKeys * kRowBytes;
            copy_rows<M, kChunks>(m, Team::thread(m), Team::threads(m), shared_at + at,
                                  head.query + head.width, head.stride, tile * kKeys, rows,
                                  head.rows);
            copy_rows<M, kChunks>(m, Team::thread(m), Team::threads(m), values_at + at,
                                  head.query + 2 * head.width, head.stride, tile * kKeys, rows,
                                  head.rows);
        }
        m.commit_copies();
    };

    for (int round = rounds.first; round < rounds.end; ++round) {
        const int first_row = plan.first_row + (round * warps + warp) * kRowTile;
        const int g = (m.thread() & 31) >> 2;
        uint32_t q[kChunks][2];
        load_queries<M, kChunks>(m, head, first_row, q);
        // What the last row of the round, and of this warp's tile, sees; a tile beyond the rows
        // sees nothing.
        const int last_of_round = plan.first_row + (round + 1) * warps * kRowTile;
        const int seen = causal ? min(head.rows, last_of_round) : head.rows;
        const int mine = first_row >= head.rows ? 0
                         : causal               ? min(head.rows, first_row + kRowTile)
                                                : head.rows;
        // Kept tiles are loaded in the first round, all of them when later rounds may see more.
        const bool loads = !plan.keeps_all || round == rounds.first;
        const int tiles = divide_up(loads && plan.keeps_all ? head.rows : seen, kKeys);
        RunningRows<kChunks> rows;
        if (loads) {
            if (round != rounds.first) Team::sync(m);
#pragma unroll
            for (int tile = 0; tile < kAhead; ++tile) load_tile(tile, tiles);
        }
        for (int tile = 0; tile < tiles; ++tile) {
            if (loads) {
                if constexpr (kAhead > 0) {
                    m.template wait_copies<kAhead - 1>();
                    Team::sync(m);
                    load_tile(tile + kAhead, tiles);
                } else {
                    if (tile > 0) Team::sync(m);
                    load_tile(tile, tiles);
                    m.template wait_copies<0>();
                    Team::sync(m);
                }
            }
            const int here = mine - tile * kKeys;
            if (here <= 0) continue;
            const uint32_t at = (plan.keeps_all ? tile : tile % Team::kSlots) * kKeys * kRowBytes;
            // Every row of the tile sees what its first row sees.
            const int first_limit = (causal ? first_row + 1 : head.rows) - tile * kKeys;
            const int visible[2] = {
                causal ? min(here, first_limit + g) : here,
                causal ? min(here, first_limit + g + 8) : here,
            };
            if (min(here, first_limit) >= kKeys) {
                attend_tile<M, T, kChunks, kKeyTiles, true>(m, q, shared_at + at, values_at + at,
                                                            kKeyTiles, visible, rows);
            } else {
                attend_tile<M, T, kChunks, kKeyTiles, false>(m, q, shared_at + at, values_at + at,
                                                             divide_up(min(here, kKeys), 8),
                                                             visible, rows);
            }
        }
        if (mine > 0) {
#pragma unroll
            for (int half = 0; half < 2; ++half) rows.total[half] = quad_sum(m, rows.total[half]);
            store_rows<M, T, kChunks>(m, head, first_row, rows.o, rows.total);
        }
    }
}

template <class M, class T, int kHeadDim>
__device__ __forceinline__ void attend_dense_online(M& m, const AttentionParams& p,
                                                    const AttentionPlan& plan) {
    constexpr int kChunks = kHeadDim / kChunkElements;
    const DenseBlock block(m.block_x(), p.heads, plan.row_blocks);
    const Head head = find_head(m, p, kHeadDim, block.sequence, block.head);
    const int warps = m.threads() >> 5;
    const Rounds rounds(head.rows - plan.first_row, warps, block.row_block, plan.row_blocks);
    attend_online<M, T, kHeadDim, kOnlineKeyTiles, BlockTeam>(m, head, p.causal, plan, 0,
                                                              m.thread() >> 5, warps, rounds);
    if (plan.first_row && block.row_block == 0) {
        const uint32_t values_at = plan.kept_rows * kChunks * kChunkBytes;
        attend_one_query<M, T>(m, head.query, SharedRows<kChunks>{0},
                               SharedRows<kChunks>{values_at}, head.rows, kChunks, 2 * values_at,
                               head.out);
    }
}

// Each warp takes one (sequence, head), heads of a sequence side by side.
template <class M, class T, int kHeadDim>
__device__ __forceinline__ void attend_packed(M& m, const AttentionParams& p,
                                              const AttentionPlan& plan) {
    const int warp = m.thread() >> 5;
    const int64_t unit = static_cast<int64_t>(m.block_x()) * kPackedWarps + warp;
    if (unit >= static_cast<int64_t>(p.sequences) * p.heads) return;
    const Head head = find_head(m, p, kHeadDim, static_cast<int>(unit / p.heads),
                                static_cast<int>(unit % p.heads));
    const uint32_t shared_at = warp * 2 * plan.kept_rows * kHeadDim * 2;
    attend_online<M, T, kHeadDim, kPackedKeyTiles, WarpTeam>(m, head, p.causal, plan, shared_at, 0,
                                                             1, Rounds(head.rows, 1, 0, 1));
}

}  // namespace clipfast::cuda
