// Storage types of the CUDA kernels' matrices, and the vectors they are moved in.
#pragma once

#include <cstdint>

namespace clipfast::cuda {

enum class Element { float16 = 0, bfloat16 = 1 };

// Tags that choose conversions and matrix instructions; elements themselves travel as bits, two to
// a 32-bit word.
struct Float16 {
    static constexpr bool kBrain = false;
};
struct Bfloat16 {
    static constexpr bool kBrain = true;
};

struct alignas(16) Vector16 {
    uint32_t word[4];
};

struct alignas(8) FloatPair {
    float low, high;
};

constexpr float kLog2E = 1.4426950408889634f;

}  // namespace clipfast::cuda
