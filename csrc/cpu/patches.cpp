// Patches are plain loops: compilers turn them into vector instructions of the baseline, and the
// kernel waits for memory all the same.

#include "cpu/patches.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/row_convert.h"

namespace clipfast {
namespace {

constexpr std::int64_t kChannels = 3;

template <Dtype dtype>
void widen_bytes(const std::uint8_t* in, std::int64_t count, char* out) {
    for (std::int64_t i = 0; i < count; ++i) {
        const float value = static_cast<float>(in[i]);
        if constexpr (dtype == Dtype::bf16) {
            const auto bits = static_cast<std::uint16_t>(bits_of_float(value) >> 16);
            std::memcpy(out + 2 * i, &bits, 2);
        } else {
            store_element(dtype, out, i, value);
        }
    }
}

// One row of the patch grid of one image.
template <Dtype dtype>
void grid_row(const PatchesProblem& p, std::int64_t image, std::int64_t y) {
    for (std::int64_t x = 0; x < p.grid; ++x) {
        char* out = const_cast<char*>(p.out.row((image * p.grid + y) * p.grid + x));
        for (std::int64_t c = 0; c < kChannels; ++c) {
            const std::uint8_t* corner = p.pixels + image * p.image_stride + c * p.channel_stride +
                                         y * p.patch * p.row_stride + x * p.patch;
            for (std::int64_t i = 0; i < p.patch; ++i, out += p.patch * element_bytes(dtype))
                widen_bytes<dtype>(corner + i * p.row_stride, p.patch, out);
        }
    }
}

template <Dtype dtype>
void patches_of(const PatchesProblem& p) {
    parallel_for(p.threads, p.images * p.grid,
                 [&](std::int64_t i) { grid_row<dtype>(p, i / p.grid, i % p.grid); });
}

constexpr std::int64_t kPiece = 512;  // elements that are float32 for a moment

void widen(const TypedMatrix& matrix, std::int64_t row, std::int64_t e, std::int64_t count, Isa isa,
           float* out) {
    widen_row(isa, matrix.dtype)(matrix.row(row) + e * element_bytes(matrix.dtype), count, out);
}

void token(const TokensProblem& p, std::int64_t row) {
    const std::int64_t patches = p.positions.matrix.rows;
    const std::int64_t image = row / (1 + patches), patch = row % (1 + patches) - 1;
    alignas(64) float sums[kPiece], other[kPiece];
    for (std::int64_t e = 0; e < p.width; e += kPiece) {
        const std::int64_t count = std::min(kPiece, p.width - e);
        if (patch < 0) {
            widen(p.class_row, 0, e, count, p.isa, sums);
        } else {
            widen(p.embedded, image * patches + patch, e, count, p.isa, sums);
            widen(p.positions, patch, e, count, p.isa, other);
            for (std::int64_t i = 0; i < count; ++i) sums[i] += other[i];
        }
        char* out = p.out.row_to_write(row) + e * element_bytes(p.out.dtype);
        narrow_row(p.isa, p.out.dtype)(sums, count, out);
    }
}

}  // namespace

void patches(const PatchesProblem& problem) {
    switch (problem.dtype) {
        case Dtype::f32:
            return patches_of<Dtype::f32>(problem);
        case Dtype::f16:
            return patches_of<Dtype::f16>(problem);
        case Dtype::bf16:
            return patches_of<Dtype::bf16>(problem);
    }
}

void tokens(const TokensProblem& problem) {
    parallel_for(problem.threads, problem.out.matrix.rows,
                 [&](std::int64_t row) { token(problem, row); });
}

}  // namespace clipfast
