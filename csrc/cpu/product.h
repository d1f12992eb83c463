// Matrix products with packed weights, and all that follows them, in one pass over the output.
//
//   out = activation(x @ weight^T + bias) + residual
//   out = activation(row_scale * column_scale * (x @ weight^T + correction) + bias) + residual   of
//   bytes
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

enum class Unit { f32, bf16, bytes };

constexpr int kPanelFeatures = 64;

struct ProductProblem {
    Matrix x;  // (M, K): float32, bfloat16, or uint8 beside an int8 weight
    Unit unit;
    const char* panels;  // (ceil(N / 64), units, 64) units
    std::int64_t units;  // of K, which is a whole number of them
    std::int64_t features;
    const float* bias;               // (N,), or null
    const std::int32_t* correction;  // (N,), of bytes only
    const float* column_scale;       // (N,), of bytes only
    const float* row_scale;          // (M,), of bytes only
    Activation activation;
    TypedMatrix residual;  // of out's dtype; data null: none
    bool rectified;
    TypedMatrix out;  // float32 or bfloat16; written
    int threads;
};

void product(const ProductProblem& problem);

}  // namespace clipfast
