// The kernels of cosine_tile.h for bfloat16 with AVX512-BF16.
#pragma once

#include "cpu/cosine_tile.h"

namespace clipfast {

constexpr CosineShape kPairsShape = {2, 4, kMaxLanes, 16};

int lanes_of_pairs(std::int64_t queries);
void pack_pairs(const char* query, std::int64_t width, int lanes, char* lane);
std::uint32_t cosines_of_pairs(const QueryGroup& group, const RowBlock& block, std::int64_t width,
                               Ahead ahead, Cosines& out);

}  // namespace clipfast
