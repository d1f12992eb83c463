// clipfast._native: the bindings*.cpp alone know Python. Functions take addresses,
// sizes and strides that the adapters in clipfast/backends/ have checked, release the GIL, and
// write into memory that the caller owns. Strides are in bytes.

#include <omp.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings_arguments.h"
#include "cpu/resize.h"
#include "cpu/similarity.h"
#include "cpu/tokenizer.h"
#include "cpu/top_k.h"
#ifdef CLIPFAST_CUDA
#include "bindings_cuda.h"
#endif

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

py::tuple supported_isas() {
    py::list names;
    for (const auto& entry : kIsas)
        if (supports(entry.isa)) names.append(entry.name);
    return py::tuple(names);
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
    return {argument[0].cast<std::int64_t>(), argument[1].cast<double>(),
            argument[2].cast<double>(),       argument[3].cast<std::int64_t>(),
            argument[4].cast<std::int64_t>(), argument[5].cast<std::int64_t>()};
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

// Callers' items as views into Python's own memory, valid while the list holds its items.
TextView text_view(py::handle item) {
    if (PyBytes_Check(item.ptr()))
        return {
            {PyBytes_AS_STRING(item.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(item.ptr()))},
            true};
    if (!PyUnicode_Check(item.ptr()) || !PyUnicode_IS_ASCII(item.ptr()))
        throw std::invalid_argument("texts are not bytes or ASCII str");
    return {{static_cast<const char*>(PyUnicode_DATA(item.ptr())),
             static_cast<std::size_t>(PyUnicode_GET_LENGTH(item.ptr()))},
            false};
}

class Tokenizer {
  public:
    Tokenizer(std::uintptr_t byte_ids, std::uintptr_t merges, std::int64_t count)
        : vocabulary_(reinterpret_cast<const std::int32_t*>(byte_ids),
                      reinterpret_cast<const std::int32_t*>(merges), count) {}

    // The idle caches are touched only with the GIL held; a call that runs without it owns its
    // cache.
    std::unique_ptr<TokenRows> encode(const py::list& texts) {
        std::vector<TextView> views;
        views.reserve(texts.size());
        for (const py::handle item : texts) views.push_back(text_view(item));
        std::unique_ptr<WordCache> cache;
        if (idle_.empty()) {
            cache = std::make_unique<WordCache>();
        } else {
            cache = std::move(idle_.back());
            idle_.pop_back();
        }
        std::unique_ptr<TokenRows> rows;
        {
            const py::gil_scoped_release unlocked;
            rows = std::make_unique<TokenRows>(encode_texts(views, vocabulary_, *cache));
        }
        idle_.push_back(std::move(cache));
        return rows;
    }

  private:
    Vocabulary vocabulary_;
    std::vector<std::unique_ptr<WordCache>> idle_;
};

// Positions of the items that are no plain str.
py::list unusual_texts(const py::list& texts) {
    py::list positions;
    for (std::size_t i = 0; i < texts.size(); ++i) {
        const py::handle item = texts[i];
        const bool ascii = PyUnicode_Check(item.ptr()) && PyUnicode_IS_ASCII(item.ptr());
        if (!ascii || !is_plain(text_view(item).bytes)) positions.append(i);
    }
    return positions;
}

void write_lengths(const TokenRows& rows, std::uintptr_t out, std::int64_t context) {
    std::int64_t* lengths = reinterpret_cast<std::int64_t*>(out);
    for (std::int64_t row = 0; row < rows.rows(); ++row)
        lengths[row] = context > 0 ? rows.packed_length(row, context) : rows.length(row);
}

void bind_tokenizer(py::module_& module) {
    py::class_<TokenRows>(module, "TokenRows", "Rows of token ids, from start to end of text.")
        .def("write_lengths", &write_lengths, py::arg("out"), py::arg("context"),
             "int64 lengths: of packed rows, or of whole rows when context is 0.")
        .def("write_padded",
             [](const TokenRows& rows, std::int64_t context, std::uintptr_t out) {
                 rows.write_padded(context, reinterpret_cast<std::int32_t*>(out));
             })
        .def("write_packed", [](const TokenRows& rows, std::int64_t context, std::uintptr_t ids,
                                std::uintptr_t offsets) {
            rows.write_packed(context, reinterpret_cast<std::int32_t*>(ids),
                              reinterpret_cast<std::int32_t*>(offsets));
        });
    py::class_<Tokenizer>(module, "Tokenizer", "CLIP's byte-level BPE over cleaned texts.")
        .def(py::init<std::uintptr_t, std::uintptr_t, std::int64_t>(), py::arg("byte_ids"),
             py::arg("merges"), py::arg("count"))
        .def("encode", &Tokenizer::encode, py::arg("texts"),
             "A list of plain str, or bytes of words with 0xff between them, to TokenRows.");
    module.def("unusual_texts", &unusual_texts, py::arg("texts"),
               "Positions of the items that are no str of printable ASCII without '&'.");
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
    module.def("set_thread_count", &omp_set_num_threads, py::arg("threads"),
               "How many OpenMP threads share what the calling thread computes from now on.");
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
               "axes (source, begin, end, resized, start, length) into out (address, image stride, "
               "planar).");
    bind_towers(module);
    bind_tokenizer(module);
#ifdef CLIPFAST_CUDA
    module.attr("cuda_architectures") = CLIPFAST_CUDA;
    bind_cuda(module);
#else
    module.attr("cuda_architectures") = "";
#endif
}
