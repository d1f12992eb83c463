// softmax(q k^T) v for each head of each sequence, on the GPU. The softmax scale is folded into q.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/attention_plan.h"

namespace clipfast::cuda {

// qkv (T, 3D) -> out (T, D). head_dim: 64, 72, 80, 88 or 104; others are cudaErrorInvalidValue.
cudaError_t attention(const AttentionParams& params, Element element, int head_dim,
                      cudaStream_t stream);

// query (B, D), kv (T, 2D) -> out (B, D). head_dim: a multiple of 8 from 8 to kMaxPoolHeadDim.
cudaError_t attention_pool(const AttentionPoolParams& params, Element element, cudaStream_t stream);

}  // namespace clipfast::cuda
