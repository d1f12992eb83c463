// clipfast._native: the only file that knows Python. Functions take addresses, sizes and strides
// that the adapters in clipfast/backends/ have checked, release the GIL, and write into memory that
// the caller owns. Strides are in bytes.

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "cpu/cpu_features.h"
#include "cpu/resize.h"
#include "cpu/similarity.h"
#include "cpu/top_k.h"

namespace py = pybind11;

namespace clipfast {
namespace {

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

Isa parse_isa(const std::string& name) {
    for (const auto& entry : kIsas)
        if (name == entry.name && supports(entry.isa)) return entry.isa;
    throw std::invalid_argument("instruction set '" + name +
                                "' is unknown, or not in this processor");
}

Dtype parse_dtype(const std::string& name) {
    for (const auto& entry : kDtypes)
        if (name == entry.name) return entry.dtype;
    throw std::invalid_argument("dtype '" + name + "' is not one of float32, float16, bfloat16");
}

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

py::tuple supported_isas() {
    py::list names;
    for (const auto& entry : kIsas)
        if (supports(entry.isa)) names.append(entry.name);
    return py::tuple(names);
}

Matrix parse_matrix(const py::tuple& argument) {
    return {reinterpret_cast<const char*>(argument[0].cast<std::uintptr_t>()),
            argument[1].cast<std::int64_t>(), argument[2].cast<std::int64_t>()};
}

CosineProblem parse_problem(const py::tuple& queries, const py::tuple& rows, std::int64_t width,
                            const std::string& dtype, const std::string& isa, int threads) {
    if (width < 0 || threads < 1) throw std::invalid_argument("width < 0 or threads < 1");
    return {parse_matrix(queries), parse_matrix(rows), width,
            parse_dtype(dtype),    parse_isa(isa),     threads};
}

void bind_similarity(const py::tuple& queries, const py::tuple& keys, std::int64_t width,
                     const std::string& dtype, float scale, std::uintptr_t out,
                     const std::string& isa, int threads) {
    const CosineProblem problem = parse_problem(queries, keys, width, dtype, isa, threads);
    const py::gil_scoped_release unlocked;
    similarity(problem, scale, reinterpret_cast<float*>(out));
}

void bind_top_k(const py::tuple& queries, const py::tuple& gallery, std::int64_t width,
                const std::string& dtype, std::int64_t k, std::uintptr_t scores,
                std::uintptr_t indices, const std::string& isa, int threads) {
    const CosineProblem problem = parse_problem(queries, gallery, width, dtype, isa, threads);
    if (k < 1 || k > problem.rows.rows) throw std::invalid_argument("k is not in 1 .. rows");
    const py::gil_scoped_release unlocked;
    top_k(problem, k, reinterpret_cast<float*>(scores), reinterpret_cast<std::int64_t*>(indices));
}

ResizeAxis parse_axis(const py::tuple& argument) {
    return {argument[0].cast<std::int64_t>(), argument[1].cast<std::int64_t>(),
            argument[2].cast<std::int64_t>(), argument[3].cast<std::int64_t>()};
}

void bind_resize_crop(const py::tuple& images, const py::tuple& horizontal,
                      const py::tuple& vertical, bool vertical_first, bool bilinear,
                      const py::tuple& out, const std::string& isa) {
    const ResizeJob job = {reinterpret_cast<const std::uint8_t*>(images[0].cast<std::uintptr_t>()),
                           images[1].cast<std::int64_t>(),
                           images[2].cast<std::int64_t>(),
                           images[3].cast<std::int64_t>(),
                           images[4].cast<std::int64_t>(),
                           parse_axis(horizontal),
                           parse_axis(vertical),
                           vertical_first,
                           bilinear ? ResizeFilter::bilinear : ResizeFilter::bicubic,
                           reinterpret_cast<std::uint8_t*>(out[0].cast<std::uintptr_t>()),
                           out[1].cast<std::int64_t>(),
                           out[2].cast<bool>()};
    if (job.channels != 1 && job.channels != 3) throw std::invalid_argument("channels not 1 or 3");
    const Isa parsed = parse_isa(isa);
    const py::gil_scoped_release unlocked;
    resize_crop(job, parsed);
}

}  // namespace
}  // namespace clipfast

PYBIND11_MODULE(_native, module) {
    using namespace clipfast;
    module.doc() =
        "C++ kernels of clipfast on raw addresses; call them through clipfast.backends.cpu. A "
        "matrix "
        "is (address, rows, row stride in bytes).";
    module.def("cpu_features", &features_as_dict,
               "Instruction set extension -> whether kernels may use it.");
    module.def(
        "supported_isas", &supported_isas,
        "Instruction sets that kernels are written for and this processor has, widest last.");
    module.def("similarity", &bind_similarity, py::arg("queries"), py::arg("keys"),
               py::arg("width"), py::arg("dtype"), py::arg("scale"), py::arg("out"), py::arg("isa"),
               py::arg("threads"), "out[q][n] = softmax(scale * cosine).");
    module.def("top_k", &bind_top_k, py::arg("queries"), py::arg("gallery"), py::arg("width"),
               py::arg("dtype"), py::arg("k"), py::arg("scores"), py::arg("indices"),
               py::arg("isa"), py::arg("threads"), "The k largest cosines of each query.");
    module.def("resize_crop", &bind_resize_crop, py::arg("images"), py::arg("horizontal"),
               py::arg("vertical"), py::arg("vertical_first"), py::arg("bilinear"), py::arg("out"),
               py::arg("isa"),
               "Resize and crop images (address, count, image stride, row stride, channels) along "
               "axes (source, resized, start, length) into out (address, image stride, planar).");
}
