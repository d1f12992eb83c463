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
    return (width + kernels.shape.step - 1) / kernels.shape.step;
}

}  // namespace

QueryPanel::QueryPanel(const CosineProblem& problem, const CosineKernels& kernels,
                       std::int64_t first, std::int64_t count)
    : panel_((count + kMaxLanes) * steps_of(kernels, problem.width) * kernels.shape.step_bytes) {
    float squares[kMaxBlockRows];
    char* panel = panel_.get();
    for (std::int64_t start = 0; start < count; start += groups_.back().queries) {
        QueryGroup group = {};
        group.panel = panel;
        group.lanes = kernels.lanes(count - start);
        group.queries = static_cast<int>(std::min<std::int64_t>(group.lanes, count - start));
        const Matrix members{problem.queries.row(first + start), group.queries,
                             problem.queries.stride};
        kernels.squares(members, problem.width, squares);
        const std::int64_t bytes =
            steps_of(kernels, problem.width) * group.lanes * kernels.shape.step_bytes;
        std::memset(panel, 0, bytes);
        std::fill(group.threshold, group.threshold + kMaxLanes, INFINITY);
        bool wide = false;
        for (int q = 0; q < group.queries; ++q) {
            kernels.pack(members.row(q), problem.width, group.lanes,
                         panel + q * kernels.shape.step_bytes);
            group.inverse_norm[q] = inverse_norm(squares[q]);
            wide |= overflows(squares[q]);
        }
        groups_.push_back(group);
        first_.push_back(start);
        wide_.push_back(wide);
        panel += bytes;
    }
}

std::int64_t block_rows(const CosineProblem& problem, const CosineKernels& kernels) {
    const std::int64_t row_bytes = problem.width * element_bytes(problem.dtype);
    const std::int64_t rows = kBlockBytes / std::max<std::int64_t>(row_bytes, 1);
    const std::int64_t tiles =
        std::min<std::int64_t>(rows, kMaxBlockRows) / kernels.shape.tile_rows;
    return std::max<std::int64_t>(tiles, 1) * kernels.shape.tile_rows;
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
                 const RowBlock& block, Cosines& cosines) {
    const float largest_norm = std::sqrt(kLargestSquare);
    for (int q = 0; q < queries; ++q) {
        const char* a = problem.queries.row(query + q);
        const bool wide_query = norm_in_double(problem.dtype, a, problem.width) >= largest_norm;
        for (std::int64_t r = 0; r < block.rows.rows; ++r) {
            if (!wide_query && block.inverse_norm[r] * largest_norm > 1) continue;
            cosines.of(q, r) = cosine_in_double(problem.dtype, a, block.rows.row(r), problem.width);
        }
    }
}

Lookahead::Lookahead(const CosineProblem& problem, const CosineKernels& kernels,
                     std::int64_t calls) {
    const std::int64_t row_bytes = problem.width * element_bytes(problem.dtype);
    const std::int64_t rows = block_rows(problem, kernels);
    const std::int64_t steps = rows / kernels.shape.tile_rows * steps_of(kernels, problem.width);
    if (steps == 0 || problem.rows.stride != row_bytes) return;
    block_bytes_ = rows * row_bytes;
    const std::int64_t lines = (block_bytes_ + kCacheLine - 1) / kCacheLine;
    lines_per_step_ = static_cast<int>((lines + steps * calls - 1) / (steps * calls));
    bytes_per_call_ = steps * lines_per_step_ * kCacheLine;
}

}  // namespace clipfast
