// LayerNorm over the last axis, optionally after a residual add.
//
//   r = x + residual;  y = (r - mean(r)) / sqrt(var(r) + eps) * weight + bias    (var over D)
//
// Each row is widened to float32 once and stays in the first-level cache. Sums are float32 in as
// many lanes as a register has, float64 in the serial version. Bound by bandwidth.
// Source: Ba et al. 2016, arXiv:1607.06450.
#pragma once

#include "cpu/cpu_features.h"
#include "cpu/typed_matrix.h"

namespace clipfast {

struct LayerNormProblem {
    TypedMatrix x;
    TypedMatrix residual;  // data null: none
    TypedMatrix sum;       // r, in the residual's dtype; written where there is a residual
    TypedMatrix out;       // data null: only r is wanted
    const float* weight;   // null: ones
    const float* bias;     // null: zeros
    std::int64_t width;
    float eps;
    Isa isa;
    int threads;
};

void layer_norm(const LayerNormProblem& problem);

}  // namespace clipfast
