// Six rows and 64 output features at a time: their sums, and what follows them.
#pragma once

#include "cpu/product.h"

namespace clipfast {

constexpr int kProductRows = 6;

// sums[r][n] = sum over units of x[r] * panel[.][n], for `rows` rows (1 .. 6) and the panel's 64
// features.
//   x: first row, `stride` bytes between rows. start: (64,), what sums begin with, float32 or, of
//   bytes, int32.
using ProductTile = void (*)(const char* x, std::int64_t stride, int rows, const char* panel,
                             std::int64_t units, const void* start, float* sums);

// Where a tile lies in the output.
struct TilePlace {
    std::int64_t row, rows;
    std::int64_t column, columns;
};

// out = activation(sums * scales + bias) + residual of one tile; scales and bias are of bytes only,
// for other sums have begun with the bias.
using FinishTile = void (*)(const ProductProblem& problem, const TilePlace& place,
                            const float* sums);

ProductTile product_tile(Unit unit);
FinishTile finish_tile(const ProductProblem& problem);

}  // namespace clipfast
