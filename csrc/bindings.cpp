// clipfast._native: the only file that knows Python. Functions take addresses, sizes and strides
// that the adapters in clipfast/backends/ have checked, release the GIL, and write into memory that
// the caller owns.

#include <pybind11/pybind11.h>

#include "cpu/cpu_features.h"

namespace py = pybind11;

namespace clipfast {
namespace {

py::dict features_as_dict() {
    const CpuFeatures& f = cpu_features();
    py::dict out;
    out["avx2"] = f.avx2;
    out["fma"] = f.fma;
    out["f16c"] = f.f16c;
    out["avx512f"] = f.avx512f;
    out["avx512bw"] = f.avx512bw;
    out["avx512vl"] = f.avx512vl;
    out["avx512dq"] = f.avx512dq;
    out["avx512_bf16"] = f.avx512_bf16;
    out["avx512_vnni"] = f.avx512_vnni;
    out["amx_tile"] = f.amx_tile;
    out["amx_bf16"] = f.amx_bf16;
    out["amx_int8"] = f.amx_int8;
    return out;
}

}  // namespace
}  // namespace clipfast

PYBIND11_MODULE(_native, module) {
    using namespace clipfast;
    module.doc() =
        "C++ kernels of clipfast on raw addresses; call them through clipfast.backends.cpu.";
    module.def("cpu_features", &features_as_dict,
               "Instruction set extension -> whether kernels may use it.");
}
