// Cosines of a group of queries with a block of rows, and the rows' sums of squares.
//
//   cosines(q, r) = (sum_e queries[q][e] * rows[r][e]) * rows.inverse_norm[r] *
//                   queries.inverse_norm[q]
//   squares[r]    = sum_e rows[r][e]^2
//
// Every pair is accumulated alone, in an order that depends on the width and the instruction set
// only: neither the neighbours of a row or a query nor its place changes a bit. Accumulators are
// float64 in the serial version, else float32 in as many lanes as a register has. Storage is
// float32, float16 or bfloat16, widened on load; with AVX512-BF16, bfloat16 goes straight into
// VDPBF16PS (float32 accumulation; subnormals count as zero).
#pragma once

#include <cstdint>

#include "cpu/cpu_features.h"
#include "cpu/dtype.h"

namespace clipfast {

constexpr int kMaxLanes = 32;      // of a group, at most
constexpr int kMaxBlockRows = 64;  // rows of a block, at most

// Queries that share one read of a row from cache.
struct QueryGroup {
    const char* panel;  // (steps, lanes, step), as CosineKernels::pack writes it
    int lanes;
    int queries;                    // at most as many; other lanes hold zeros
    float inverse_norm[kMaxLanes];  // 0 there
    float threshold[kMaxLanes];     // infinity there
};

struct RowBlock {
    Matrix rows;
    float inverse_norm[kMaxBlockRows];
};

// Memory that a kernel asks for while it computes, one cache line after another, so many a step.
struct Ahead {
    const char* data = nullptr;
    int lines_per_step = 0;
};

// Of a group's queries with a block's rows, laid out as the kernel that writes them prefers; those
// of rows beyond the block's are rubbish.
struct Cosines {
    int query_stride;
    int row_stride;
    float values[kMaxLanes * kMaxBlockRows];

    float& of(int q, std::int64_t r) { return values[q * query_stride + r * row_stride]; }
};

struct CosineShape {
    int step;        // elements of a query that lie together in a panel; the last are zeros
    int step_bytes;  // what they take
    int most_lanes;  // of a group
    int tile_rows;   // rows that a kernel takes at once, fetching lines ahead once a step
};

struct CosineKernels {
    CosineShape shape;
    // Of the next group, where so many queries are left.
    int (*lanes)(std::int64_t queries);
    // Writes one lane of a panel that is all zeros.
    void (*pack)(const char* query, std::int64_t width, int lanes, char* lane);
    // Bit q is clear only when no cosine of query q is above its threshold (NaN is never above).
    std::uint32_t (*cosines)(const QueryGroup&, const RowBlock&, std::int64_t width, Ahead,
                             Cosines& out);
    // out: (kMaxBlockRows); those beyond the block's rows hold rubbish.
    void (*squares)(const Matrix& rows, std::int64_t width, float* out);
};

// The kernels for rows of a dtype. The processor must support the instruction set.
CosineKernels cosine_kernels(Isa isa, Dtype dtype);

}  // namespace clipfast
