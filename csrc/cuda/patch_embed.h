// Image patches to tokens on the GPU, from 8-bit pixels.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/patch_embed_params.h"

namespace clipfast::cuda {

// patch: 14, 16 or 32; others are cudaErrorInvalidValue.
cudaError_t patch_embed(const PatchEmbedParams& params, Element element, int patch,
                        cudaStream_t stream);

}  // namespace clipfast::cuda
