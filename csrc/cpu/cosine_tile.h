// Cosines of four queries with a block of rows, and the rows' sums of squares.
//
//   cosines[q][r] = (sum_e queries[q][e] * rows[r][e]) * rows.inverse_norm[r] *
//   queries.inverse_norm[q] squares[r]    = sum_e rows[r][e]^2
//
// Every pair is accumulated alone, in an order that depends on the width and the instruction set
// only: neither the neighbours of a row nor its place in a block change a bit. Accumulators are
// float64 in the serial version, else float32 in as many lanes as a register has. Storage is
// float32, float16 or bfloat16, widened on load; with AVX512-BF16, bfloat16 goes straight into
// VDPBF16PS (float32 accumulation; subnormals count as zero).
#pragma once

#include <cstdint>

#include "cpu/cpu_features.h"
#include "cpu/dtype.h"

namespace clipfast {

constexpr int kGroupQueries = 4;   // queries that share one read of a row from cache
constexpr int kMaxBlockRows = 64;  // rows of a block, at most

struct QueryGroup {
    const char* panel;  // (steps, kGroupQueries, step) in CosineKernels::panel_dtype
    float inverse_norm[kGroupQueries];
    float threshold[kGroupQueries];
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

struct CosineKernels {
    Dtype panel_dtype;  // of packed queries, whose last step is filled up with zeros
    int step;           // elements that a kernel takes at once
    int tile_rows;      // of so many rows

    // out: (kGroupQueries, kMaxBlockRows); columns beyond the block's rows hold rubbish.
    // False only when no cosine is above its query's threshold (NaN is never above).
    bool (*cosines)(const QueryGroup&, const RowBlock&, std::int64_t width, Ahead, float* out);
    // out: (kMaxBlockRows), likewise.
    void (*squares)(const Matrix& rows, std::int64_t width, float* out);
};

// The kernels for rows of a dtype. The processor must support the instruction set.
CosineKernels cosine_kernels(Isa isa, Dtype dtype);

}  // namespace clipfast
