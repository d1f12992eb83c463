// softmax(q k^T) v of every head of every segment of packed rows; the scale is in the queries.
//
// A segment has n query rows, which follow one another, and m keys: rows that follow one another,
// or rows that a list names. Causal: query j of the segment sees its first m - n + j + 1 keys.
// Scores and sums are float32 (float64 in the serial version); with AVX512-BF16, bfloat16 queries,
// keys, weights (before they are divided by their sum) and values go straight into VDPBF16PS. A
// segment's result depends on nothing beside it. Bound by multiply-adds: 4 n m D a segment. Source:
// Vaswani et al. 2017, arXiv:1706.03762, equation 1.
#pragma once

#include <cstdint>

#include "cpu/cpu_features.h"
#include "cpu/dtype.h"

namespace clipfast {

struct AttentionProblem {
    Matrix queries;  // heads x head_dim columns each
    Matrix keys;
    Matrix values;  // as many rows as keys
    Matrix out;     // like queries; written
    std::int64_t heads;
    std::int64_t head_dim;
    Dtype dtype;
    std::int64_t segments;
    const std::int32_t* cu_queries;  // (segments + 1), or null: query_length rows each
    const std::int32_t* cu_keys;     // (segments + 1), or null: key_length keys each
    const std::int32_t* key_rows;    // row of each key, or null: key i is row i
    std::int64_t query_length;
    std::int64_t key_length;
    bool causal;
    Isa isa;
    int threads;
};

void attention(const AttentionProblem& problem);

}  // namespace clipfast
