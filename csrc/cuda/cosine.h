// Cosines of queries to a gallery on the GPU: softmax over the gallery, and the k largest. Rows are
// L2-normalised first.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/cosine_params.h"

namespace clipfast::cuda {

// What the gallery holds: the queries' own type, or int8.
enum class Gallery { same = 0, int8 = 1 };

// Both need cosines that share_gallery has divided. top_k needs params.candidates for slices *
// query_tiles * 128 * candidate_capacity(k) keys, 1 <= k <= min(kMaxK, rows).
cudaError_t top_k(const TopKParams& params, Element element, Gallery gallery, cudaStream_t stream);

// Needs params.partials for slices * query_tiles * 128 pairs.
cudaError_t similarity(const SimilarityParams& params, Element element, Gallery gallery,
                       cudaStream_t stream);

}  // namespace clipfast::cuda
