// Rows to bytes and back, around a product of bytes.
//
//   quantise     s[i] = max(max_k x[i][k] / (255 - zero), -min_k x[i][k] / zero)
//                out[i][k] = round(x[i][k] / s[i]) + zero
//   dequantise   out[i][n] = activation(s[i] * y[i][n] + bias[n]) + residual[i][n]
//
// A row of zeros has s = 0 and bytes `zero`; a row with NaN has s = NaN. Arithmetic is float32.
// Bound by bandwidth. Source: per-token dynamic quantisation, Yao et al. 2022, arXiv:2206.01861.
#pragma once

#include "cpu/activation.h"
#include "cpu/cpu_features.h"
#include "cpu/typed_matrix.h"

namespace clipfast {

struct QuantiseProblem {
    TypedMatrix x;
    Matrix out;        // uint8; written
    float* row_scale;  // (rows,); written
    int zero;  // 1 .. 254: 128 for values around zero, less for values that are rarely below
    std::int64_t width;
    Isa isa;
    int threads;
};

struct DequantiseProblem {
    TypedMatrix y;
    const float* row_scale;
    const float* bias;  // null: zeros
    Activation activation;
    TypedMatrix residual;  // data null: none
    TypedMatrix out;       // written
    std::int64_t width;
    Isa isa;
    int threads;
};

void quantise(const QuantiseProblem& problem);
void dequantise(const DequantiseProblem& problem);

}  // namespace clipfast
