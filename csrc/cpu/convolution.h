// 3x3 convolutions of channels-last images, padded with zeros, as products with packed weights.
//
//   out[pixel] = sum over taps (dy, dx) of x[pixel + (dy, dx)] @ weight[dy, dx]^T, and what follows
//
// No window is copied: a tile is neighbouring pixels of one image row, and a tap shifts all of
// their rows by the same distance. Pixels that a tap takes beyond the image are left out of it.
#pragma once

#include "cpu/product.h"

namespace clipfast {

// problem: x has a row for each pixel, none between them; units are those of the nine taps, in
// order of rows and then columns.
void convolve(const ProductProblem& problem, std::int64_t height, std::int64_t width);

}  // namespace clipfast
