// Six rows and 64 output features at a time: their sums, and what follows them.
#pragma once

#include "cpu/product.h"

namespace clipfast {

constexpr int kProductRows = 6;
constexpr std::int64_t kUnitBytes = 4;
constexpr std::int64_t kLineBytes = 64;
constexpr std::int64_t kTaskBytes = 256 << 10;  // of rows: they stay in the second-level cache
constexpr std::int64_t kTasksEach = 4;  // a thread, where there are rows enough: they end together

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

enum class Unit { f32, bf16, bytes };

inline Unit unit_of(const ProductProblem& problem) {
    if (problem.zero != 0) return Unit::bytes;
    return problem.x.dtype == Dtype::f32 ? Unit::f32 : Unit::bf16;
}

// sums[r][n] = sum over units of x[r] * panel[.][n], for `rows` rows (1 .. 6) and the panel's 64
// features.
//   x: first row, `stride` bytes between rows. start: (64,), what sums begin with, float32 or, of
//   bytes, int32; null: the sums that are there, which are float32. ahead: as many lines as there
//   are units, asked for on the way.
using ProductTile = void (*)(const char* x, std::int64_t stride, int rows, const char* panel,
                             std::int64_t units, const void* start, const char* ahead, float* sums);

// Where a tile lies in the output. row_scale: s of its first row, of bytes only.
struct TilePlace {
    std::int64_t row, rows;
    std::int64_t column, columns;
    const float* row_scale;
};

// A panel, and what its sums begin with.
class PanelPart {
  public:
    PanelPart(const ProductProblem& problem, std::int64_t panel);
    TilePlace place(std::int64_t row, std::int64_t rows) const {
        return {row, rows, column_, columns_, nullptr};
    }
    // From unit `first` of K on.
    const char* units(std::int64_t first) const {
        return units_ + first * kPanelFeatures * kUnitBytes;
    }

    alignas(64) float start[kPanelFeatures];

  private:
    std::int64_t column_, columns_;
    const char* units_;
};

// Asks for what a tile will read and write when its sums are ready: their lines arrive meanwhile.
void fetch(const TypedMatrix& matrix, const TilePlace& place);

// out = activation(sums * scales + bias) + residual of one tile, rectified or not; scales and bias
// are of bytes only, for other sums have begun with the bias.
using FinishTile = void (*)(const ProductProblem& problem, const TilePlace& place,
                            const float* sums);

ProductTile product_tile(Unit unit);
FinishTile finish_tile(const ProductProblem& problem);

}  // namespace clipfast
