// Softmax of one row, in place: x[i] = exp(x[i] - max(x)) / sum_j exp(x[j] - max(x)), count >= 1.
//
// The exponential is within 2 ulp of float32's (serial: std::exp); below exp(-87) it is zero. The
// sum is float64 over partial sums of kSumBlock. NaN anywhere makes the whole row NaN. Source of
// the polynomial: Cephes, expf.
#pragma once

#include <cstdint>

#include "cpu/cpu_features.h"

namespace clipfast {

using SoftmaxRow = void (*)(float* row, std::int64_t count);

SoftmaxRow softmax_row(Isa isa);

}  // namespace clipfast
