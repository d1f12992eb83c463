// The k largest cosines of each query over a gallery, in one pass, never queries x gallery in
// memory.
#pragma once

#include "cpu/cosine_block.h"

namespace clipfast {

// scores: (queries, k) float32, descending. indices: (queries, k). Needs 1 <= k <=
// problem.rows.rows. Equal cosines go to the lower index; NaN ranks below every number. The result
// does not depend on the thread count.
void top_k(const CosineProblem& problem, std::int64_t k, float* scores, std::int64_t* indices);

}  // namespace clipfast
