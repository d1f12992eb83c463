// Python arguments as the kernels' own types.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cpu/cpu_features.h"
#include "cpu/dtype.h"

namespace clipfast {

constexpr struct {
    const char* name;
    Isa isa;
} kIsas[] = {{"serial", Isa::serial},
             {"avx2", Isa::avx2},
             {"avx512", Isa::avx512},
             {"avx512_bf16", Isa::avx512_bf16}};

constexpr struct {
    const char* name;
    Dtype dtype;
} kDtypes[] = {{"float32", Dtype::f32}, {"float16", Dtype::f16}, {"bfloat16", Dtype::bf16}};

inline Isa parse_isa(const std::string& name) {
    for (const auto& entry : kIsas)
        if (name == entry.name && supports(entry.isa)) return entry.isa;
    throw std::invalid_argument("instruction set '" + name +
                                "' is unknown, or not in this processor");
}

inline Dtype parse_dtype(const std::string& name) {
    for (const auto& entry : kDtypes)
        if (name == entry.name) return entry.dtype;
    throw std::invalid_argument("dtype '" + name + "' is not one of float32, float16, bfloat16");
}

// (address, rows, row stride in bytes)
inline Matrix parse_matrix(const pybind11::tuple& argument) {
    return {reinterpret_cast<const char*>(argument[0].cast<std::uintptr_t>()),
            argument[1].cast<std::int64_t>(), argument[2].cast<std::int64_t>()};
}

void bind_towers(pybind11::module_& module);

}  // namespace clipfast
