// What the resize is asked for: one description per image, made on the host. Plain C++.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace clipfast::cuda {

// One image as the kernels read it; 64-bit fields throughout, so that a batch is one array of
// integers. For each axis: `source` pixels become `resized`, of which start .. start + size - 1 are
// kept.
struct ResizeImage {
    int64_t pixels;                           // address of (height, width, 3) bytes
    int64_t row_stride;                       // bytes
    int64_t source[2], resized[2], start[2];  // horizontal, vertical
    int64_t vertical_first;
    int64_t taps[2];    // where an axis' taps begin in the table
    int64_t stride[2];  // integers of one output's taps: the first source pixel, their number, and
                        // as many weights
};

constexpr int kResizeImageFields = sizeof(ResizeImage) / sizeof(int64_t);

// taps: the table, filled by one kernel and read by the next. out: (images, 3, size, size).
struct ResizeParams {
    const ResizeImage* images;
    int32_t* taps;
    uint8_t* out;
    int32_t count, size, band;
};

constexpr int kResizeThreads = 256, kTapThreads = 128;
constexpr int kWeightBits = 22;  // Pillow's fixed point for 8-bit bands
constexpr int kChunkPositions = 16;
constexpr int kMostBand = 16;

// Bytes of a block: first-pass results of a chunk, and sums of a band.
constexpr int resize_shared_bytes(int size, int band) {
    return 3 * size * (kChunkPositions + 4 * band);
}

// Outputs of the second pass that a block makes: as many as fit, because neighbours repeat some of
// the first pass.
inline int resize_band(int size, int shared_bytes_per_block) {
    int band = kMostBand;
    while (band > 1 && resize_shared_bytes(size, band) > shared_bytes_per_block) band /= 2;
    return band;
}

inline int64_t resize_blocks(const ResizeParams& p) {
    return int64_t{p.count} * ((p.size + p.band - 1) / p.band);
}

// Fills the geometry of `image` from its width and height: the shorter side becomes `size`, the
// longer int(size * long / short), and the centre is kept, halves rounded to even. The pass order
// is Pillow 13's (python-pillow pull request 9549). Returns where the next image's taps begin.
inline int64_t plan_resize(ResizeImage& image, int64_t width, int64_t height, int64_t size,
                           int64_t taps_begin) {
    const int64_t sides[2] = {width, height};
    for (int axis = 0; axis < 2; ++axis) {
        const int64_t here = sides[axis], other = sides[1 - axis];
        const double scaled = static_cast<double>(size * here) / static_cast<double>(other);
        image.source[axis] = here;
        image.resized[axis] = here > other ? static_cast<int64_t>(scaled) : size;
        image.start[axis] = std::lrint(static_cast<double>(image.resized[axis] - size) / 2.0);
        const double scale = static_cast<double>(here) / static_cast<double>(image.resized[axis]);
        const auto taps = static_cast<int64_t>(std::ceil(2.0 * std::max(scale, 1.0))) * 2 + 1;
        image.taps[axis] = taps_begin;
        image.stride[axis] = 2 + taps;
        taps_begin += size * image.stride[axis];
    }
    const int64_t rows_lost = height - image.resized[1], columns_lost = width - image.resized[0];
    image.vertical_first = rows_lost > 2 * columns_lost && image.resized[1] < height;
    return taps_begin;
}

}  // namespace clipfast::cuda
