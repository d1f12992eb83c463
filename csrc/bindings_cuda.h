// The CUDA kernels' part of clipfast._native.
#pragma once

#include <pybind11/pybind11.h>

namespace clipfast {

void bind_cuda(pybind11::module_& module);

}  // namespace clipfast
