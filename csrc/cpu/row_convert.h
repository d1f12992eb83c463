// Rows of a storage type to float32 and back, in the vector registers of an instruction set.
//
// Widening is exact. Narrowing rounds to nearest, ties to even; with AVX512-BF16, bfloat16
// subnormals become zero. NaN stays NaN.
#pragma once

#include <cstdint>

#include "cpu/cpu_features.h"
#include "cpu/dtype.h"

namespace clipfast {

using WidenRow = void (*)(const char* row, std::int64_t count, float* out);
using NarrowRow = void (*)(const float* row, std::int64_t count, char* out);

WidenRow widen_row(Isa isa, Dtype dtype);
NarrowRow narrow_row(Isa isa, Dtype dtype);

}  // namespace clipfast
