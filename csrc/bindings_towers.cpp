// The operations of the towers: LayerNorm, attention, patches.

#include "bindings_arguments.h"
#include "cpu/attention.h"
#include "cpu/convolution.h"
#include "cpu/layer_norm.h"
#include "cpu/patches.h"
#include "cpu/product.h"
#include "cpu/quantise.h"

namespace py = pybind11;

namespace clipfast {
namespace {

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

int parse_threads(int threads) {
    if (threads < 1) throw std::invalid_argument("threads < 1");
    return threads;
}

// (address, rows, row stride in bytes, dtype); the address is 0 where there is none.
TypedMatrix parse_typed(const py::tuple& argument) {
    return {parse_matrix(argument), parse_dtype(argument[3].cast<std::string>())};
}

void bind_layer_norm(const py::tuple& x, const py::tuple& residual, const py::tuple& sum,
                     const py::tuple& out, std::uintptr_t weight, std::uintptr_t bias,
                     std::int64_t width, float eps, const std::string& isa, int threads) {
    const LayerNormProblem problem = {parse_typed(x),
                                      parse_typed(residual),
                                      parse_typed(sum),
                                      parse_typed(out),
                                      pointer<const float>(weight),
                                      pointer<const float>(bias),
                                      width,
                                      eps,
                                      parse_isa(isa),
                                      parse_threads(threads)};
    const py::gil_scoped_release unlocked;
    layer_norm(problem);
}

void bind_attention(const py::tuple& queries, const py::tuple& keys, const py::tuple& values,
                    const py::tuple& out, const py::tuple& heads, const std::string& dtype,
                    const py::tuple& segments, const py::tuple& lengths, bool causal,
                    const std::string& isa, int threads) {
    const AttentionProblem problem = {
        parse_matrix(queries),
        parse_matrix(keys),
        parse_matrix(values),
        parse_matrix(out),
        heads[0].cast<std::int64_t>(),
        heads[1].cast<std::int64_t>(),
        parse_dtype(dtype),
        segments[0].cast<std::int64_t>(),
        pointer<const std::int32_t>(segments[1].cast<std::uintptr_t>()),
        pointer<const std::int32_t>(segments[2].cast<std::uintptr_t>()),
        pointer<const std::int32_t>(segments[3].cast<std::uintptr_t>()),
        lengths[0].cast<std::int64_t>(),
        lengths[1].cast<std::int64_t>(),
        causal,
        parse_isa(isa),
        parse_threads(threads)};
    const py::gil_scoped_release unlocked;
    attention(problem);
}

void bind_patches(std::uintptr_t pixels, const py::tuple& strides, std::int64_t images,
                  std::int64_t grid, std::int64_t patch, const py::tuple& out,
                  const std::string& dtype, int threads) {
    const PatchesProblem problem = {pointer<const std::uint8_t>(pixels),
                                    images,
                                    strides[0].cast<std::int64_t>(),
                                    strides[1].cast<std::int64_t>(),
                                    strides[2].cast<std::int64_t>(),
                                    grid,
                                    patch,
                                    parse_matrix(out),
                                    parse_dtype(dtype),
                                    parse_threads(threads)};
    const py::gil_scoped_release unlocked;
    patches(problem);
}

Activation parse_activation(const std::string& name) {
    if (name == "none") return Activation::none;
    if (name == "silu") return Activation::silu;
    if (name == "gelu") return Activation::gelu;
    throw std::invalid_argument("activation '" + name + "' is not one of none, silu, gelu");
}

void bind_quantise(const py::tuple& x, const py::tuple& out, std::uintptr_t row_scale, int zero,
                   std::int64_t width, const std::string& isa, int threads) {
    if (zero < 1 || zero > 254) throw std::invalid_argument("zero is not in 1 .. 254");
    const QuantiseProblem problem = {
        parse_typed(x), parse_matrix(out), pointer<float>(row_scale), zero,
        width,          parse_isa(isa),    parse_threads(threads)};
    const py::gil_scoped_release unlocked;
    quantise(problem);
}

void bind_dequantise(const py::tuple& y, std::uintptr_t row_scale, std::uintptr_t bias,
                     const std::string& activation, const py::tuple& residual, const py::tuple& out,
                     std::int64_t width, const std::string& isa, int threads) {
    const DequantiseProblem problem = {parse_typed(y),
                                       pointer<const float>(row_scale),
                                       pointer<const float>(bias),
                                       parse_activation(activation),
                                       parse_typed(residual),
                                       parse_typed(out),
                                       width,
                                       parse_isa(isa),
                                       parse_threads(threads)};
    const py::gil_scoped_release unlocked;
    dequantise(problem);
}

// weight: (address of panels, units, features). of_bytes: (zero, addresses of correction and
// scale), or zeros.
ProductProblem parse_product(const py::tuple& x, const py::tuple& weight, std::uintptr_t bias,
                             const py::tuple& bytes, const std::string& activation,
                             const py::tuple& residual, bool rectified, const py::tuple& out,
                             int threads) {
    if (!supports(Isa::avx512_bf16))
        throw std::invalid_argument("products need a processor with AVX512-BF16 and VNNI");
    ProductProblem problem = {parse_typed(x),
                              pointer<const char>(weight[0].cast<std::uintptr_t>()),
                              weight[1].cast<std::int64_t>(),
                              weight[2].cast<std::int64_t>(),
                              pointer<const float>(bias),
                              bytes[0].cast<int>(),
                              pointer<const std::int32_t>(bytes[1].cast<std::uintptr_t>()),
                              pointer<const float>(bytes[2].cast<std::uintptr_t>()),
                              parse_activation(activation),
                              parse_typed(residual),
                              rectified,
                              parse_typed(out),
                              parse_threads(threads)};
    if (problem.out.dtype == Dtype::f16 ||
        (problem.residual.given() && problem.residual.dtype != problem.out.dtype))
        throw std::invalid_argument("products write float32 or bfloat16, as the residual is");
    if (problem.zero == 0 && problem.x.dtype == Dtype::f16)
        throw std::invalid_argument("products of float16 are only those that become bytes");
    return problem;
}

void bind_product(const py::tuple& x, const py::tuple& weight, std::uintptr_t bias,
                  const py::tuple& bytes, const std::string& activation, const py::tuple& residual,
                  bool rectified, const py::tuple& out, const py::tuple& image, int threads) {
    const ProductProblem problem =
        parse_product(x, weight, bias, bytes, activation, residual, rectified, out, threads);
    const auto height = image[0].cast<std::int64_t>(), width = image[1].cast<std::int64_t>();
    const py::gil_scoped_release unlocked;
    if (width > 0)
        convolve(problem, height, width);
    else
        product(problem);
}

}  // namespace

void bind_towers(py::module_& module) {
    module.def("layer_norm", &bind_layer_norm, py::arg("x"), py::arg("residual"), py::arg("total"),
               py::arg("out"), py::arg("weight"), py::arg("bias"), py::arg("width"), py::arg("eps"),
               py::arg("isa"), py::arg("threads"),
               "total = x + residual and its LayerNorm; matrices with their dtype, 0 for none.");
    module.def("attention", &bind_attention, py::arg("queries"), py::arg("keys"), py::arg("values"),
               py::arg("out"), py::arg("heads"), py::arg("dtype"), py::arg("segments"),
               py::arg("lengths"), py::arg("causal"), py::arg("isa"), py::arg("threads"),
               "heads: (count, columns each). segments: (count, addresses of int32 cu_queries, "
               "cu_keys, key_rows; 0 for none). lengths: (queries, keys) where there is no cu_.");
    module.def("patches", &bind_patches, py::arg("pixels"), py::arg("strides"), py::arg("images"),
               py::arg("grid"), py::arg("patch"), py::arg("out"), py::arg("dtype"),
               py::arg("threads"), "Rows of patches from bytes of (image, channel, row) strides.");
    module.def("quantise", &bind_quantise, py::arg("x"), py::arg("out"), py::arg("row_scale"),
               py::arg("zero"), py::arg("width"), py::arg("isa"), py::arg("threads"),
               "Rows as bytes around `zero` with a scale each.");
    module.def("dequantise", &bind_dequantise, py::arg("y"), py::arg("row_scale"), py::arg("bias"),
               py::arg("activation"), py::arg("residual"), py::arg("out"), py::arg("width"),
               py::arg("isa"), py::arg("threads"),
               "out = activation(row_scale * y + bias) + residual.");
    module.def("product", &bind_product, py::arg("x"), py::arg("weight"), py::arg("bias"),
               py::arg("of_bytes"), py::arg("activation"), py::arg("residual"),
               py::arg("rectified"), py::arg("out"), py::arg("image"), py::arg("threads"),
               "out = activation(x @ weight^T + bias) + residual, its negatives 0 if rectified. "
               "weight: (address of panels, units, features). of_bytes: (zero, addresses of "
               "correction and scale) of an int8 weight, or zeros. image: (height, width) of those "
               "whose pixels are the rows that a 3x3 convolution takes, else (0, 0).");
}

}  // namespace clipfast
