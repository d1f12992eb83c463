#include "cpu/quantise.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/activation.h"
#include "cpu/lanes.h"
#include "cpu/parallel.h"
#include "cpu/row_convert.h"
#include "cpu/x86.h"

namespace clipfast {
namespace {

constexpr int kTop = 255;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::int64_t kFill = 16;  // elements after a row that may be read and written

struct Extremes {
    float lowest, highest;  // at most, at least zero; NaN where the row has one
};

struct RowKernels {
    Extremes (*extremes)(const float* x, std::int64_t count);
    void (*to_bytes)(const float* x, std::int64_t count, float inverse, int zero,
                     std::uint8_t* out);
    // y = activation(scale * y + bias)
    void (*finish)(float* y, std::int64_t count, float scale, const float* bias, Activation);
    void (*add)(float* y, const float* other, std::int64_t count);
};

// --- serial: the definition ---

Extremes extremes_serial(const float* x, std::int64_t count) {
    Extremes e = {0, 0};
    for (std::int64_t i = 0; i < count; ++i) {
        if (x[i] != x[i]) return {x[i], x[i]};
        e.lowest = std::min(e.lowest, x[i]);
        e.highest = std::max(e.highest, x[i]);
    }
    return e;
}

void to_bytes_serial(const float* x, std::int64_t count, float inverse, int zero,
                     std::uint8_t* out) {
    for (std::int64_t i = 0; i < count; ++i) {
        const float scaled = x[i] * inverse;
        const long byte = scaled == scaled ? std::lrint(scaled) + zero : zero;
        out[i] = static_cast<std::uint8_t>(std::clamp<long>(byte, 0, kTop));
    }
}

void finish_serial(float* y, std::int64_t count, float scale, const float* bias,
                   Activation activation) {
    for (std::int64_t i = 0; i < count; ++i)
        y[i] = activate(scale * y[i] + (bias ? bias[i] : 0), activation);
}

void add_serial(float* y, const float* other, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) y[i] += other[i];
}

#if defined(__x86_64__)

// --- AVX2: rows are filled up with zeros ---

AVX2 Extremes extremes_avx2(const float* x, std::int64_t count) {
    __m256 low = _mm256_setzero_ps(), high = low, nan = low;
    for (std::int64_t i = 0; i < count; i += 8) {
        const __m256 value = _mm256_loadu_ps(x + i);
        low = _mm256_min_ps(low, value);
        high = _mm256_max_ps(high, value);
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    }
    if (_mm256_movemask_ps(nan)) return {kNan, kNan};
    alignas(32) float lows[8], highs[8];
    _mm256_store_ps(lows, low);
    _mm256_store_ps(highs, high);
    Extremes e = {0, 0};
    for (int i = 0; i < 8; ++i) {
        e.lowest = lows[i] < e.lowest ? lows[i] : e.lowest;
        e.highest = highs[i] > e.highest ? highs[i] : e.highest;
    }
    return e;
}

AVX2 void to_bytes_avx2(const float* x, std::int64_t count, float inverse, int zero,
                        std::uint8_t* out) {
    for (std::int64_t i = 0; i < count; i += 8) {
        const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(inverse));
        const __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(scaled), _mm256_set1_epi32(zero));
        const __m128i words =
            _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        alignas(16) std::uint8_t bytes[16];
        _mm_store_si128(reinterpret_cast<__m128i*>(bytes), _mm_packus_epi16(words, words));
        std::memcpy(out + i, bytes, count - i < 8 ? count - i : 8);
    }
}

template <Activation activation>
AVX2 void finish_as_avx2(float* y, std::int64_t count, float scale, const float* bias) {
    for (std::int64_t i = 0; i < count; i += 8) {
        const __m256 shift = bias ? _mm256_loadu_ps(bias + i) : _mm256_setzero_ps();
        const __m256 x = _mm256_fmadd_ps(_mm256_set1_ps(scale), _mm256_loadu_ps(y + i), shift);
        _mm256_storeu_ps(y + i, activate_avx2(x, activation));
    }
}

void finish_avx2(float* y, std::int64_t count, float scale, const float* bias,
                 Activation activation) {
    switch (activation) {
        case Activation::none:
            return finish_as_avx2<Activation::none>(y, count, scale, bias);
        case Activation::silu:
            return finish_as_avx2<Activation::silu>(y, count, scale, bias);
        case Activation::gelu:
            return finish_as_avx2<Activation::gelu>(y, count, scale, bias);
    }
}

AVX2 void add_avx2(float* y, const float* other, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(other + i)));
}

// --- AVX-512 ---

AVX512 Extremes extremes_avx512(const float* x, std::int64_t count) {
    __m512 low = _mm512_setzero_ps(), high = low;
    unsigned nan = 0;
    for (std::int64_t i = 0; i < count; i += 16) {
        const __m512 value = _mm512_loadu_ps(x + i);
        low = _mm512_min_ps(low, value);
        high = _mm512_max_ps(high, value);
        nan |= _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    }
    if (nan) return {kNan, kNan};
    return {_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high)};
}

AVX512 void to_bytes_avx512(const float* x, std::int64_t count, float inverse, int zero,
                            std::uint8_t* out) {
    for (std::int64_t i = 0; i < count; i += 16) {
        const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(inverse));
        const __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(scaled), _mm512_set1_epi32(zero));
        const __m512i positive = _mm512_max_epi32(whole, _mm512_setzero_si512());
        store_bytes(out + i, count - i, _mm512_cvtusepi32_epi8(positive));
    }
}

template <Activation activation>
AVX512 void finish_as_avx512(float* y, std::int64_t count, float scale, const float* bias) {
    for (std::int64_t i = 0; i < count; i += 16) {
        const __m512 shift = bias ? _mm512_loadu_ps(bias + i) : _mm512_setzero_ps();
        const __m512 x = _mm512_fmadd_ps(_mm512_set1_ps(scale), _mm512_loadu_ps(y + i), shift);
        _mm512_storeu_ps(y + i, activate_avx512<false>(x, activation));
    }
}

void finish_avx512(float* y, std::int64_t count, float scale, const float* bias,
                   Activation activation) {
    switch (activation) {
        case Activation::none:
            return finish_as_avx512<Activation::none>(y, count, scale, bias);
        case Activation::silu:
            return finish_as_avx512<Activation::silu>(y, count, scale, bias);
        case Activation::gelu:
            return finish_as_avx512<Activation::gelu>(y, count, scale, bias);
    }
}

#endif  // __x86_64__

RowKernels row_kernels(Isa isa) {
#if defined(__x86_64__)
    switch (isa) {
        case Isa::serial:
            break;
        case Isa::avx2:
            return {extremes_avx2, to_bytes_avx2, finish_avx2, add_avx2};
        case Isa::avx512:
        case Isa::avx512_bf16:
            return {extremes_avx512, to_bytes_avx512, finish_avx512, add_avx2};
    }
#endif
    return {extremes_serial, to_bytes_serial, finish_serial, add_serial};
}

// Calls body(first, end, scratch) for the rows of each thread; scratch holds `rows` rows of zeros.
// All memory is taken before the threads start: an exception must not leave a parallel region.
template <class Body>
void for_rows(std::int64_t count, std::int64_t width, int rows, int most_threads,
              const Body& body) {
    const int threads = static_cast<int>(std::clamp<std::int64_t>(most_threads, 1, count / 4 + 1));
    const std::int64_t span = rows * (width + kFill);
    std::vector<float> scratch(span * threads);
    parallel_for(threads, threads, [&](std::int64_t t) {
        body(count * t / threads, count * (t + 1) / threads, scratch.data() + span * t);
    });
}

}  // namespace

void quantise(const QuantiseProblem& problem) {
    const RowKernels kernels = row_kernels(problem.isa);
    const WidenRow widen = widen_row(problem.isa, problem.x.dtype);
    const std::int64_t rows = problem.x.matrix.rows, width = problem.width;
    for_rows(rows, width, 1, problem.threads, [&](std::int64_t i, std::int64_t end, float* x) {
        for (; i < end; ++i) {
            widen(problem.x.row(i), width, x);
            const Extremes e = kernels.extremes(x, width);
            const float scale = std::max(e.highest / static_cast<float>(kTop - problem.zero),
                                         -e.lowest / static_cast<float>(problem.zero));
            problem.row_scale[i] = scale;
            kernels.to_bytes(
                x, width, scale > 0 ? 1 / scale : 0, problem.zero,
                reinterpret_cast<std::uint8_t*>(const_cast<char*>(problem.out.row(i))));
        }
    });
}

void dequantise(const DequantiseProblem& problem) {
    const RowKernels kernels = row_kernels(problem.isa);
    const WidenRow widen = widen_row(problem.isa, problem.y.dtype);
    const WidenRow widen_residual = widen_row(problem.isa, problem.residual.dtype);
    const NarrowRow narrow = narrow_row(problem.isa, problem.out.dtype);
    const std::int64_t rows = problem.y.matrix.rows, width = problem.width;
    std::vector<float> bias(problem.bias ? width + kFill : 0);
    if (problem.bias) std::copy(problem.bias, problem.bias + width, bias.begin());
    for_rows(rows, width, 2, problem.threads, [&](std::int64_t i, std::int64_t end, float* y) {
        float* const other = y + width + kFill;
        for (; i < end; ++i) {
            widen(problem.y.row(i), width, y);
            kernels.finish(y, width, problem.row_scale[i], problem.bias ? bias.data() : nullptr,
                           problem.activation);
            if (problem.residual.given()) {
                widen_residual(problem.residual.row(i), width, other);
                kernels.add(y, other, width);
            }
            narrow(y, width, problem.out.row_to_write(i));
        }
    });
}

}  // namespace clipfast
