// Activations, a float and a register at a time.
//
// SiLU is within 3 ulp, the coarse one within 2^-13: for what bfloat16 will round. GELU
// is within 2e-7 of the exact one: erf by Abramowitz and Stegun, 7.1.26,
//     erf(z) = 1 - t (a1 + t (a2 + ...)) exp(-z^2), t = 1 / (1 + p z), z >= 0.
#pragma once

#include <cmath>

#include "cpu/vector_exp.h"
#include "cpu/x86.h"

namespace clipfast {

enum class Activation { none, silu, gelu };

constexpr float kErfP = 0.3275911f, kErf1 = 0.254829592f, kErf2 = -0.284496736f;
constexpr float kErf3 = 1.421413741f, kErf4 = -1.453152027f, kErf5 = 1.061405429f;
constexpr float kRootHalf = 0.70710678f;

INLINE float activate(float y, Activation activation) {
    switch (activation) {
        case Activation::none:
            return y;
        case Activation::silu:
            return y / (1 + std::exp(-y));
        case Activation::gelu:
            return 0.5f * y * (1 + std::erf(y * kRootHalf));
    }
    return y;
}

#if defined(__x86_64__)

AVX2 INLINE __m256 activate_avx2(__m256 y, Activation activation) {
    const __m256 one = _mm256_set1_ps(1), sign = _mm256_set1_ps(-0.0f);
    if (activation == Activation::silu) {
        const __m256 e = exp_avx2(_mm256_or_ps(sign, y));
        const __m256 upper = _mm256_blendv_ps(y, _mm256_mul_ps(y, e), y);
        return _mm256_div_ps(upper, _mm256_add_ps(one, e));
    }
    if (activation == Activation::none) return y;
    const __m256 z = _mm256_mul_ps(_mm256_andnot_ps(sign, y), _mm256_set1_ps(kRootHalf));
    const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(z, _mm256_set1_ps(kErfP), one));
    __m256 p = _mm256_set1_ps(kErf5);
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(kErf4));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(kErf3));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(kErf2));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(kErf1));
    const __m256 e = exp_avx2(_mm256_xor_ps(sign, _mm256_mul_ps(z, z)));
    const __m256 tail = _mm256_mul_ps(_mm256_mul_ps(p, t), e);  // 1 - erf(z)
    const __m256 half = _mm256_mul_ps(_mm256_set1_ps(0.5f), y);
    return _mm256_mul_ps(half, _mm256_blendv_ps(_mm256_sub_ps(_mm256_set1_ps(2), tail), tail, y));
}

// 1 / x of finite x, within 2^-22.
AVX512 INLINE __m512 reciprocal_avx512(__m512 x) {
    const __m512 r = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(r, _mm512_fnmadd_ps(x, r, _mm512_set1_ps(2)));
}

template <bool coarse>
AVX512 INLINE __m512 activate_avx512(__m512 y, Activation activation) {
    const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1);
    if (activation == Activation::silu) {
        const __m512 minus = _mm512_sub_ps(zero, y);
        if (coarse)
            return _mm512_mul_ps(y, _mm512_rcp14_ps(_mm512_add_ps(one, exp_coarse_avx512(minus))));
        return _mm512_div_ps(y, _mm512_add_ps(one, exp_avx512(minus)));
    }
    if (activation == Activation::none) return y;
    const __m512 z = _mm512_mul_ps(_mm512_abs_ps(y), _mm512_set1_ps(kRootHalf));
    const __m512 d = _mm512_fmadd_ps(z, _mm512_set1_ps(kErfP), one);
    const __m512 t = coarse ? reciprocal_avx512(d) : _mm512_div_ps(one, d);
    __m512 p = _mm512_set1_ps(kErf5);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(kErf4));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(kErf3));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(kErf2));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(kErf1));
    const __m512 square = _mm512_fnmadd_ps(z, z, zero);
    const __m512 e = coarse ? exp_coarse_avx512(square) : exp_avx512(square);
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, t), e);  // 1 - erf(z)
    const __mmask16 negative = _mm512_cmp_ps_mask(y, zero, _CMP_LT_OQ);
    const __m512 twice_phi =
        _mm512_mask_mov_ps(_mm512_sub_ps(_mm512_set1_ps(2), tail), negative, tail);
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.5f), y), twice_phi);
}

#endif  // __x86_64__

}  // namespace clipfast
