// Register tiles: 4 rows x 4 vectors in AVX-512 (16 accumulators), 4 x 2 in AVX2.

#include "cpu/attention_tile.h"

#include "cpu/x86.h"

namespace clipfast {
namespace {

#if defined(__x86_64__)

// --- AVX2: 8 lanes of float32 ---

AVX2 void transpose_avx2(const std::uint32_t* rows, std::int64_t stride, std::int64_t units,
                         std::uint32_t* panel) {
    for (std::int64_t u = 0; u < units; u += 8, panel += 64) {
        __m256 x[8], y[8];
        for (int r = 0; r < 8; ++r)
            x[r] = _mm256_loadu_ps(reinterpret_cast<const float*>(rows + r * stride + u));
        for (int r = 0; r < 8; r += 2) {
            y[r] = _mm256_unpacklo_ps(x[r], x[r + 1]);
            y[r + 1] = _mm256_unpackhi_ps(x[r], x[r + 1]);
        }
        for (int r = 0; r < 8; r += 4) {
            x[r] = _mm256_shuffle_ps(y[r], y[r + 2], 0x44);
            x[r + 1] = _mm256_shuffle_ps(y[r], y[r + 2], 0xee);
            x[r + 2] = _mm256_shuffle_ps(y[r + 1], y[r + 3], 0x44);
            x[r + 3] = _mm256_shuffle_ps(y[r + 1], y[r + 3], 0xee);
        }
        float* out = reinterpret_cast<float*>(panel);
        for (int r = 0; r < 4; ++r) {
            _mm256_storeu_ps(out + 8 * r, _mm256_permute2f128_ps(x[r], x[r + 4], 0x20));
            _mm256_storeu_ps(out + 8 * (r + 4), _mm256_permute2f128_ps(x[r], x[r + 4], 0x31));
        }
    }
}

AVX2 void interleave_avx2(const char* first, const char*, std::int64_t vectors,
                          std::int64_t panel_units, std::int64_t at, std::uint32_t* panel) {
    for (std::int64_t v = 0; v < vectors; ++v) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first + 32 * v));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(panel + (v * panel_units + at) * 8), x);
    }
}

template <int count>
AVX2 INLINE void product_of(const std::uint32_t* rows, std::int64_t stride,
                            const std::uint32_t* panel, std::int64_t panel_units,
                            std::int64_t units, float* out, std::int64_t out_stride) {
    const float* a = reinterpret_cast<const float*>(rows);
    const float* b = reinterpret_cast<const float*>(panel);
    __m256 sums[kTileRows][count] = {};
    for (std::int64_t u = 0; u < units; ++u) {
        __m256 x[count];
        for (int v = 0; v < count; ++v) x[v] = _mm256_loadu_ps(b + (v * panel_units + u) * 8);
        for (int r = 0; r < kTileRows; ++r) {
            const __m256 row = _mm256_broadcast_ss(a + r * stride + u);
            for (int v = 0; v < count; ++v) sums[r][v] = _mm256_fmadd_ps(row, x[v], sums[r][v]);
        }
    }
    for (int r = 0; r < kTileRows; ++r)
        for (int v = 0; v < count; ++v) _mm256_storeu_ps(out + r * out_stride + v * 8, sums[r][v]);
}

AVX2 void product_avx2(const std::uint32_t* rows, std::int64_t stride, const std::uint32_t* panel,
                       std::int64_t panel_units, std::int64_t units, std::int64_t vectors,
                       float* out, std::int64_t out_stride) {
    std::int64_t v = 0;
    for (; v + 2 <= vectors; v += 2)
        product_of<2>(rows, stride, panel + v * panel_units * 8, panel_units, units, out + v * 8,
                      out_stride);
    if (v < vectors)
        product_of<1>(rows, stride, panel + v * panel_units * 8, panel_units, units, out + v * 8,
                      out_stride);
}

AVX2 void scale_avx2(float* row, std::int64_t vectors, float factor) {
    for (std::int64_t i = 0; i < 8 * vectors; i += 8)
        _mm256_storeu_ps(row + i, _mm256_mul_ps(_mm256_loadu_ps(row + i), _mm256_set1_ps(factor)));
}

// --- AVX-512: 16 lanes of units ---

AVX512 void transpose_avx512(const std::uint32_t* rows, std::int64_t stride, std::int64_t units,
                             std::uint32_t* panel) {
    for (std::int64_t u = 0; u < units; u += 16, panel += 256) {
        __m512i x[16], y[16];
        for (int r = 0; r < 16; ++r) x[r] = _mm512_loadu_si512(rows + r * stride + u);
        for (int r = 0; r < 16; r += 2) {
            y[r] = _mm512_unpacklo_epi32(x[r], x[r + 1]);
            y[r + 1] = _mm512_unpackhi_epi32(x[r], x[r + 1]);
        }
        for (int r = 0; r < 16; r += 4) {
            x[r] = _mm512_unpacklo_epi64(y[r], y[r + 2]);
            x[r + 1] = _mm512_unpackhi_epi64(y[r], y[r + 2]);
            x[r + 2] = _mm512_unpacklo_epi64(y[r + 1], y[r + 3]);
            x[r + 3] = _mm512_unpackhi_epi64(y[r + 1], y[r + 3]);
        }
        // x[4 g + c], 128-bit lane q: units 4 q + c of rows 4 g .. 4 g + 3.
        for (int c = 0; c < 4; ++c) {
            const __m512i low = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x88);
            const __m512i high = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xdd);
            const __m512i low_2 = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x88);
            const __m512i high_2 = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xdd);
            _mm512_storeu_si512(panel + 16 * c, _mm512_shuffle_i32x4(low, low_2, 0x88));
            _mm512_storeu_si512(panel + 16 * (4 + c), _mm512_shuffle_i32x4(high, high_2, 0x88));
            _mm512_storeu_si512(panel + 16 * (8 + c), _mm512_shuffle_i32x4(low, low_2, 0xdd));
            _mm512_storeu_si512(panel + 16 * (12 + c), _mm512_shuffle_i32x4(high, high_2, 0xdd));
        }
    }
}

AVX512 void interleave_avx512(const char* first, const char*, std::int64_t vectors,
                              std::int64_t panel_units, std::int64_t at, std::uint32_t* panel) {
    for (std::int64_t v = 0; v < vectors; ++v)
        _mm512_storeu_si512(panel + (v * panel_units + at) * 16,
                            _mm512_loadu_si512(first + 64 * v));
}

AVX512 void interleave_pairs(const char* first, const char* second, std::int64_t vectors,
                             std::int64_t panel_units, std::int64_t at, std::uint32_t* panel) {
    for (std::int64_t v = 0; v < vectors; ++v) {
        const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first + 32 * v));
        const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second + 32 * v));
        const __m512i units = _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                              _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
        _mm512_storeu_si512(panel + (v * panel_units + at) * 16, units);
    }
}

struct FloatUnit {
    AVX512 static INLINE __m512 multiply_add(__m512i a, __m512i b, __m512 sum) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
    }
};

struct Bf16Unit {
    AVX512_BF16 static INLINE __m512 multiply_add(__m512i a, __m512i b, __m512 sum) {
        return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
    }
};

// Compiled for AVX512-BF16 also where Unit needs less: it adds no instruction that a compiler
// emits unasked.
template <class Unit, int count>
AVX512_BF16 INLINE void product_of_512(const std::uint32_t* rows, std::int64_t stride,
                                       const std::uint32_t* panel, std::int64_t panel_units,
                                       std::int64_t units, float* out, std::int64_t out_stride) {
    __m512 sums[kTileRows][count] = {};
    for (std::int64_t u = 0; u < units; ++u) {
        __m512i x[count];
        for (int v = 0; v < count; ++v)
            x[v] = _mm512_loadu_si512(panel + (v * panel_units + u) * 16);
        for (int r = 0; r < kTileRows; ++r) {
            const __m512i row = _mm512_set1_epi32(static_cast<int>(rows[r * stride + u]));
            for (int v = 0; v < count; ++v) sums[r][v] = Unit::multiply_add(row, x[v], sums[r][v]);
        }
    }
    for (int r = 0; r < kTileRows; ++r)
        for (int v = 0; v < count; ++v) _mm512_storeu_ps(out + r * out_stride + v * 16, sums[r][v]);
}

template <class Unit>
AVX512_BF16 void product_avx512(const std::uint32_t* rows, std::int64_t stride,
                                const std::uint32_t* panel, std::int64_t panel_units,
                                std::int64_t units, std::int64_t vectors, float* out,
                                std::int64_t out_stride) {
    std::int64_t v = 0;
    for (; v + 4 <= vectors; v += 4)
        product_of_512<Unit, 4>(rows, stride, panel + v * panel_units * 16, panel_units, units,
                                out + v * 16, out_stride);
    const std::uint32_t* rest = panel + v * panel_units * 16;
    switch (vectors - v) {
        case 3:
            return product_of_512<Unit, 3>(rows, stride, rest, panel_units, units, out + v * 16,
                                           out_stride);
        case 2:
            return product_of_512<Unit, 2>(rows, stride, rest, panel_units, units, out + v * 16,
                                           out_stride);
        case 1:
            return product_of_512<Unit, 1>(rows, stride, rest, panel_units, units, out + v * 16,
                                           out_stride);
    }
}

AVX512 void scale_avx512(float* row, std::int64_t vectors, float factor) {
    for (std::int64_t i = 0; i < 16 * vectors; i += 16)
        _mm512_storeu_ps(row + i, _mm512_mul_ps(_mm512_loadu_ps(row + i), _mm512_set1_ps(factor)));
}

#endif  // __x86_64__

}  // namespace

AttentionTile attention_tile(Isa isa, Dtype dtype) {
#if defined(__x86_64__)
    switch (isa) {
        case Isa::serial:
            break;
        case Isa::avx2:
            return {8, 1, transpose_avx2, interleave_avx2, product_avx2, scale_avx2};
        case Isa::avx512_bf16:
            if (dtype == Dtype::bf16)
                return {
                    16,          2, transpose_avx512, interleave_pairs, product_avx512<Bf16Unit>,
                    scale_avx512};
            [[fallthrough]];
        case Isa::avx512:
            return {16,          1, transpose_avx512, interleave_avx512, product_avx512<FloatUnit>,
                    scale_avx512};
    }
#endif
    (void)isa, (void)dtype;
    return {};
}

}  // namespace clipfast
