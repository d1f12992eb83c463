// exp of a register of float32, within 2 ulp; below exp(-87) it is zero, and NaN stays NaN.
// exp_coarse is within 3e-6, relative: for what bfloat16 will round.
// Source of the polynomial: Cephes, expf; of the coarse one: minimax of 2^f, |f| <= 1/2.
#pragma once

#include "cpu/x86.h"

#if defined(__x86_64__)

namespace clipfast {

// exp(x) = 2^n * exp(r), n = round(x / ln 2), r = x - n ln 2 in two parts, |r| <= ln 2 / 2.
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;
constexpr float kC5 = 1.9875691500e-4f, kC4 = 1.3981999507e-3f, kC3 = 8.3334519073e-3f;
constexpr float kC2 = 4.1665795894e-2f, kC1 = 1.6666665459e-1f, kC0 = 5.0000001201e-1f;
constexpr float kLowest = -87.0f;

AVX2 static INLINE __m256 exp_avx2(__m256 x) {
    const __m256 lowest = _mm256_set1_ps(kLowest);
    const __m256 vanishes = _mm256_cmp_ps(x, lowest, _CMP_LT_OQ);
    const __m256 clamped = _mm256_max_ps(lowest, x);  // the second operand, x, where x is NaN
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(clamped, _mm256_set1_ps(kLog2E)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2High), clamped);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2Low), r);
    __m256 p = _mm256_set1_ps(kC5);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kC4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kC3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kC2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kC1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kC0));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    return _mm256_andnot_ps(vanishes, _mm256_mul_ps(p, power));
}

AVX512 static INLINE __m512 exp_avx512(__m512 x) {
    const __m512 lowest = _mm512_set1_ps(kLowest);
    const __mmask16 stays = _mm512_cmp_ps_mask(x, lowest, _CMP_NLT_UQ);
    const __m512 clamped = _mm512_max_ps(lowest, x);  // the second operand, x, where x is NaN
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(clamped, _mm512_set1_ps(kLog2E)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2High), clamped);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2Low), r);
    __m512 p = _mm512_set1_ps(kC5);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kC4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kC3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kC2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kC1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kC0));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(stays, p, n);
}

constexpr float kD4 = 0.00957009662f, kD3 = 0.0559178591f, kD2 = 0.240247443f;
constexpr float kD1 = 0.693121791f, kD0 = 0.999999285f;

AVX512 INLINE __m512 exp_coarse_avx512(__m512 x) {
    const __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(kLog2E));
    const __m512 n = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(power, n);
    __m512 p = _mm512_set1_ps(kD4);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kD3));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kD2));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kD1));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kD0));
    return _mm512_scalef_ps(p, n);
}

}  // namespace clipfast

#endif  // __x86_64__
