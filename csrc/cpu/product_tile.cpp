// Registers: 24 of sums, four of the panel's unit, one with a row's unit in every lane.

#include "cpu/product_tile.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "cpu/lanes.h"
#include "cpu/x86.h"

namespace clipfast {

PanelPart::PanelPart(const ProductProblem& problem, std::int64_t panel)
    : column_(panel * kPanelFeatures),
      columns_(std::min<std::int64_t>(kPanelFeatures, problem.features - column_)),
      units_(problem.panels + panel * problem.units * kPanelFeatures * kUnitBytes) {
    const void* from = problem.bias;
    if (unit_of(problem) == Unit::bytes) from = problem.correction;
    std::fill(start, start + kPanelFeatures, 0.0f);
    if (from)
        std::memcpy(start, static_cast<const char*>(from) + column_ * sizeof *start,
                    columns_ * sizeof *start);
}

void fetch(const TypedMatrix& matrix, const TilePlace& place) {
    if (!matrix.given()) return;
    const std::int64_t element = element_bytes(matrix.dtype);
    for (std::int64_t r = 0; r < place.rows; ++r) {
        const char* line = matrix.row(place.row + r) + place.column * element;
        for (const char* end = line + place.columns * element; line < end; line += kLineBytes)
            __builtin_prefetch(line);
    }
}

#if defined(__x86_64__)

namespace {

constexpr int kVectors = kPanelFeatures / 16;

// --- sums: sum + row * column in each lane, for each kind of unit; of kBlock units apart, so that
// the error of float32 grows with the length of a block and with their number, not with the product
// ---

struct Floats {
    using Sum = __m512;
    static constexpr std::int64_t kBlock = 256;
    AVX512_BF16 static INLINE Sum start(const void* start, int v) {
        return _mm512_loadu_ps(static_cast<const float*>(start) + 16 * v);
    }
    AVX512_BF16 static INLINE Sum add(Sum sum, __m512i row, __m512i column) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(row), _mm512_castsi512_ps(column), sum);
    }
    AVX512_BF16 static INLINE __m512 to_float(Sum sum) { return sum; }
};

struct Pairs : Floats {
    AVX512_BF16 static INLINE Sum add(Sum sum, __m512i row, __m512i column) {
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(row),
                                reinterpret_cast<__m512bh>(column));
    }
};

struct Bytes {
    using Sum = __m512i;  // exact
    static constexpr std::int64_t kBlock = std::int64_t{1} << 40;
    AVX512_BF16 static INLINE Sum start(const void* start, int v) {
        return _mm512_loadu_si512(static_cast<const std::int32_t*>(start) + 16 * v);
    }
    AVX512_BF16 static INLINE Sum add(Sum sum, __m512i row, __m512i column) {
        // Not the intrinsic: GCC 12 stores every sum of it in each round of the loop.
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(column));
        return sum;
    }
    AVX512_BF16 static INLINE __m512 to_float(Sum sum) { return _mm512_cvtepi32_ps(sum); }
};

template <class Kind, int rows>
AVX512_BF16 void sum_rows(const char* x, std::int64_t stride, const char* panel, std::int64_t units,
                          const void* start, const char* ahead, float* out) {
    const typename Kind::Sum zero = {};
    typename Kind::Sum sums[rows][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] = start ? Kind::start(start, v) : zero;
    for (std::int64_t u = 0, end = Kind::kBlock; u < units; end += Kind::kBlock) {
        for (; u < std::min(end, units); ++u) {
            _mm_prefetch(ahead + u * 64, _MM_HINT_T1);
            __m512i columns[kVectors];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v)
                columns[v] = _mm512_load_si512(panel + (u * kVectors + v) * 64);
#pragma GCC unroll 6
            for (int r = 0; r < rows; ++r) {
                std::int32_t unit;
                std::memcpy(&unit, x + r * stride + 4 * u, sizeof unit);
                const __m512i row = _mm512_set1_epi32(unit);
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v)
                    sums[r][v] = Kind::add(sums[r][v], row, columns[v]);
            }
        }
        const bool first = start && end == Kind::kBlock, last = u == units;
        if (first && last) break;
#pragma GCC unroll 6
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
                float* const total = out + (r * kVectors + v) * 16;
                const __m512 block = Kind::to_float(sums[r][v]);
                _mm512_storeu_ps(total,
                                 first ? block : _mm512_add_ps(_mm512_loadu_ps(total), block));
                sums[r][v] = zero;
            }
        if (last) return;
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
            _mm512_storeu_ps(out + (r * kVectors + v) * 16, Kind::to_float(sums[r][v]));
}

template <class Kind>
void tile_of(const char* x, std::int64_t stride, int rows, const char* panel, std::int64_t units,
             const void* start, const char* ahead, float* sums) {
    using SumRows = decltype(&sum_rows<Kind, 1>);
    static constexpr SumRows of[kProductRows] = {sum_rows<Kind, 1>, sum_rows<Kind, 2>,
                                                 sum_rows<Kind, 3>, sum_rows<Kind, 4>,
                                                 sum_rows<Kind, 5>, sum_rows<Kind, 6>};
    of[rows - 1](x, stride, panel, units, start, ahead, sums);
}

// --- what follows ---

template <Dtype dtype>
AVX512_BF16 INLINE __m512 load(const char* row, std::int64_t i, std::int64_t left) {
    if (dtype == Dtype::f32) return load_floats(reinterpret_cast<const float*>(row) + i, left);
    const __m512i bits = _mm512_cvtepu16_epi32(load_halves(row + 2 * i, left));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

template <Dtype dtype>
AVX512_BF16 INLINE void store(char* row, std::int64_t i, std::int64_t left, __m512 y) {
    if (dtype == Dtype::f32)
        store_floats(reinterpret_cast<float*>(row) + i, left, y);
    else
        store_halves(row + 2 * i, left, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(y)));
}

template <Activation activation, Dtype dtype, bool scaled, bool adds>
AVX512_BF16 void finish(const ProductProblem& p, const TilePlace& place, const float* sums) {
    const __m512 least = _mm512_set1_ps(p.rectified ? 0 : -std::numeric_limits<float>::infinity());
    for (std::int64_t i = 0; i < place.columns; i += 16) {
        const std::int64_t left = place.columns - i, column = place.column + i;
        __m512 scale = _mm512_setzero_ps(), bias = scale;
        if (scaled) {
            scale = load_floats(p.scale + column, left);
            if (p.bias) bias = load_floats(p.bias + column, left);
        }
        for (std::int64_t r = 0; r < place.rows; ++r) {
            const std::int64_t row = place.row + r;
            __m512 y = _mm512_loadu_ps(sums + r * kPanelFeatures + i);
            if (scaled)
                y = _mm512_fmadd_ps(y, _mm512_mul_ps(scale, _mm512_set1_ps(place.row_scale[r])),
                                    bias);
            y = activate_avx512<dtype == Dtype::bf16>(y, activation);
            if (adds) y = _mm512_add_ps(y, load<dtype>(p.residual.row(row), column, left));
            y = _mm512_max_ps(least, y);  // y where it is NaN
            store<dtype>(p.out.row_to_write(row), column, left, y);
        }
    }
}

template <Activation activation, bool scaled, bool adds>
FinishTile finish_into(Dtype dtype) {
    return dtype == Dtype::f32 ? finish<activation, Dtype::f32, scaled, adds>
                               : finish<activation, Dtype::bf16, scaled, adds>;
}

template <bool scaled, bool adds>
FinishTile finish_with(Activation activation, Dtype dtype) {
    switch (activation) {
        case Activation::none:
            return finish_into<Activation::none, scaled, adds>(dtype);
        case Activation::silu:
            return finish_into<Activation::silu, scaled, adds>(dtype);
        case Activation::gelu:
            return finish_into<Activation::gelu, scaled, adds>(dtype);
    }
    throw std::logic_error("an activation that finish does not know");
}

template <bool scaled>
FinishTile finish_of(const ProductProblem& p) {
    return p.residual.given() ? finish_with<scaled, true>(p.activation, p.out.dtype)
                              : finish_with<scaled, false>(p.activation, p.out.dtype);
}

}  // namespace

ProductTile product_tile(Unit unit) {
    switch (unit) {
        case Unit::f32:
            return tile_of<Floats>;
        case Unit::bf16:
            return tile_of<Pairs>;
        case Unit::bytes:
            return tile_of<Bytes>;
    }
    throw std::logic_error("a unit that no tile knows");
}

FinishTile finish_tile(const ProductProblem& problem) {
    return unit_of(problem) == Unit::bytes ? finish_of<true>(problem) : finish_of<false>(problem);
}

#else

ProductTile product_tile(Unit) { throw std::invalid_argument("products need AVX-512"); }
FinishTile finish_tile(const ProductProblem&) {
    throw std::invalid_argument("products need AVX-512");
}

#endif  // __x86_64__

}  // namespace clipfast
