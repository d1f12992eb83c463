#include "cpu/row_convert.h"

#include "cpu/lanes.h"
#include "cpu/x86.h"

namespace clipfast {
namespace {

void copy_widen(const char* row, std::int64_t count, float* out) {
    std::memcpy(out, row, count * sizeof(float));
}

void copy_narrow(const float* row, std::int64_t count, char* out) {
    std::memcpy(out, row, count * sizeof(float));
}

template <Dtype dtype>
void widen_serial(const char* row, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = load_element(dtype, row, i);
}

template <Dtype dtype>
void narrow_serial(const float* row, std::int64_t count, char* out) {
    for (std::int64_t i = 0; i < count; ++i) store_element(dtype, out, i, row[i]);
}

#if defined(__x86_64__)

template <Dtype dtype>
AVX2 void widen_avx2(const char* row, std::int64_t count, float* out) {
    std::int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 2 * i));
        const __m256 wide =
            dtype == Dtype::f16
                ? _mm256_cvtph_ps(half)
                : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
        _mm256_storeu_ps(out + i, wide);
    }
    widen_serial<dtype>(row + 2 * i, count - i, out + i);
}

// Eight float32 to bfloat16 by integer arithmetic: half an ulp less for an even result is added
// before the cut; NaN is made quiet.
AVX2 INLINE __m128i bf16_of_8(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}

template <Dtype dtype>
AVX2 void narrow_avx2(const float* row, std::int64_t count, char* out) {
    std::int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m256 x = _mm256_loadu_ps(row + i);
        const __m128i half =
            dtype == Dtype::f16 ? _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT) : bf16_of_8(x);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i), half);
    }
    narrow_serial<dtype>(row + i, count - i, out + 2 * i);
}

template <Dtype dtype>
AVX512 void widen_avx512(const char* row, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; i += 16) {
        const __m256i half = load_halves(row + 2 * i, count - i);
        const __m512 wide =
            dtype == Dtype::f16
                ? _mm512_cvtph_ps(half)
                : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
        store_floats(out + i, count - i, wide);
    }
}

AVX512 INLINE __m256i bf16_of_16(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet));
}

template <Dtype dtype>
AVX512 void narrow_avx512(const float* row, std::int64_t count, char* out) {
    for (std::int64_t i = 0; i < count; i += 16) {
        const __m512 x = load_floats(row + i, count - i);
        const __m256i half =
            dtype == Dtype::f16 ? _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT) : bf16_of_16(x);
        store_halves(out + 2 * i, count - i, half);
    }
}

AVX512_BF16 void narrow_avx512_bf16(const float* row, std::int64_t count, char* out) {
    for (std::int64_t i = 0; i < count; i += 16) {
        const __m512 x = load_floats(row + i, count - i);
        store_halves(out + 2 * i, count - i, (__m256i)_mm512_cvtneps_pbh(x));
    }
}

#endif  // __x86_64__

template <Dtype dtype>
WidenRow widen_half(Isa isa) {
#if defined(__x86_64__)
    switch (isa) {
        case Isa::serial:
            break;
        case Isa::avx2:
            return widen_avx2<dtype>;
        case Isa::avx512:
        case Isa::avx512_bf16:
            return widen_avx512<dtype>;
    }
#endif
    return widen_serial<dtype>;
}

template <Dtype dtype>
NarrowRow narrow_half(Isa isa) {
#if defined(__x86_64__)
    switch (isa) {
        case Isa::serial:
            break;
        case Isa::avx2:
            return narrow_avx2<dtype>;
        case Isa::avx512_bf16:
            if (dtype == Dtype::bf16) return narrow_avx512_bf16;
            [[fallthrough]];
        case Isa::avx512:
            return narrow_avx512<dtype>;
    }
#endif
    return narrow_serial<dtype>;
}

}  // namespace

WidenRow widen_row(Isa isa, Dtype dtype) {
    switch (dtype) {
        case Dtype::f16:
            return widen_half<Dtype::f16>(isa);
        case Dtype::bf16:
            return widen_half<Dtype::bf16>(isa);
        case Dtype::f32:
            break;
    }
    return copy_widen;
}

NarrowRow narrow_row(Isa isa, Dtype dtype) {
    switch (dtype) {
        case Dtype::f16:
            return narrow_half<Dtype::f16>(isa);
        case Dtype::bf16:
            return narrow_half<Dtype::bf16>(isa);
        case Dtype::f32:
            break;
    }
    return copy_narrow;
}

}  // namespace clipfast
