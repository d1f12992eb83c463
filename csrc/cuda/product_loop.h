// A 128 x 128 tile of A B^T on tensor cores, as a template over a machine and over where the
// operands come from.
//
// 256 threads: eight warps in 2 x 4, each 64 rows x 32 columns. Depth goes in slices of 32 through
// a ring of kStages in shared memory; tiles of B follow each other without draining the ring. An
// operand says how its slices arrive:
//   kAhead                 slices under way before the first is used
//   issue(m)               starts the next slice (the loop closes the group of copies)
//   land(m)                makes the slice that is due readable, after the wait and before the
//   barrier tile(step)             where the slice of step `step` lies: 128 rows of four chunks,
//   swizzled finish_tile(m)         after the last slice of a tile: its inverse norms, if it keeps
//   any
// Accumulation is fp32, over depth in ascending order whatever the grid: a product's bits depend on
// its rows alone.
#pragma once

#include "cuda/fragment.h"

namespace clipfast::cuda {

constexpr int kTileRows = 128;
constexpr int kProductThreads = 256;
constexpr int kSliceChunks = 4, kSlice = kSliceChunks * kChunkElements;
constexpr int kStages = 4;
constexpr uint32_t kSliceBytes = kTileRows * kSliceChunks * kChunkBytes;
constexpr int kWarpRowTiles = 4, kWarpColumnTiles = 4;  // of 16 rows and of 8 columns

// The warp's part of the tile: element e of (i, j) stands in row 16 i + g + 8 (e / 2), column 8 j +
// 2 t + e % 2.
struct Accumulator {
    float at[kWarpRowTiles][kWarpColumnTiles][4];

    template <class M>
    __device__ __forceinline__ void clear(M& m) {
#pragma unroll
        for (int i = 0; i < kWarpRowTiles; ++i)
#pragma unroll
            for (int j = 0; j < kWarpColumnTiles; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) at[i][j][e] = m.zero();
    }
};

// First row and column of the thread's elements in the tile.
__device__ __forceinline__ int first_row_of(int thread) {
    return (thread >> 7) * 64 + ((thread & 31) >> 2);
}
__device__ __forceinline__ int first_column_of(int thread) {
    return ((thread >> 5) & 3) * 32 + 2 * (thread & 3);
}

// Adds the product of two slices.
template <class M, class T>
__device__ __forceinline__ void multiply_slice(M& m, uint32_t a_at, uint32_t b_at,
                                               Accumulator& sum) {
    const int lane = m.thread() & 31, warp = m.thread() >> 5;
    const int a_row = (warp >> 2) * 64 + (lane & 15);
    const int b_row = (warp & 3) * 32 + ((lane >> 4) << 3) + (lane & 7);
#pragma unroll
    for (int k = 0; k < kSliceChunks; k += 2) {
        uint32_t b[kWarpColumnTiles / 2][4];
#pragma unroll
        for (int j = 0; j < kWarpColumnTiles / 2; ++j) {
            const int chunk = k + ((lane >> 3) & 1);
            m.template load_matrices<false>(
                b[j], b_at + chunk_offset<kSliceChunks>(b_row + 16 * j, chunk));
        }
#pragma unroll
        for (int i = 0; i < kWarpRowTiles; ++i) {
            uint32_t a[4];
            m.template load_matrices<false>(
                a, a_at + chunk_offset<kSliceChunks>(a_row + 16 * i, k + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < kWarpColumnTiles; ++j) {
                m.template multiply_16<T>(sum.at[i][j], a[0], a[1], a[2], a[3],
                                          b[j / 2][2 * (j % 2)], b[j / 2][2 * (j % 2) + 1]);
            }
        }
    }
}

// Where a slice stands in the tiles.
struct SlicePosition {
    int slice = 0, tile = 0;

    __device__ __forceinline__ void advance(int slices) {
        if (++slice == slices) {
            slice = 0;
            ++tile;
        }
    }
};

// Multiplies `tiles` tiles of B with the rows of A and hands each to epilogue.take(m, tile, sum).
template <class M, class T, class A, class B, class Epilogue>
__device__ __forceinline__ void multiply_tiles(M& m, A& a, B& b, int tiles, int slices,
                                               Epilogue& epilogue) {
    static_assert(A::kAhead == kStages - 1 || A::kAhead == 1,
                  "A runs with the ring or a step ahead");
    static_assert(B::kAhead == kStages - 1, "B runs with the ring");
    const int steps = tiles * slices;
    Accumulator sum;
    sum.clear(m);
    SlicePosition ahead, next, now;
    const auto issue = [&](int step) {
        if (A::kAhead == B::kAhead && step < steps) a.issue(m, step, ahead.slice, ahead.tile);
        if (step < steps) b.issue(m, step, ahead.slice, ahead.tile);
        ahead.advance(slices);
        m.commit_copies();
    };
    const auto issue_next = [&](int step) {
        if constexpr (A::kAhead == 1) {
            if (step < steps) a.issue(m, step, next.slice, next.tile);
            next.advance(slices);
        }
    };
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) issue(step);
    issue_next(0);
    for (int step = 0; step < steps; ++step) {
        m.template wait_copies<kStages - 2>();
        a.land(m, step);
        b.land(m, step);
        m.sync();
        issue(step + kStages - 1);
        issue_next(step + 1);
        multiply_slice<M, T>(m, a.tile_at(step), b.tile_at(step), sum);
        const int tile = now.tile;
        now.advance(slices);
        if (now.slice == 0) {
            a.finish_tile(m);
            b.finish_tile(m);
            epilogue.take(m, tile, sum);
            sum.clear(m);
        }
    }
}

}  // namespace clipfast::cuda
