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

inline std::uint32_t bits_of_float(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
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

// To nearest, ties to even; NaN becomes quiet.
inline std::uint16_t narrow_bf16(float value) {
    const std::uint32_t bits = bits_of_float(value);
    if (value != value) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// To nearest, ties to even, subnormals, infinities and NaN included.
inline std::uint16_t narrow_f16(float value) {
    const std::uint32_t bits = bits_of_float(value), magnitude = bits & 0x7fffffffu;
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
    if (magnitude >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65536
    if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the fraction in the last bits
        const float shifted = float_from_bits(magnitude) + 0.5f;
        return static_cast<std::uint16_t>(sign | (bits_of_float(shifted) - 0x3f000000u));
    }
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline void store_element(Dtype dtype, char* row, std::int64_t i, float value) {
    if (dtype == Dtype::f32) {
        std::memcpy(row + 4 * i, &value, sizeof value);
        return;
    }
    const std::uint16_t bits = dtype == Dtype::f16 ? narrow_f16(value) : narrow_bf16(value);
    std::memcpy(row + 2 * i, &bits, sizeof bits);
}

}  // namespace clipfast
