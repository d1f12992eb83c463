// Storage types of matrices that the kernels read, widened to float32 on load.
#pragma once

#include <cstdint>
#include <cstring>

namespace clipfast {

enum class Dtype { f32 = 0, f16 = 1, bf16 = 2 };

constexpr std::int64_t element_bytes(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

// A matrix whose last axis has unit stride; row i begins at data + i * stride bytes.
struct Matrix {
    const char* data;
    std::int64_t rows;
    std::int64_t stride;

    const char* row(std::int64_t i) const { return data + i * stride; }
};

inline float float_from_bits(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float widen_bf16(std::uint16_t bits) {
    return float_from_bits(static_cast<std::uint32_t>(bits) << 16);
}

// IEEE 754 binary16, subnormals, infinities and NaN included.
inline float widen_f16(std::uint16_t bits) {
    const std::uint32_t sign = (bits & 0x8000u) << 16;
    const std::uint32_t exponent = (bits >> 10) & 0x1fu;
    const std::uint32_t fraction = bits & 0x3ffu;
    if (exponent == 0x1f) return float_from_bits(sign | 0x7f800000u | (fraction << 13));
    if (exponent != 0) return float_from_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

// Element i of a row.
inline float load_element(Dtype dtype, const char* row, std::int64_t i) {
    if (dtype == Dtype::f32) {
        float value;
        std::memcpy(&value, row + 4 * i, sizeof value);
        return value;
    }
    std::uint16_t bits;
    std::memcpy(&bits, row + 2 * i, sizeof bits);
    return dtype == Dtype::f16 ? widen_f16(bits) : widen_bf16(bits);
}

}  // namespace clipfast
