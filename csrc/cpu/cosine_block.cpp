#include "cpu/cosine_block.h"

#include <algorithm>
#include <cmath>

namespace clipfast {
namespace {

constexpr double kMinimumNorm = 1e-12;
constexpr float kLargestSquare = 1e30f;
constexpr std::int64_t kBlockBytes = 16 * 1024;  // half of a 32 KiB first-level cache
constexpr std::int64_t kCacheLine = 64;

// NaN stays NaN. An overflowed square gives what is replaced later.
float inverse_norm(float square) {
    const float norm = std::sqrt(square);
    return norm < static_cast<float>(kMinimumNorm) ? static_cast<float>(1 / kMinimumNorm)
                                                   : 1 / norm;
}

double norm_in_double(Dtype dtype, const char* row, std::int64_t width) {
    double sum = 0;
    for (std::int64_t e = 0; e < width; ++e) {
        const double x = load_element(dtype, row, e);
        sum += x * x;
    }
    const double norm = std::sqrt(sum);
    return norm < kMinimumNorm ? kMinimumNorm : norm;
}

float cosine_in_double(Dtype dtype, const char* a, const char* b, std::int64_t width) {
    double sum = 0;
    for (std::int64_t e = 0; e < width; ++e)
        sum += static_cast<double>(load_element(dtype, a, e)) * load_element(dtype, b, e);
    return static_cast<float>(sum / norm_in_double(dtype, a, width) /
                              norm_in_double(dtype, b, width));
}

bool overflows(float square) { return square > kLargestSquare; }

std::int64_t steps_of(const CosineKernels& kernels, std::int64_t width) {
    return (width + kernels.step - 1) / kernels.step;
}

std::int64_t group_count(std::int64_t queries) {
    return (queries + kGroupQueries - 1) / kGroupQueries;
}

}  // namespace

QueryPanel::QueryPanel(const CosineProblem& problem, const CosineKernels& kernels,
                       std::int64_t first, std::int64_t count)
    : count_(count),
      steps_(steps_of(kernels, problem.width)),
      group_bytes_(steps_ * kGroupQueries * kernels.step * element_bytes(kernels.panel_dtype)),
      dtype_(kernels.panel_dtype),
      panel_(group_count(count) * group_bytes_),
      groups_(group_count(count)),
      wide_(group_count(count)) {
    pack(problem, first, kernels.step);
    float squares[kMaxBlockRows];
    for (std::int64_t g = 0; g < groups(); ++g) {
        const std::int64_t start = first + g * kGroupQueries;
        const Matrix members{problem.queries.row(start), queries_in(g), problem.queries.stride};
        kernels.squares(members, problem.width, squares);
        groups_[g].panel = panel_.get() + g * group_bytes_;
        for (int q = 0; q < kGroupQueries; ++q) {
            const bool exists = q < queries_in(g);
            groups_[g].inverse_norm[q] = exists ? inverse_norm(squares[q]) : 0.0f;
            groups_[g].threshold[q] = INFINITY;
            if (exists && overflows(squares[q])) wide_[g] = true;
        }
    }
}

int QueryPanel::queries_in(std::int64_t g) const {
    return static_cast<int>(std::min<std::int64_t>(kGroupQueries, count_ - g * kGroupQueries));
}

void QueryPanel::pack(const CosineProblem& problem, std::int64_t first, int step) {
    const std::int64_t bytes = element_bytes(dtype_);
    std::memset(panel_.get(), 0, groups() * group_bytes_);
    for (std::int64_t i = 0; i < count_; ++i) {
        const char* query = problem.queries.row(first + i);
        char* packed =
            panel_.get() + i / kGroupQueries * group_bytes_ + i % kGroupQueries * step * bytes;
        for (std::int64_t e = 0; e < problem.width; e += step) {
            const std::int64_t count = std::min<std::int64_t>(step, problem.width - e);
            char* out = packed + e * kGroupQueries * bytes;
            if (dtype_ == problem.dtype) {
                std::memcpy(out, query + e * bytes, count * bytes);
            } else {
                for (std::int64_t j = 0; j < count; ++j)
                    reinterpret_cast<float*>(out)[j] = load_element(problem.dtype, query, e + j);
            }
        }
    }
}

std::int64_t block_rows(std::int64_t row_bytes) {
    const std::int64_t rows = kBlockBytes / std::max<std::int64_t>(row_bytes, 1) / 4 * 4;
    return std::clamp<std::int64_t>(rows, 4, kMaxBlockRows);
}

bool read_block(const CosineProblem& problem, const CosineKernels& kernels, std::int64_t first,
                std::int64_t count, RowBlock& block) {
    block.rows = {problem.rows.row(first), count, problem.rows.stride};
    float squares[kMaxBlockRows];
    kernels.squares(block.rows, problem.width, squares);
    bool wide = false;
    for (std::int64_t r = 0; r < count; ++r) {
        block.inverse_norm[r] = inverse_norm(squares[r]);
        wide |= overflows(squares[r]);
    }
    return wide;
}

void repair_wide(const CosineProblem& problem, std::int64_t query, int queries,
                 const RowBlock& block, float* cosines) {
    const float largest_norm = std::sqrt(kLargestSquare);
    for (int q = 0; q < queries; ++q) {
        const char* a = problem.queries.row(query + q);
        const bool wide_query = norm_in_double(problem.dtype, a, problem.width) >= largest_norm;
        for (std::int64_t r = 0; r < block.rows.rows; ++r) {
            if (!wide_query && block.inverse_norm[r] * largest_norm > 1) continue;
            cosines[q * kMaxBlockRows + r] =
                cosine_in_double(problem.dtype, a, block.rows.row(r), problem.width);
        }
    }
}

Lookahead::Lookahead(const CosineProblem& problem, const CosineKernels& kernels,
                     std::int64_t calls) {
    const std::int64_t row_bytes = problem.width * element_bytes(problem.dtype);
    const std::int64_t rows = block_rows(row_bytes);
    const std::int64_t steps = rows / kernels.tile_rows * steps_of(kernels, problem.width);
    if (steps == 0 || problem.rows.stride != row_bytes) return;
    block_bytes_ = rows * row_bytes;
    const std::int64_t lines = (block_bytes_ + kCacheLine - 1) / kCacheLine;
    lines_per_step_ = static_cast<int>((lines + steps * calls - 1) / (steps * calls));
    bytes_per_call_ = steps * lines_per_step_ * kCacheLine;
}

}  // namespace clipfast
