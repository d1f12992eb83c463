// 16-bit floating point on a processor.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/element.h"

namespace clipfast::cuda {

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

template <class T>
float widen(uint32_t bits) {
    if constexpr (T::kBrain) return bits_to_float(bits << 16);
    const auto half = static_cast<uint16_t>(bits);
    _Float16 value;
    std::memcpy(&value, &half, sizeof value);
    return static_cast<float>(value);
}

// Rounded to nearest even.
template <class T>
uint16_t narrow(float value) {
    if constexpr (T::kBrain) {
        const uint32_t bits = float_to_bits(value);
        if (value != value) return 0x7fff;
        return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    const auto half = static_cast<_Float16>(value);
    uint16_t bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
}

}  // namespace clipfast::cuda
