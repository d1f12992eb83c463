// Pillow's bicubic resize and centre crop of a ragged batch of 8-bit images on the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/resize_params.h"

namespace clipfast::cuda {

// Needs images planned by plan_resize and params.taps of the size that it returned. `band` is set
// here. A size whose band does not fit in shared memory is cudaErrorInvalidValue.
cudaError_t resize_crop(ResizeParams params, cudaStream_t stream);

}  // namespace clipfast::cuda
