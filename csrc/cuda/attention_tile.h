// What a warp does for 16 query rows: load them, score keys, weigh values, store; as templates over
// a machine.
#pragma once

#include "cuda/attention_plan.h"
#include "cuda/fragment.h"

namespace clipfast::cuda {

// One head of one sequence: its rows in qkv and out.
struct Head {
    const uint16_t* query;  // its keys are `width` columns further, its values twice that
    uint16_t* out;
    int stride, out_stride;  // in elements
    int width, rows;
};

template <class M>
__device__ __forceinline__ Head find_head(M& m, const AttentionParams& p, int head_dim,
                                          int sequence, int head) {
    int64_t first = static_cast<int64_t>(sequence) * p.length;
    int rows = p.length;
    if (p.cu_seqlens != nullptr) {
        first = m.load(p.cu_seqlens + sequence);
        rows = static_cast<int>(m.load(p.cu_seqlens + sequence + 1) - first);
    }
    return {p.qkv + first * p.qkv_stride + head * head_dim,
            p.out + first * p.out_stride + head * head_dim,
            p.qkv_stride,
            p.out_stride,
            p.heads * head_dim,
            rows};
}

// A warp's 16 queries as A fragments: q[c][0] is the word of row g, q[c][1] of row g + 8, for chunk
// c. Rows beyond the sequence are zeros.
template <class M, int kChunks>
__device__ __forceinline__ void load_queries(M& m, const Head& head, int first_row,
                                             uint32_t (&q)[kChunks][2]) {
    const int g = (m.thread() & 31) >> 2, t = m.thread() & 3;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = first_row + g + 8 * half;
        const bool inside = row < head.rows;
        const uint16_t* from = head.query + (inside ? static_cast<int64_t>(row) * head.stride : 0);
#pragma unroll
        for (int c = 0; c + 4 <= kChunks; c += 4) {
            Vector16 chunk = {};
            if (inside) {
                chunk = m.load(reinterpret_cast<const Vector16*>(from + (c + t) * kChunkElements));
            }
            transpose_quad(m, chunk.word);
#pragma unroll
            for (int i = 0; i < 4; ++i) q[c + i][half] = chunk.word[i];
        }
#pragma unroll
        for (int c = kChunks / 4 * 4; c < kChunks; ++c) {
            q[c][half] =
                inside ? m.load(reinterpret_cast<const uint32_t*>(from + c * kChunkElements) + t)
                       : 0u;
        }
    }
}

// Writes the warp's 16 output rows, 16 bytes a lane.
template <class M, class T, int kChunks>
__device__ __forceinline__ void store_rows(M& m, const Head& head, int first_row,
                                           const float (&o)[kChunks][4], const float (&total)[2]) {
    const int g = (m.thread() & 31) >> 2, t = m.thread() & 3;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float scale = m.reciprocal(total[half]);
        const int row = first_row + g + 8 * half;
        const bool inside = row < head.rows;
        uint16_t* to = head.out + (inside ? static_cast<int64_t>(row) * head.out_stride : 0);
#pragma unroll
        for (int c = 0; c + 4 <= kChunks; c += 4) {
            Vector16 chunk;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                chunk.word[i] =
                    m.template pack<T>(o[c + i][2 * half] * scale, o[c + i][2 * half + 1] * scale);
            }
            transpose_quad(m, chunk.word);
            if (inside) m.store(reinterpret_cast<Vector16*>(to + (c + t) * kChunkElements), chunk);
        }
#pragma unroll
        for (int c = kChunks / 4 * 4; c < kChunks; ++c) {
            const uint32_t word =
                m.template pack<T>(o[c][2 * half] * scale, o[c][2 * half + 1] * scale);
            if (inside) m.store(reinterpret_cast<uint32_t*>(to + c * kChunkElements) + t, word);
        }
    }
}

// s = Q K^T for eights first .. end - 1 of the keys whose rows begin at byte `keys_at`, their
// products side by side: each waits for its own predecessor only.
template <class M, class T, int kChunks, int kKeyTiles>
__device__ __forceinline__ void score_eights(M& m, const uint32_t (&q)[kChunks][2],
                                             uint32_t keys_at, int first, int end,
                                             float (&s)[kKeyTiles][4]) {
    uint32_t k[kKeyTiles][kChunks];
#pragma unroll
    for (int n = first; n < end; ++n) {
        load_eight_rows<M, kChunks, false>(m, keys_at + n * 8 * kChunks * kChunkBytes, k[n]);
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
    }
#pragma unroll
    for (int c = 0; c + 2 <= kChunks; c += 2) {
#pragma unroll
        for (int n = first; n < end; ++n) {
            m.template multiply_16<T>(s[n], q[c][0], q[c][1], q[c + 1][0], q[c + 1][1], k[n][c],
                                      k[n][c + 1]);
        }
    }
    if constexpr (kChunks % 2 == 1) {
#pragma unroll
        for (int n = first; n < end; ++n) {
            m.template multiply_8<T>(s[n], q[kChunks - 1][0], q[kChunks - 1][1], k[n][kChunks - 1]);
        }
    }
}

// Scores of eight keys whose first column is `column`: columns from visible[half] on become -inf.
template <class M>
__device__ __forceinline__ void mask_scores(M& m, int column, const int (&visible)[2],
                                            float (&s)[4]) {
    const int mine = column + 2 * (m.thread() & 3);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        if (mine + (e & 1) >= visible[e >> 1]) s[e] = -INFINITY;
    }
}

// The same for eights first .. end - 1 of the keys.
template <class M, int kKeyTiles>
__device__ __forceinline__ void mask_eights(M& m, int first, int end, const int (&visible)[2],
                                            float (&s)[kKeyTiles][4]) {
#pragma unroll
    for (int n = first; n < end; ++n) mask_scores(m, n * 8, visible, s[n]);
}

// Raises `largest` to the largest score of each row in eights first .. end - 1.
template <int kKeyTiles>
__device__ __forceinline__ void find_largest(int first, int end, const float (&s)[kKeyTiles][4],
                                             float (&largest)[2]) {
#pragma unroll
    for (int n = first; n < end; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) largest[e >> 1] = fmaxf(largest[e >> 1], s[n][e]);
}

// p = 2^((s - largest) log2 e) as A words, adding its rows to `total`. scaled_largest: log2 e times
// the maximum.
template <class M, class T>
__device__ __forceinline__ void exponentiate(M& m, const float (&s)[4],
                                             const float (&scaled_largest)[2], uint32_t (&p)[2],
                                             float (&total)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float low = m.exp2(fmaf(s[2 * half], kLog2E, -scaled_largest[half]));
        const float high = m.exp2(fmaf(s[2 * half + 1], kLog2E, -scaled_largest[half]));
        total[half] += low + high;
        p[half] = m.template pack<T>(low, high);
    }
}

// o += P V for sixteen keys, whose value rows begin at byte `values_at`.
template <class M, class T, int kChunks>
__device__ __forceinline__ void weigh_sixteen_values(M& m, const uint32_t (&p0)[2],
                                                     const uint32_t (&p1)[2], uint32_t values_at,
                                                     float (&o)[kChunks][4]) {
    uint32_t low[kChunks], high[kChunks];
    load_eight_rows<M, kChunks, true>(m, values_at, low);
    load_eight_rows<M, kChunks, true>(m, values_at + 8 * kChunks * kChunkBytes, high);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
        m.template multiply_16<T>(o[c], p0[0], p0[1], p1[0], p1[1], low[c], high[c]);
    }
}

// o += P V for eight keys.
template <class M, class T, int kChunks>
__device__ __forceinline__ void weigh_eight_values(M& m, const uint32_t (&p)[2], uint32_t values_at,
                                                   float (&o)[kChunks][4]) {
    uint32_t v[kChunks];
    load_eight_rows<M, kChunks, true>(m, values_at, v);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) m.template multiply_8<T>(o[c], p[0], p[1], v[c]);
}

// Which head, row block and sequence a block serves. Heads of a sequence lie side by side, and so
// do their blocks.
struct DenseBlock {
    int head, row_block, sequence;

    __device__ __forceinline__ DenseBlock(int block, int heads, int row_blocks)
        : head(block % heads),
          row_block(block / heads % row_blocks),
          sequence(block / heads / row_blocks) {}
};

// Rounds of row tiles that belong to this block: round r is tiles r * warps .. r * warps + warps
// - 1. A block after the last has none.
struct Rounds {
    int first, end;

    __device__ __forceinline__ Rounds(int rows, int warps, int block, int blocks) {
        const int rounds = divide_up(divide_up(rows, kRowTile), warps);
        first = static_cast<int>(static_cast<int64_t>(rounds) * block / blocks);
        end = block < blocks ? static_cast<int>(static_cast<int64_t>(rounds) * (block + 1) / blocks)
                             : first;
    }
};

}  // namespace clipfast::cuda
