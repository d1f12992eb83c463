// softmax(q k^T) v for one query, by a whole block on the floating-point units: for a class token
// whose row would cost the tensor cores a tile of its own, and for attention pooling.
//
// Keys come in blocks of kScoreBlock with a running softmax between blocks. Within a block: four
// lanes score a key, then every thread owns eight output columns for one slice of the keys; slices
// are added in order at the end, so the result does not depend on timing.
#pragma once

#include "cuda/attention_plan.h"
#include "cuda/fragment.h"

namespace clipfast::cuda {

// Rows in shared memory, as copy_rows left them.
template <int kChunks>
struct SharedRows {
    uint32_t at;

    template <class M>
    __device__ __forceinline__ Vector16 chunk(M& m, int row, int c) const {
        return m.template shared_load<Vector16>(at + chunk_offset<kChunks>(row, c));
    }
};

// Rows in global memory, consecutive or listed.
struct GlobalRows {
    const uint16_t* data;
    const int32_t* rows;  // null: consecutive
    int stride;

    template <class M>
    __device__ __forceinline__ Vector16 chunk(M& m, int row, int c) const {
        const int64_t at = rows == nullptr ? row : m.load(rows + row);
        return m.load(reinterpret_cast<const Vector16*>(data + at * stride + c * kChunkElements));
    }
};

constexpr int kKeysAtOnce = 4;  // whose loads a quad has under way

// Where the parts of the scratch begin.
struct SingleQueryScratch {
    uint32_t query, scores, partial, reduction;

    __device__ __forceinline__ SingleQueryScratch(uint32_t at, int head_dim)
        : query(at),
          scores(query + 4 * head_dim),
          partial(scores + 4 * kScoreBlock),
          reduction(partial + 4 * kMaxSlices * head_dim) {}
};

template <class M, class T>
__device__ __forceinline__ float dot_chunk(M& m, uint32_t query, const Vector16& chunk) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        const FloatPair key = m.template unpack<T>(chunk.word[w]);
        const FloatPair q = m.template shared_load<FloatPair>(query + 8 * w);
        sum = fmaf(q.low, key.low, sum);
        sum = fmaf(q.high, key.high, sum);
    }
    return sum;
}

// sums += p chunk, p at byte `weight`.
template <class M, class T>
__device__ __forceinline__ void add_weighted(M& m, uint32_t weight, const Vector16& chunk,
                                             float (&sums)[kChunkElements]) {
    const auto p = m.template shared_load<float>(weight);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        const FloatPair pair = m.template unpack<T>(chunk.word[w]);
        sums[2 * w] = fmaf(p, pair.low, sums[2 * w]);
        sums[2 * w + 1] = fmaf(p, pair.high, sums[2 * w + 1]);
    }
}

// The sum or the largest of a value over the block, to every thread. `at`: one float a warp. Holds
// one barrier.
template <bool kMax, class M>
__device__ __forceinline__ float block_reduce(M& m, uint32_t at, float value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) {
        const float other = m.shuffle_xor(value, mask);
        value = kMax ? fmaxf(value, other) : value + other;
    }
    if ((m.thread() & 31) == 0) m.shared_store(at + 4 * (m.thread() >> 5), value);
    m.sync();
    value = m.template shared_load<float>(at);
    for (int warp = 1; warp < m.threads() / 32; ++warp) {
        const float other = m.template shared_load<float>(at + 4 * warp);
        value = kMax ? fmaxf(value, other) : value + other;
    }
    return value;
}

// Scores of keys first .. first + count - 1, to scratch.scores; returns the largest that this
// thread's quad saw.
template <class M, class T, class Rows>
__device__ __forceinline__ float score_keys(M& m, const SingleQueryScratch& scratch,
                                            const Rows& keys, int chunks, int first, int count) {
    const int t = m.thread() & 3, step = m.threads() / 4;
    float largest = -INFINITY;
    // Every lane of a warp takes every turn: the shuffles need them all. Keys beyond the last read
    // it again.
    for (int start = 0; start < count; start += kKeysAtOnce * step) {
        const int mine = start + m.thread() / 4;
        float score[kKeysAtOnce] = {};
        for (int c = t; c < chunks; c += 4) {
            Vector16 chunk[kKeysAtOnce];
#pragma unroll
            for (int u = 0; u < kKeysAtOnce; ++u) {
                chunk[u] = keys.chunk(m, first + min(mine + u * step, count - 1), c);
            }
#pragma unroll
            for (int u = 0; u < kKeysAtOnce; ++u) {
                score[u] += dot_chunk<M, T>(m, scratch.query + 32 * c, chunk[u]);
            }
        }
#pragma unroll
        for (int u = 0; u < kKeysAtOnce; ++u) score[u] = quad_sum(m, score[u]);
#pragma unroll
        for (int u = 0; u < kKeysAtOnce; ++u) {
            const int i = mine + u * step;
            if (i < count) largest = fmaxf(largest, score[u]);
            if (i < count && t == 0) m.shared_store(scratch.scores + 4 * i, score[u]);
        }
    }
    return largest;
}

// query: chunks * 8 elements; out likewise. scratch: single_query_bytes. The block has at most 32
// kMaxWarps threads.
template <class M, class T, class Rows>
__device__ __forceinline__ void attend_one_query(M& m, const uint16_t* query, const Rows& keys,
                                                 const Rows& values, int count, int chunks,
                                                 uint32_t scratch_at, uint16_t* out) {
    const int head_dim = chunks * kChunkElements;
    const SingleQueryScratch scratch(scratch_at, head_dim);
    const auto* query_words = reinterpret_cast<const uint32_t*>(query);
    for (int i = m.thread(); i < head_dim / 2; i += m.threads()) {
        const FloatPair pair = m.template unpack<T>(m.load(query_words + i));
        m.shared_store(scratch.query + 8 * i, pair);
    }
    m.sync();

    const int slices = min(kMaxSlices, m.threads() / chunks);
    const int slice = m.thread() / chunks, column_chunk = m.thread() % chunks;
    float largest = -INFINITY, total = 0.0f;
    float sums[kChunkElements] = {};
    for (int first = 0; first < count; first += kScoreBlock) {
        const int here = min(kScoreBlock, count - first);
        const float seen = score_keys<M, T>(m, scratch, keys, chunks, first, here);
        const float now = fmaxf(largest, block_reduce<true>(m, scratch.reduction, seen));
        const float shrink = m.exp2((largest - now) * kLog2E);
        largest = now;
        total *= shrink;
        for (int i = m.thread(); i < here; i += m.threads()) {
            const float score = m.template shared_load<float>(scratch.scores + 4 * i);
            const float p = m.exp2((score - now) * kLog2E);
            m.shared_store(scratch.scores + 4 * i, p);
            total += p;
        }
        m.sync();
#pragma unroll
        for (int e = 0; e < kChunkElements; ++e) sums[e] *= shrink;
        if (slice < slices) {
            for (int start = slice; start < here; start += kKeysAtOnce * slices) {
                Vector16 chunk[kKeysAtOnce];
#pragma unroll
                for (int u = 0; u < kKeysAtOnce; ++u) {
                    const int i = min(start + u * slices, here - 1);
                    chunk[u] = values.chunk(m, first + i, column_chunk);
                }
#pragma unroll
                for (int u = 0; u < kKeysAtOnce; ++u) {
                    const int i = start + u * slices;
                    if (i < here) add_weighted<M, T>(m, scratch.scores + 4 * i, chunk[u], sums);
                }
            }
        }
        m.sync();
    }

    total = block_reduce<false>(m, scratch.reduction + 4 * kMaxWarps, total);
    if (slice < slices) {
#pragma unroll
        for (int e = 0; e < kChunkElements; ++e) {
            m.shared_store(
                scratch.partial + 4 * (slice * head_dim + column_chunk * kChunkElements + e),
                sums[e]);
        }
    }
    m.sync();
    const float scale = count > 0 ? m.reciprocal(total) : 0.0f;
    for (int i = m.thread(); i < head_dim / 2; i += m.threads()) {
        float low = 0.0f, high = 0.0f;
        for (int s = 0; s < slices; ++s) {
            const auto pair =
                m.template shared_load<FloatPair>(scratch.partial + 4 * (s * head_dim + 2 * i));
            low += pair.low;
            high += pair.high;
        }
        m.store(reinterpret_cast<uint32_t*>(out) + i,
                m.template pack<T>(low * scale, high * scale));
    }
}

// Attention pooling: block b is head b % heads of sequence b / heads.
template <class M, class T>
__device__ __forceinline__ void pool_one_head(M& m, const AttentionPoolParams& p) {
    const int sequence = m.block_x() / p.heads, head = m.block_x() % p.heads;
    int64_t first = static_cast<int64_t>(sequence) * p.length;
    int count = p.length;
    if (p.cu_seqlens != nullptr) {
        first = m.load(p.cu_seqlens + sequence);
        count = static_cast<int>(m.load(p.cu_seqlens + sequence + 1) - first);
    }
    const int column = head * p.head_dim, width = p.heads * p.head_dim;
    const bool listed = p.key_rows != nullptr;
    const uint16_t* rows = p.kv + column + (listed ? 0 : first * p.kv_stride);
    const GlobalRows keys = {rows, listed ? p.key_rows + first : nullptr, p.kv_stride};
    const GlobalRows values = {rows + width, keys.rows, p.kv_stride};
    attend_one_query<M, T>(m, p.query + static_cast<int64_t>(sequence) * p.query_stride + column,
                           keys, values, count, p.head_dim / kChunkElements, 0,
                           p.out + static_cast<int64_t>(sequence) * p.out_stride + column);
}

}  // namespace clipfast::cuda
