// Softmax of one row, whole and in its two parts.
//
//   softmax_row   x[i] = exp(x[i] - max(x)) / sum_j exp(x[j] - max(x)), in place, count >= 1
//   exp_row       out[i] = exp(x[i] - max(x)) for the first `seen`, zeros up to `count`; returns
//   their sum
//
// The exponential is within 2 ulp of float32's (serial: std::exp); below exp(-87) it is zero;
// where out is bfloat16 it is within 3e-6. The sum of softmax_row is float64 over partial sums of
// kSumBlock, that of exp_row float32. NaN anywhere makes the sum, and softmax_row's whole row, NaN.
// Source of the polynomial: Cephes, expf.
#pragma once

#include <cstdint>

#include "cpu/cpu_features.h"
#include "cpu/dtype.h"

namespace clipfast {

using SoftmaxRow = void (*)(float* row, std::int64_t count);

SoftmaxRow softmax_row(Isa isa);

// x has whole registers up to `count`, out room for them, and may be x itself; 1 <= seen <= count.
using ExpRow = float (*)(const float* x, std::int64_t seen, std::int64_t count, void* out);

// out: float32, or bfloat16 with Isa::avx512_bf16. Not for Isa::serial.
ExpRow exp_row(Isa isa, Dtype out);

}  // namespace clipfast
