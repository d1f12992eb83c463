// Matrix products with packed weights, and all that follows them, in one pass over the output.
//
//   out = activation(x @ weight^T + bias) + residual
//   out = activation(s * scale * (q @ weight^T + correction) + bias) + residual
//
// the second of an int8 weight, q and s being what `quantise` makes of x, in memory of its own.
//
// and max(out, 0) where it is `rectified`: the ReLU of a residual block follows its residual.
//
// A unit is 32 bits of a row: one float32, two bfloat16 or four bytes. The weight lies in panels of
// 64 output features: panel p holds, for each unit of K, that unit of features 64 p .. 64 p + 63.
// Features beyond the last are zeros. Sums are float32, of bytes exact int32; each is taken in the
// order of K, so that a row's bits depend on nothing else. Bound by arithmetic: 24 registers of
// sums take six rows through a panel.
//
// For processors with AVX512-BF16 and VNNI; see `supports`.
#pragma once

#include <cstdint>

#include "cpu/activation.h"
#include "cpu/typed_matrix.h"

namespace clipfast {

constexpr int kPanelFeatures = 64;

struct ProductProblem {
    TypedMatrix x;       // (M, K): float32 or bfloat16, as the weight; any, beside an int8 weight
    const char* panels;  // (ceil(N / 64), units, 64) units
    std::int64_t units;  // of K, which is a whole number of them
    std::int64_t features;
    const float* bias;  // (N,), or null
    // Of an int8 weight: the byte that stands for zero in q (else 0), and (N,) each.
    int zero;
    const std::int32_t* correction;
    const float* scale;
    Activation activation;
    TypedMatrix residual;  // of out's dtype; data null: none
    bool rectified;
    TypedMatrix out;  // float32 or bfloat16; written
    int threads;
};

void product(const ProductProblem& problem);

}  // namespace clipfast
