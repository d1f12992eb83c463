// The operations of the towers: LayerNorm, attention, patches.

#include <functional>
#include <utility>
#include <vector>

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

// A kernel with all its operands but the number of threads, ready to run as often as wanted.
using Call = std::function<void(int threads)>;

template <class Problem>
Call call(void (*kernel)(const Problem&), Problem problem) {
    return [kernel, problem](int threads) {
        Problem now = problem;
        now.threads = threads;
        kernel(now);
    };
}

// Calls that were made once, in their order. They read and write the same memory again each time.
class Tape {
  public:
    void add(Call call) { calls_.push_back(std::move(call)); }
    void run(int threads) const {
        parse_threads(threads);
        const py::gil_scoped_release unlocked;
        for (const Call& call : calls_) call(threads);
    }

  private:
    std::vector<Call> calls_;
};

Call layer_norm_call(const py::tuple& x, const py::tuple& residual, const py::tuple& sum,
                     const py::tuple& out, std::uintptr_t weight, std::uintptr_t bias,
                     std::int64_t width, float eps, const std::string& isa) {
    return call(layer_norm,
                LayerNormProblem{parse_typed(x), parse_typed(residual), parse_typed(sum),
                                 parse_typed(out), pointer<const float>(weight),
                                 pointer<const float>(bias), width, eps, parse_isa(isa), 1});
}

Call attention_call(const py::tuple& queries, const py::tuple& keys, const py::tuple& values,
                    const py::tuple& out, const py::tuple& heads, const std::string& dtype,
                    const py::tuple& segments, const py::tuple& lengths, bool causal,
                    const std::string& isa) {
    return call(attention,
                AttentionProblem{parse_matrix(queries), parse_matrix(keys), parse_matrix(values),
                                 parse_matrix(out), heads[0].cast<std::int64_t>(),
                                 heads[1].cast<std::int64_t>(), parse_dtype(dtype),
                                 segments[0].cast<std::int64_t>(),
                                 pointer<const std::int32_t>(segments[1].cast<std::uintptr_t>()),
                                 pointer<const std::int32_t>(segments[2].cast<std::uintptr_t>()),
                                 pointer<const std::int32_t>(segments[3].cast<std::uintptr_t>()),
                                 lengths[0].cast<std::int64_t>(), lengths[1].cast<std::int64_t>(),
                                 causal, parse_isa(isa), 1});
}

Call patches_call(std::uintptr_t pixels, const py::tuple& strides, std::int64_t images,
                  std::int64_t grid, std::int64_t patch, const py::tuple& out,
                  const std::string& dtype) {
    return call(
        patches,
        PatchesProblem{pointer<const std::uint8_t>(pixels), images, strides[0].cast<std::int64_t>(),
                       strides[1].cast<std::int64_t>(), strides[2].cast<std::int64_t>(), grid,
                       patch, parse_matrix(out), parse_dtype(dtype), 1});
}

Call tokens_call(const py::tuple& embedded, const py::tuple& class_row, const py::tuple& positions,
                 const py::tuple& out, std::int64_t width, const std::string& isa) {
    return call(tokens,
                TokensProblem{parse_typed(embedded), parse_typed(class_row), parse_typed(positions),
                              parse_typed(out), width, parse_isa(isa), 1});
}

Activation parse_activation(const std::string& name) {
    if (name == "none") return Activation::none;
    if (name == "silu") return Activation::silu;
    if (name == "gelu") return Activation::gelu;
    throw std::invalid_argument("activation '" + name + "' is not one of none, silu, gelu");
}

Call quantise_call(const py::tuple& x, const py::tuple& out, std::uintptr_t row_scale, int zero,
                   std::int64_t width, const std::string& isa) {
    if (zero < 1 || zero > 254) throw std::invalid_argument("zero is not in 1 .. 254");
    return call(quantise,
                QuantiseProblem{parse_typed(x), parse_matrix(out), pointer<float>(row_scale), zero,
                                width, parse_isa(isa), 1});
}

Call dequantise_call(const py::tuple& y, std::uintptr_t row_scale, std::uintptr_t bias,
                     const std::string& activation, const py::tuple& residual, const py::tuple& out,
                     std::int64_t width, const std::string& isa) {
    return call(dequantise, DequantiseProblem{parse_typed(y), pointer<const float>(row_scale),
                                              pointer<const float>(bias),
                                              parse_activation(activation), parse_typed(residual),
                                              parse_typed(out), width, parse_isa(isa), 1});
}

// weight: (address of panels, units, features). of_bytes: (zero, addresses of correction and
// scale), or zeros.
ProductProblem parse_product(const py::tuple& x, const py::tuple& weight, std::uintptr_t bias,
                             const py::tuple& bytes, const std::string& activation,
                             const py::tuple& residual, bool rectified, const py::tuple& out) {
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
                              1};
    if (problem.out.dtype == Dtype::f16 ||
        (problem.residual.given() && problem.residual.dtype != problem.out.dtype))
        throw std::invalid_argument("products write float32 or bfloat16, as the residual is");
    if (problem.zero == 0 && problem.x.dtype == Dtype::f16)
        throw std::invalid_argument("products of float16 are only those that become bytes");
    return problem;
}

Call product_call(const py::tuple& x, const py::tuple& weight, std::uintptr_t bias,
                  const py::tuple& bytes, const std::string& activation, const py::tuple& residual,
                  bool rectified, const py::tuple& out, const py::tuple& image) {
    const ProductProblem problem =
        parse_product(x, weight, bias, bytes, activation, residual, rectified, out);
    const auto height = image[0].cast<std::int64_t>(), width = image[1].cast<std::int64_t>();
    if (width == 0) return call(product, problem);
    return [problem, height, width](int threads) {
        ProductProblem now = problem;
        now.threads = threads;
        convolve(now, height, width);
    };
}

// The kernel as a function of the module, and as one of a tape, which keeps it too.
template <class... Operands, class... Names>
void define(py::module_& module, py::class_<Tape>& tape, const char* name,
            Call (*make)(Operands...), const char* doc, const Names&... names) {
    module.def(
        name,
        [make](Operands... operands, int threads) {
            const Call made = make(operands...);
            parse_threads(threads);
            const py::gil_scoped_release unlocked;
            made(threads);
        },
        names..., py::arg("threads"), doc);
    tape.def(
        name,
        [make](Tape& self, Operands... operands, int threads) {
            Call made = make(operands...);
            parse_threads(threads);
            {
                const py::gil_scoped_release unlocked;
                made(threads);
            }
            self.add(std::move(made));
        },
        names..., py::arg("threads"), doc);
}

}  // namespace

void bind_towers(py::module_& module) {
    py::class_<Tape> tape(module, "Tape", "Kernels that run as they are called, and then again.");
    tape.def(py::init<>())
        .def("run", &Tape::run, py::arg("threads"), "All of them once more, on the same memory.");
    define(module, tape, "layer_norm", &layer_norm_call,
           "total = x + residual and its LayerNorm; matrices with their dtype, 0 for none.",
           py::arg("x"), py::arg("residual"), py::arg("total"), py::arg("out"), py::arg("weight"),
           py::arg("bias"), py::arg("width"), py::arg("eps"), py::arg("isa"));
    define(module, tape, "attention", &attention_call,
           "heads: (count, columns each). segments: (count, addresses of int32 cu_queries, "
           "cu_keys, key_rows; 0 for none). lengths: (queries, keys) where there is no cu_.",
           py::arg("queries"), py::arg("keys"), py::arg("values"), py::arg("out"), py::arg("heads"),
           py::arg("dtype"), py::arg("segments"), py::arg("lengths"), py::arg("causal"),
           py::arg("isa"));
    define(module, tape, "patches", &patches_call,
           "Rows of patches from bytes of (image, channel, row) strides.", py::arg("pixels"),
           py::arg("strides"), py::arg("images"), py::arg("grid"), py::arg("patch"), py::arg("out"),
           py::arg("dtype"));
    define(module, tape, "tokens", &tokens_call,
           "The class row and the embedded patches of each image, with their positions.",
           py::arg("embedded"), py::arg("class_row"), py::arg("positions"), py::arg("out"),
           py::arg("width"), py::arg("isa"));
    define(module, tape, "quantise", &quantise_call,
           "Rows as bytes around `zero` with a scale each.", py::arg("x"), py::arg("out"),
           py::arg("row_scale"), py::arg("zero"), py::arg("width"), py::arg("isa"));
    define(module, tape, "dequantise", &dequantise_call,
           "out = activation(row_scale * y + bias) + residual.", py::arg("y"), py::arg("row_scale"),
           py::arg("bias"), py::arg("activation"), py::arg("residual"), py::arg("out"),
           py::arg("width"), py::arg("isa"));
    define(module, tape, "product", &product_call,
           "out = activation(x @ weight^T + bias) + residual, its negatives 0 if rectified. "
           "weight: (address of panels, units, features). of_bytes: (zero, addresses of "
           "correction and scale) of an int8 weight, or zeros. image: (height, width) of those "
           "whose pixels are the rows that a 3x3 convolution takes, else (0, 0).",
           py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("of_bytes"),
           py::arg("activation"), py::arg("residual"), py::arg("rectified"), py::arg("out"),
           py::arg("image"));
}

}  // namespace clipfast
