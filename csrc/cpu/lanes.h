// The first `left` lanes of an AVX-512 register, or all of them, from memory and back; others are
// zero.
//
// Whole registers take no mask: a masked store costs tens of cycles on Zen 4.
#pragma once

#include <cstdint>

#include "cpu/x86.h"

#if defined(__x86_64__)

namespace clipfast {

AVX512 INLINE __mmask16 lanes_left(std::int64_t left) {
    return left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
}

AVX512 INLINE __m512 load_floats(const float* from, std::int64_t left) {
    return left >= 16 ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(lanes_left(left), from);
}

AVX512 INLINE void store_floats(float* to, std::int64_t left, __m512 x) {
    if (left >= 16)
        _mm512_storeu_ps(to, x);
    else
        _mm512_mask_storeu_ps(to, lanes_left(left), x);
}

// Lanes of 16 bits.
AVX512 INLINE __m256i load_halves(const char* from, std::int64_t left) {
    return left >= 16 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))
                      : _mm256_maskz_loadu_epi16(lanes_left(left), from);
}

AVX512 INLINE void store_halves(char* to, std::int64_t left, __m256i x) {
    if (left >= 16)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
    else
        _mm256_mask_storeu_epi16(to, lanes_left(left), x);
}

AVX512 INLINE void store_bytes(std::uint8_t* to, std::int64_t left, __m128i x) {
    if (left >= 16)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), x);
    else
        _mm_mask_storeu_epi8(to, lanes_left(left), x);
}

}  // namespace clipfast

#endif  // __x86_64__
