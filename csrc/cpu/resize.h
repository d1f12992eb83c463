// Resize and centre crop of 8-bit images, bit for bit as Pillow 13: two passes, each rounded to 8
// bits, the order chosen by the caller. Only pixels that the crop keeps are computed, so time and
// scratch memory follow the image's own size and the target, never the resized image.
#pragma once

#include <cstdint>

#include "cpu/cpu_features.h"
#include "cpu/resize_taps.h"

namespace clipfast {

struct ResizeJob {
    const std::uint8_t* pixels;  // count images of (height, width, channels), channels 1 or 3
    std::int64_t count, image_stride, row_stride, channels;
    ResizeAxis horizontal, vertical;
    bool vertical_first;
    ResizeFilter filter;
    std::uint8_t*
        out;  // count x (3, R, Q) when planar, else (R, Q, 3); grey is written three times
    std::int64_t out_stride;
    bool planar;
};

void resize_crop(const ResizeJob& job, Isa isa);

}  // namespace clipfast
