// What attention is made of, in 32-bit units: one float32, or two bfloat16 that are multiplied and
// added as a pair.
//
// A panel holds vectors of `lanes` units: panel[v][u][lane]. The product of four rows of units with
// a panel is out[r][v * lanes + lane] = sum_u rows[r][u] * panel[v][u][lane], accumulated in
// float32 in the order of u.
#pragma once

#include <cstdint>

#include "cpu/cpu_features.h"
#include "cpu/dtype.h"

namespace clipfast {

constexpr int kTileRows = 4;

struct AttentionTile {
    int lanes;
    int pair;  // elements of a unit

    // The columns of `lanes` rows of units, 0 .. units - 1, as one vector of a panel. units is a
    // multiple of lanes.
    void (*transpose)(const std::uint32_t* rows, std::int64_t stride, std::int64_t units,
                      std::uint32_t* panel);
    // Unit `at` of `vectors` vectors, `panel_units` units each: element c of the pair's rows is
    // element c of the vectors. first, second: rows of lanes * vectors elements (second: pairs).
    void (*interleave)(const char* first, const char* second, std::int64_t vectors,
                       std::int64_t panel_units, std::int64_t at, std::uint32_t* panel);
    // out: kTileRows rows of vectors * lanes.
    void (*product)(const std::uint32_t* rows, std::int64_t stride, const std::uint32_t* panel,
                    std::int64_t panel_units, std::int64_t units, std::int64_t vectors, float* out,
                    std::int64_t out_stride);
    // A row of vectors * lanes float32 times a factor.
    void (*scale)(float* row, std::int64_t vectors, float factor);
};

// The processor must support the instruction set, which is not serial.
AttentionTile attention_tile(Isa isa, Dtype dtype);

}  // namespace clipfast
