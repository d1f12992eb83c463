#include "cpu/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/row_convert.h"

#if defined(__x86_64__)
// GCC 12's own header warns where it leaves a register undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#endif

namespace clipfast {
namespace {

constexpr std::int64_t kTaskRows = 16;

// What is done to one row of float32, in place.
struct RowKernels {
    void (*add)(float* x, const float* y, std::int64_t count);
    // Rows are filled up with kFill elements that may be read and written.
    void (*normalise)(float* x, std::int64_t count, const float* weight, const float* bias,
                      float eps);
};

constexpr std::int64_t kFill = 16;

void add_serial(float* x, const float* y, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) x[i] += y[i];
}

void scale_and_shift(float* x, std::int64_t count, const float* weight, const float* bias) {
    for (std::int64_t i = 0; i < count && weight; ++i) x[i] *= weight[i];
    for (std::int64_t i = 0; i < count && bias; ++i) x[i] += bias[i];
}

void normalise_serial(float* x, std::int64_t count, const float* weight, const float* bias,
                      float eps) {
    double sum = 0, squares = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += x[i];
    const double mean = sum / static_cast<double>(count);
    for (std::int64_t i = 0; i < count; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(count) + eps);
    for (std::int64_t i = 0; i < count; ++i) x[i] = static_cast<float>((x[i] - mean) * inverse);
    scale_and_shift(x, count, weight, bias);
}

struct Moments {
    float mean;
    float inverse;  // of the standard deviation
};

// Of values whose approximate mean was subtracted: their sum is what that mean was wrong by.
inline Moments corrected(float sum, float squares, float count, float eps) {
    const float mean = sum / count;
    const float variance = squares / count - mean * mean;
    return {mean, 1 / std::sqrt((variance > 0 ? variance : 0) + eps)};
}

#if defined(__x86_64__)

AVX2 void add_avx2(float* x, const float* y, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += 8)
        _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
}

AVX2 inline float sum_avx2(__m256 x) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, x);
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
           ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

AVX2 void normalise_avx2(float* x, std::int64_t count, const float* weight, const float* bias,
                         float eps) {
    const std::int64_t whole = count / 8 * 8;
    const float n = static_cast<float>(count);
    __m256 sums = _mm256_setzero_ps();
    for (std::int64_t i = 0; i < whole; i += 8) sums = _mm256_add_ps(sums, _mm256_loadu_ps(x + i));
    float sum = sum_avx2(sums);
    for (std::int64_t i = whole; i < count; ++i) sum += x[i];
    const float mean = sum / n;
    const __m256 means = _mm256_set1_ps(mean);
    __m256 squares = _mm256_setzero_ps();
    sums = _mm256_setzero_ps();
    for (std::int64_t i = 0; i < whole; i += 8) {
        const __m256 centred = _mm256_sub_ps(_mm256_loadu_ps(x + i), means);
        _mm256_storeu_ps(x + i, centred);
        sums = _mm256_add_ps(sums, centred);
        squares = _mm256_fmadd_ps(centred, centred, squares);
    }
    float rest = sum_avx2(sums), square = sum_avx2(squares);
    for (std::int64_t i = whole; i < count; ++i) {
        x[i] -= mean;
        rest += x[i];
        square += x[i] * x[i];
    }
    const Moments m = corrected(rest, square, n, eps);
    const __m256 left = _mm256_set1_ps(m.mean), inverse = _mm256_set1_ps(m.inverse);
    for (std::int64_t i = 0; i < count; i += 8)
        _mm256_storeu_ps(x + i,
                         _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), left), inverse));
    scale_and_shift(x, count, weight, bias);
}

AVX512 void add_avx512(float* x, const float* y, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += 16)
        _mm512_storeu_ps(x + i, _mm512_add_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(y + i)));
}

AVX512 inline __mmask16 lanes_left(std::int64_t left) {
    return left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
}

AVX512 void normalise_avx512(float* x, std::int64_t count, const float* weight, const float* bias,
                             float eps) {
    const float n = static_cast<float>(count);
    __m512 sums = _mm512_setzero_ps();
    for (std::int64_t i = 0; i < count; i += 16)
        sums = _mm512_add_ps(sums, _mm512_maskz_loadu_ps(lanes_left(count - i), x + i));
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sums) / n);
    __m512 squares = _mm512_setzero_ps();
    sums = _mm512_setzero_ps();
    for (std::int64_t i = 0; i < count; i += 16) {
        const __m512 centred =
            _mm512_maskz_sub_ps(lanes_left(count - i), _mm512_loadu_ps(x + i), mean);
        _mm512_storeu_ps(x + i, centred);
        sums = _mm512_add_ps(sums, centred);
        squares = _mm512_fmadd_ps(centred, centred, squares);
    }
    const Moments m = corrected(_mm512_reduce_add_ps(sums), _mm512_reduce_add_ps(squares), n, eps);
    const __m512 left = _mm512_set1_ps(m.mean), inverse = _mm512_set1_ps(m.inverse);
    for (std::int64_t i = 0; i < count; i += 16)
        _mm512_storeu_ps(x + i,
                         _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), left), inverse));
    scale_and_shift(x, count, weight, bias);
}

#endif  // __x86_64__

RowKernels row_kernels(Isa isa) {
#if defined(__x86_64__)
    switch (isa) {
        case Isa::serial:
            break;
        case Isa::avx2:
            return {add_avx2, normalise_avx2};
        case Isa::avx512:
        case Isa::avx512_bf16:
            return {add_avx512, normalise_avx512};
    }
#endif
    return {add_serial, normalise_serial};
}

}  // namespace

void layer_norm(const LayerNormProblem& problem) {
    const RowKernels kernels = row_kernels(problem.isa);
    const auto widen = [&](const TypedMatrix& m) { return widen_row(problem.isa, m.dtype); };
    const auto narrow = [&](const TypedMatrix& m) { return narrow_row(problem.isa, m.dtype); };
    const WidenRow widen_x = widen(problem.x), widen_r = widen(problem.residual);
    const NarrowRow narrow_r = narrow(problem.residual), narrow_out = narrow(problem.out);
    const std::int64_t rows = problem.x.matrix.rows, width = problem.width;
    const bool adds = problem.residual.given();
    const std::int64_t tasks = (rows + kTaskRows - 1) / kTaskRows;
    const std::int64_t span = (width + kFill + 15) / 16 * 16;
    // All memory is taken before the threads start: an exception must not leave a parallel region.
    const int threads = static_cast<int>(std::clamp<std::int64_t>(problem.threads, 1, tasks + 1));
    std::vector<float> scratch(2 * span * threads);
    parallel_for(threads, threads, [&](std::int64_t t) {
        float* const r = scratch.data() + 2 * span * t;
        float* const other = r + span;
        for (std::int64_t i = rows * t / threads; i < rows * (t + 1) / threads; ++i) {
            widen_x(problem.x.row(i), width, r);
            if (adds) {
                widen_r(problem.residual.row(i), width, other);
                kernels.add(r, other, width);
                narrow_r(r, width, problem.sum.row_to_write(i));
                // The norm is that of the sum as it is stored.
                widen_r(problem.sum.row(i), width, r);
            }
            if (!problem.out.given()) continue;
            kernels.normalise(r, width, problem.weight, problem.bias, problem.eps);
            narrow_out(r, width, problem.out.row_to_write(i));
        }
    });
}

}  // namespace clipfast

#undef AVX2
#undef AVX512
