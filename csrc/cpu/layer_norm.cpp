#include "cpu/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/lanes.h"
#include "cpu/parallel.h"
#include "cpu/row_convert.h"
#include "cpu/x86.h"

namespace clipfast {
namespace {

constexpr std::int64_t kTaskRows = 16;
constexpr std::int64_t kFill = 16;  // elements after a scratch row that may be written

// What is done to rows of float32.
struct RowKernels {
    void (*add)(const float* x, const float* y, std::int64_t count, float* out);
    // out: a scratch row.
    void (*normalise)(const float* x, std::int64_t count, float eps, float* out);
};

void add_serial(const float* x, const float* y, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = x[i] + y[i];
}

void normalise_serial(const float* x, std::int64_t count, float eps, float* out) {
    double sum = 0, squares = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += x[i];
    const double mean = sum / static_cast<double>(count);
    for (std::int64_t i = 0; i < count; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(count) + eps);
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>((x[i] - mean) * inverse);
}

void scale_and_shift(float* x, std::int64_t count, const float* weight, const float* bias) {
    for (std::int64_t i = 0; i < count && weight; ++i) x[i] *= weight[i];
    for (std::int64_t i = 0; i < count && bias; ++i) x[i] += bias[i];
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

AVX2 void add_avx2(const float* x, const float* y, std::int64_t count, float* out) {
    std::int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    for (; i < count; ++i) out[i] = x[i] + y[i];
}

AVX2 inline float sum_avx2(const __m256 (&x)[2]) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, _mm256_add_ps(x[0], x[1]));
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
           ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

AVX2 void normalise_avx2(const float* x, std::int64_t count, float eps, float* out) {
    const std::int64_t whole = count / 16 * 16;
    const float n = static_cast<float>(count);
    __m256 sums[2] = {}, squares[2] = {};
    for (std::int64_t i = 0; i < whole; i += 16)
        for (int k = 0; k < 2; ++k)
            sums[k] = _mm256_add_ps(sums[k], _mm256_loadu_ps(x + i + 8 * k));
    float sum = sum_avx2(sums);
    for (std::int64_t i = whole; i < count; ++i) sum += x[i];
    const float mean = sum / n;
    const __m256 means = _mm256_set1_ps(mean);
    sums[0] = sums[1] = _mm256_setzero_ps();
    for (std::int64_t i = 0; i < whole; i += 16)
        for (int k = 0; k < 2; ++k) {
            const __m256 centred = _mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * k), means);
            _mm256_storeu_ps(out + i + 8 * k, centred);
            sums[k] = _mm256_add_ps(sums[k], centred);
            squares[k] = _mm256_fmadd_ps(centred, centred, squares[k]);
        }
    float rest = sum_avx2(sums), square = sum_avx2(squares);
    for (std::int64_t i = whole; i < count; ++i) {
        out[i] = x[i] - mean;
        rest += out[i];
        square += out[i] * out[i];
    }
    const Moments m = corrected(rest, square, n, eps);
    const __m256 left = _mm256_set1_ps(m.mean), inverse = _mm256_set1_ps(m.inverse);
    for (std::int64_t i = 0; i < count; i += 8)
        _mm256_storeu_ps(out + i,
                         _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(out + i), left), inverse));
}

AVX512 void add_avx512(const float* x, const float* y, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; i += 16) {
        const std::int64_t left = count - i;
        store_floats(out + i, left,
                     _mm512_add_ps(load_floats(x + i, left), load_floats(y + i, left)));
    }
}

constexpr int kChains = 4;  // sums that do not wait for each other

AVX512 inline float sum_avx512(const __m512 (&x)[kChains]) {
    return _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3])));
}

AVX512 void normalise_avx512(const float* x, std::int64_t count, float eps, float* out) {
    const std::int64_t whole = count / (16 * kChains) * (16 * kChains);
    const float n = static_cast<float>(count);
    __m512 sums[kChains] = {}, squares[kChains] = {};
    for (std::int64_t i = 0; i < whole; i += 16 * kChains)
        for (int k = 0; k < kChains; ++k)
            sums[k] = _mm512_add_ps(sums[k], _mm512_loadu_ps(x + i + 16 * k));
    for (std::int64_t i = whole; i < count; i += 16)
        sums[0] = _mm512_add_ps(sums[0], load_floats(x + i, count - i));
    const __m512 mean = _mm512_set1_ps(sum_avx512(sums) / n);
    for (int k = 0; k < kChains; ++k) sums[k] = _mm512_setzero_ps();
    for (std::int64_t i = 0; i < whole; i += 16 * kChains)
        for (int k = 0; k < kChains; ++k) {
            const __m512 centred = _mm512_sub_ps(_mm512_loadu_ps(x + i + 16 * k), mean);
            _mm512_storeu_ps(out + i + 16 * k, centred);
            sums[k] = _mm512_add_ps(sums[k], centred);
            squares[k] = _mm512_fmadd_ps(centred, centred, squares[k]);
        }
    for (std::int64_t i = whole; i < count; i += 16) {
        const __mmask16 left = lanes_left(count - i);
        const __m512 centred = _mm512_maskz_sub_ps(left, load_floats(x + i, count - i), mean);
        _mm512_storeu_ps(out + i, centred);
        sums[0] = _mm512_add_ps(sums[0], centred);
        squares[0] = _mm512_fmadd_ps(centred, centred, squares[0]);
    }
    const Moments m = corrected(sum_avx512(sums), sum_avx512(squares), n, eps);
    const __m512 left = _mm512_set1_ps(m.mean), inverse = _mm512_set1_ps(m.inverse);
    for (std::int64_t i = 0; i < count; i += 16)
        _mm512_storeu_ps(out + i,
                         _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(out + i), left), inverse));
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

// The rows of a problem, one at a time.
class Rows {
  public:
    explicit Rows(const LayerNormProblem& problem)
        : problem_(problem),
          kernels_(row_kernels(problem.isa)),
          widen_x_(widen_row(problem.isa, problem.x.dtype)),
          widen_r_(widen_row(problem.isa, problem.residual.dtype)),
          narrow_r_(narrow_row(problem.isa, problem.residual.dtype)),
          narrow_out_(narrow_row(problem.isa, problem.out.dtype)) {}

    // scratch: two rows.
    void row(std::int64_t i, float* first, float* second) const {
        const float* r = problem_.residual.given() ? add(i, first, second) : x(i, first);
        if (!problem_.out.given()) return;
        kernels_.normalise(r, problem_.width, problem_.eps, second);
        scale_and_shift(second, problem_.width, problem_.weight, problem_.bias);
        narrow_out_(second, problem_.width, problem_.out.row_to_write(i));
    }

  private:
    // float32 rows are read where they are.
    const float* x(std::int64_t i, float* scratch) const {
        if (problem_.x.dtype == Dtype::f32)
            return reinterpret_cast<const float*>(problem_.x.row(i));
        widen_x_(problem_.x.row(i), problem_.width, scratch);
        return scratch;
    }

    // The norm is that of the sum as it is stored.
    const float* add(std::int64_t i, float* first, float* second) const {
        const std::int64_t width = problem_.width;
        const float* other = x(i, first);
        if (problem_.residual.dtype == Dtype::f32) {
            float* sum = reinterpret_cast<float*>(problem_.sum.row_to_write(i));
            kernels_.add(other, reinterpret_cast<const float*>(problem_.residual.row(i)), width,
                         sum);
            return sum;
        }
        widen_r_(problem_.residual.row(i), width, second);
        kernels_.add(other, second, width, second);
        narrow_r_(second, width, problem_.sum.row_to_write(i));
        widen_r_(problem_.sum.row(i), width, first);
        return first;
    }

    const LayerNormProblem& problem_;
    RowKernels kernels_;
    WidenRow widen_x_, widen_r_;
    NarrowRow narrow_r_, narrow_out_;
};

}  // namespace

void layer_norm(const LayerNormProblem& problem) {
    const std::int64_t rows = problem.x.matrix.rows;
    const std::int64_t tasks = (rows + kTaskRows - 1) / kTaskRows;
    const std::int64_t span = (problem.width + kFill + 15) / 16 * 16;
    const int threads = static_cast<int>(std::clamp<std::int64_t>(problem.threads, 1, tasks + 1));
    const Rows each(problem);
    // All memory is taken before the threads start: an exception must not leave a parallel region.
    std::vector<float> scratch(2 * span * threads);
    parallel_for(threads, threads, [&](std::int64_t t) {
        float* const first = scratch.data() + 2 * span * t;
        for (std::int64_t i = rows * t / threads; i < rows * (t + 1) / threads; ++i)
            each.row(i, first, first + span);
    });
}

}  // namespace clipfast
