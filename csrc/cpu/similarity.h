// Fused L2-normalise, matrix product and softmax: probabilities of each query over the keys.
#pragma once

#include "cpu/cosine_block.h"

namespace clipfast {

// out[q][n] = softmax over n of scale * cosine(queries[q], rows[n]); (queries, rows) float32,
// contiguous. Logits and softmax are float32. A query or key with NaN gives rows of NaN where it
// takes part.
void similarity(const CosineProblem& problem, float scale, float* out);

}  // namespace clipfast
