// Index arithmetic that the loops share: where a 16-byte chunk lies in shared memory, and which
// lane holds what.
//
// Fragments of m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"): with g = lane / 4 and t =
// lane % 4, a lane holds
//   A: rows g and g + 8, and B: column g, at k = 2t, 2t + 1 (one word) of each group of eight k;
//   C: rows g (elements 0, 1) and g + 8 (elements 2, 3), columns 2t and 2t + 1.
// Eight consecutive k are a "chunk", 16 bytes. The C of one product is therefore, packed, the A of
// the next.
#pragma once

#include <algorithm>
#include <cmath>

#include "cuda/element.h"

namespace clipfast::cuda {

#ifndef __CUDACC__  // built-ins of CUDA
using std::max;
using std::min;
#endif

constexpr uint32_t kChunkBytes = 16;
constexpr int kChunkElements = 8;

__device__ __forceinline__ int divide_up(int a, int b) { return (a + b - 1) / b; }

// Where chunk `chunk` of row `row` stands within its row of kChunks chunks, so that the eight rows
// of a matrix that ldmatrix reads, and the eight chunks that neighbouring threads write, fall into
// different banks. Its own inverse. An odd number of chunks spreads rows over the banks by itself.
template <int kChunks>
__device__ __forceinline__ int swizzle(int row, int chunk) {
    static_assert(kChunks % 2 == 1 || kChunks == 4 || kChunks == 8 || kChunks == 10,
                  "no swizzle is known for this row length");
    if constexpr (kChunks == 4) return chunk ^ ((row >> 1) & 3);
    if constexpr (kChunks == 8) return chunk ^ (row & 7);
    if constexpr (kChunks == 10) return chunk ^ ((row >> 2) & 1);
    return chunk;
}

// Byte offset of a chunk in a matrix of rows of kChunks chunks.
template <int kChunks>
__device__ __forceinline__ uint32_t chunk_offset(int row, int chunk) {
    return (static_cast<uint32_t>(row) * kChunks + swizzle<kChunks>(row, chunk)) * kChunkBytes;
}

// Exchanges a 4 x 4 matrix of words across the four lanes of a quad: w[i] of lane t becomes w[t] of
// lane i. It turns one 16-byte chunk per lane into the fragment words of four chunks, and back.
template <class M>
__device__ __forceinline__ void transpose_quad(M& m, uint32_t (&w)[4]) {
    const bool odd = m.thread() & 1, upper = m.thread() & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint32_t got = m.shuffle_xor(odd ? w[i] : w[i + 1], 1);
        (odd ? w[i] : w[i + 1]) = got;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint32_t got = m.shuffle_xor(upper ? w[i] : w[i + 2], 2);
        (upper ? w[i] : w[i + 2]) = got;
    }
}

// Eight rows of kChunks chunks, from a matrix whose row `row` (a multiple of 8) begins at byte
// `at`: words[c] is the lane's fragment word of chunk c, of the transposed 8 x 8 block when
// kTransposed.
template <class M, int kChunks, bool kTransposed>
__device__ __forceinline__ void load_eight_rows(M& m, uint32_t at, uint32_t (&words)[kChunks]) {
    const int lane = m.thread() & 31;
    const int row = lane & 7, matrix = lane >> 3;
#pragma unroll
    for (int c = 0; c + 4 <= kChunks; c += 4) {
        uint32_t four[4];
        m.template load_matrices<kTransposed>(four, at + chunk_offset<kChunks>(row, c + matrix));
#pragma unroll
        for (int i = 0; i < 4; ++i) words[c + i] = four[i];
    }
    constexpr int kPair = kChunks / 4 * 4;
    if constexpr (kChunks - kPair >= 2) {
        uint32_t two[2];
        m.template load_matrices<kTransposed>(
            two, at + chunk_offset<kChunks>(row, kPair + (matrix & 1)));
        words[kPair] = two[0];
        words[kPair + 1] = two[1];
    }
    if constexpr (kChunks % 2 == 1) {
        uint32_t one[1];
        m.template load_matrices<kTransposed>(one, at + chunk_offset<kChunks>(row, kChunks - 1));
        words[kChunks - 1] = one[0];
    }
}

// Copies rows first .. first + rows - 1 of a matrix in global memory, 16 bytes a thread, to row 0
// .. of shared memory at `at`; rows from `valid` on become zeros. The caller commits.
template <class M, int kChunks>
__device__ __forceinline__ void copy_rows(M& m, int thread, int threads, uint32_t at,
                                          const uint16_t* source, int64_t stride, int first,
                                          int rows, int valid) {
    for (int i = thread; i < rows * kChunks; i += threads) {
        const int row = i / kChunks, chunk = i % kChunks;
        const bool inside = first + row < valid;
        const uint16_t* from =
            source + (inside ? (first + row) * stride + chunk * kChunkElements : 0);
        m.template copy_async<16>(at + chunk_offset<kChunks>(row, chunk), from, inside);
    }
}

// The larger, or the sum, of a value over the four lanes of a quad.
template <class M>
__device__ __forceinline__ float quad_max(M& m, float value) {
    value = fmaxf(value, m.shuffle_xor(value, 1));
    return fmaxf(value, m.shuffle_xor(value, 2));
}
template <class M>
__device__ __forceinline__ float quad_sum(M& m, float value) {
    value += m.shuffle_xor(value, 1);
    return value + m.shuffle_xor(value, 2);
}

}  // namespace clipfast::cuda
