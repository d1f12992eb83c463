// Registers: 24 of sums, four of the panel's unit, one with a row's unit in every lane.

#include "cpu/product_tile.h"

#include <algorithm>
#include <stdexcept>

#include "cpu/x86.h"

namespace clipfast {

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
                          const void* start, float* out) {
    const typename Kind::Sum zero = {};
    typename Kind::Sum sums[rows][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] = Kind::start(start, v);
    for (std::int64_t u = 0, end = Kind::kBlock; u < units; end += Kind::kBlock) {
        for (; u < std::min(end, units); ++u) {
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
        const bool first = end == Kind::kBlock, last = u == units;
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
             const void* start, float* sums) {
    using SumRows = decltype(&sum_rows<Kind, 1>);
    static constexpr SumRows of[kProductRows] = {sum_rows<Kind, 1>, sum_rows<Kind, 2>,
                                                 sum_rows<Kind, 3>, sum_rows<Kind, 4>,
                                                 sum_rows<Kind, 5>, sum_rows<Kind, 6>};
    of[rows - 1](x, stride, panel, units, start, sums);
}

// --- what follows ---

// 16 elements of a row, or those before its end.
template <Dtype dtype, bool whole>
AVX512_BF16 INLINE __m512 load(const char* row, std::int64_t i, __mmask16 lanes) {
    if (dtype == Dtype::f32) {
        const float* from = reinterpret_cast<const float*>(row) + i;
        return whole ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(lanes, from);
    }
    const char* from = row + 2 * i;
    const __m256i bits = whole ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))
                               : _mm256_maskz_loadu_epi16(lanes, from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

template <Dtype dtype, bool whole>
AVX512_BF16 INLINE void store(char* row, std::int64_t i, __mmask16 lanes, __m512 y) {
    if (dtype == Dtype::f32) {
        float* to = reinterpret_cast<float*>(row) + i;
        whole ? _mm512_storeu_ps(to, y) : _mm512_mask_storeu_ps(to, lanes, y);
        return;
    }
    char* to = row + 2 * i;
    const __m256i bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(y));
    whole ? _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits)
          : _mm256_mask_storeu_epi16(to, lanes, bits);
}

template <Activation activation, Dtype dtype, bool scaled, bool whole>
AVX512_BF16 void finish_columns(const ProductProblem& p, const TilePlace& place,
                                const float* sums) {
    for (std::int64_t r = 0; r < place.rows; ++r, sums += kPanelFeatures) {
        const std::int64_t row = place.row + r;
        const __m512 row_scale = _mm512_set1_ps(scaled ? p.row_scale[row] : 1);
        for (std::int64_t i = 0; i < (whole ? kPanelFeatures : place.columns); i += 16) {
            const std::int64_t left = place.columns - i, column = place.column + i;
            const __mmask16 lanes = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
            __m512 y = _mm512_loadu_ps(sums + i);
            if (scaled) {
                const __m512 scale = load<Dtype::f32, whole>(
                    reinterpret_cast<const char*>(p.column_scale), column, lanes);
                const __m512 bias = p.bias
                                        ? load<Dtype::f32, whole>(
                                              reinterpret_cast<const char*>(p.bias), column, lanes)
                                        : _mm512_setzero_ps();
                y = _mm512_fmadd_ps(y, _mm512_mul_ps(row_scale, scale), bias);
            }
            y = activate_avx512<dtype == Dtype::bf16>(y, activation);
            if (p.residual.given())
                y = _mm512_add_ps(y, load<dtype, whole>(p.residual.row(row), column, lanes));
            store<dtype, whole>(p.out.row_to_write(row), column, lanes, y);
        }
    }
}

template <Activation activation, Dtype dtype, bool scaled>
void finish(const ProductProblem& problem, const TilePlace& place, const float* sums) {
    if (place.columns == kPanelFeatures)
        finish_columns<activation, dtype, scaled, true>(problem, place, sums);
    else
        finish_columns<activation, dtype, scaled, false>(problem, place, sums);
}

template <Activation activation, bool scaled>
FinishTile finish_into(Dtype dtype) {
    return dtype == Dtype::f32 ? finish<activation, Dtype::f32, scaled>
                               : finish<activation, Dtype::bf16, scaled>;
}

template <bool scaled>
FinishTile finish_with(Activation activation, Dtype dtype) {
    switch (activation) {
        case Activation::none:
            return finish_into<Activation::none, scaled>(dtype);
        case Activation::silu:
            return finish_into<Activation::silu, scaled>(dtype);
        case Activation::gelu:
            return finish_into<Activation::gelu, scaled>(dtype);
    }
    throw std::logic_error("an activation that finish does not know");
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
    return problem.unit == Unit::bytes ? finish_with<true>(problem.activation, problem.out.dtype)
                                       : finish_with<false>(problem.activation, problem.out.dtype);
}

#else

ProductTile product_tile(Unit) { throw std::invalid_argument("products need AVX-512"); }
FinishTile finish_tile(const ProductProblem&) {
    throw std::invalid_argument("products need AVX-512");
}

#endif  // __x86_64__

}  // namespace clipfast
