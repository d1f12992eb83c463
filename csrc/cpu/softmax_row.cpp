#include "cpu/softmax_row.h"

#include <cmath>
#include <limits>

#include "cpu/lanes.h"
#include "cpu/vector_exp.h"
#include "cpu/x86.h"

namespace clipfast {
namespace {

constexpr std::int64_t kSumBlock = 4096;

void softmax_serial(float* row, std::int64_t count) {
    float largest = row[0];
    for (std::int64_t i = 1; i < count; ++i) largest = row[i] > largest ? row[i] : largest;
    double sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += row[i] = std::exp(row[i] - largest);
    const float inverse = static_cast<float>(1 / sum);
    for (std::int64_t i = 0; i < count; ++i) row[i] *= inverse;
}

#if defined(__x86_64__)

// Lanes beyond the row's end hold -infinity, whose exponential is zero.
AVX2 INLINE __m256 load_avx2(const float* row, std::int64_t left) {
    if (left >= 8) return _mm256_loadu_ps(row);
    alignas(32) float buffer[8];
    for (int i = 0; i < 8; ++i) buffer[i] = i < left ? row[i] : -INFINITY;
    return _mm256_load_ps(buffer);
}

AVX2 INLINE void store_avx2(float* row, std::int64_t left, __m256 x) {
    if (left >= 8) return _mm256_storeu_ps(row, x);
    alignas(32) float buffer[8];
    _mm256_store_ps(buffer, x);
    for (int i = 0; i < left; ++i) row[i] = buffer[i];
}

AVX2 void softmax_avx2(float* row, std::int64_t count) {
    __m256 tops = _mm256_set1_ps(-INFINITY);
    for (std::int64_t i = 0; i < count; i += 8)
        tops = _mm256_max_ps(tops, load_avx2(row + i, count - i));
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, tops);
    float largest = lanes[0];
    for (float lane : lanes) largest = lane > largest ? lane : largest;
    double sum = 0;
    for (std::int64_t start = 0; start < count; start += kSumBlock) {
        const std::int64_t end = start + kSumBlock < count ? start + kSumBlock : count;
        __m256 sums = _mm256_setzero_ps();
        for (std::int64_t i = start; i < end; i += 8) {
            const __m256 shifted =
                _mm256_sub_ps(load_avx2(row + i, end - i), _mm256_set1_ps(largest));
            const __m256 e = exp_avx2(shifted);
            store_avx2(row + i, end - i, e);
            sums = _mm256_add_ps(sums, e);
        }
        _mm256_store_ps(lanes, sums);
        for (float lane : lanes) sum += lane;
    }
    const __m256 inverse = _mm256_set1_ps(static_cast<float>(1 / sum));
    for (std::int64_t i = 0; i < count; i += 8)
        store_avx2(row + i, count - i, _mm256_mul_ps(load_avx2(row + i, count - i), inverse));
}

AVX2 float exp_row_avx2(const float* x, std::int64_t seen, std::int64_t count, void* out) {
    __m256 tops = _mm256_set1_ps(-INFINITY), sums = _mm256_setzero_ps();
    for (std::int64_t i = 0; i < seen; i += 8)
        tops = _mm256_max_ps(tops, load_avx2(x + i, seen - i));
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, tops);
    float largest = lanes[0], sum = 0;
    for (float lane : lanes) largest = lane > largest ? lane : largest;
    for (std::int64_t i = 0; i < count; i += 8) {
        const __m256 shifted = _mm256_sub_ps(load_avx2(x + i, seen - i), _mm256_set1_ps(largest));
        const __m256 e = exp_avx2(shifted);
        _mm256_storeu_ps(static_cast<float*>(out) + i, e);
        sums = _mm256_add_ps(sums, e);
    }
    _mm256_store_ps(lanes, sums);
    for (float lane : lanes) sum += lane;
    return sum;
}

struct FloatsOut {
    AVX512 static INLINE __m512 exp(__m512 x) { return exp_avx512(x); }
    AVX512 static INLINE void store(void* out, std::int64_t i, __m512 e) {
        _mm512_storeu_ps(static_cast<float*>(out) + i, e);
    }
};

struct HalvesOut {
    AVX512_BF16 static INLINE __m512 exp(__m512 x) { return exp_coarse_avx512(x); }
    AVX512_BF16 static INLINE void store(void* out, std::int64_t i, __m512 e) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<char*>(out) + 2 * i),
                            (__m256i)_mm512_cvtneps_pbh(e));
    }
};

template <class Out>
AVX512_BF16 INLINE float exp_row_of_512(const float* x, std::int64_t seen, std::int64_t count,
                                        void* out) {
    const __m512 none = _mm512_set1_ps(-INFINITY);
    const std::int64_t whole = seen / 16 * 16;
    const __mmask16 rest = lanes_left(seen - whole);
    __m512 tops = _mm512_mask_mov_ps(none, rest, _mm512_loadu_ps(x + whole - (rest ? 0 : 16)));
    for (std::int64_t i = 0; i < whole; i += 16) tops = _mm512_max_ps(tops, _mm512_loadu_ps(x + i));
    const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(tops));
    __m512 sums = _mm512_setzero_ps();
    for (std::int64_t i = 0; i < count; i += 16) {
        const __m512 shifted = _mm512_sub_ps(_mm512_loadu_ps(x + i), largest);
        const __mmask16 lanes = i < whole ? 0xffff : i == whole ? rest : 0;
        const __m512 e = _mm512_maskz_mov_ps(lanes, Out::exp(shifted));
        Out::store(out, i, e);
        sums = _mm512_add_ps(sums, e);
    }
    return _mm512_reduce_add_ps(sums);
}

// Compiled for AVX512-BF16 also where Out needs less: it adds no instruction that a compiler emits
// unasked.
AVX512_BF16 float exp_row_avx512(const float* x, std::int64_t seen, std::int64_t count, void* out) {
    return exp_row_of_512<FloatsOut>(x, seen, count, out);
}

AVX512_BF16 float exp_row_avx512_bf16(const float* x, std::int64_t seen, std::int64_t count,
                                      void* out) {
    return exp_row_of_512<HalvesOut>(x, seen, count, out);
}

AVX512 void softmax_avx512(float* row, std::int64_t count) {
    const __m512 none = _mm512_set1_ps(-INFINITY);
    __m512 tops = none;
    for (std::int64_t i = 0; i < count; i += 16)
        tops = _mm512_max_ps(tops, _mm512_mask_loadu_ps(none, lanes_left(count - i), row + i));
    const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(tops));
    double sum = 0;
    for (std::int64_t start = 0; start < count; start += kSumBlock) {
        const std::int64_t end = start + kSumBlock < count ? start + kSumBlock : count;
        __m512 sums = _mm512_setzero_ps();
        for (std::int64_t i = start; i < end; i += 16) {
            const __mmask16 left = lanes_left(end - i);
            const __m512 x = _mm512_mask_loadu_ps(none, left, row + i);
            const __m512 e = exp_avx512(_mm512_sub_ps(x, largest));
            store_floats(row + i, end - i, e);
            sums = _mm512_add_ps(sums, e);
        }
        sum += _mm512_reduce_add_ps(sums);
    }
    const __m512 inverse = _mm512_set1_ps(static_cast<float>(1 / sum));
    for (std::int64_t i = 0; i < count; i += 16) {
        const __m512 e = load_floats(row + i, count - i);
        store_floats(row + i, count - i, _mm512_mul_ps(e, inverse));
    }
}

#endif  // __x86_64__

}  // namespace

ExpRow exp_row(Isa isa, Dtype out) {
#if defined(__x86_64__)
    switch (isa) {
        case Isa::serial:
            break;
        case Isa::avx2:
            return exp_row_avx2;
        case Isa::avx512_bf16:
            if (out == Dtype::bf16) return exp_row_avx512_bf16;
            [[fallthrough]];
        case Isa::avx512:
            return exp_row_avx512;
    }
#endif
    (void)isa, (void)out;
    return nullptr;
}

SoftmaxRow softmax_row(Isa isa) {
#if defined(__x86_64__)
    switch (isa) {
        case Isa::serial:
            break;
        case Isa::avx2:
            return softmax_avx2;
        case Isa::avx512:
        case Isa::avx512_bf16:
            return softmax_avx512;
    }
#endif
    return softmax_serial;
}

}  // namespace clipfast
