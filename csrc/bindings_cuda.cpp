// The CUDA kernels' part of clipfast._native, compiled where they are. Functions take addresses,
// sizes, strides in elements and a stream that clipfast/backends/cuda.py has checked; a failed
// launch is a RuntimeError.
#include "bindings_cuda.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "cuda/attention.h"
#include "cuda/cosine.h"
#include "cuda/device.h"
#include "cuda/patch_embed.h"
#include "cuda/resize.h"

namespace py = pybind11;

namespace clipfast {
namespace {

// Launches on a device and stream; (device, stream) is what PyTorch calls its index and its handle.
using Stream = std::pair<int, std::uintptr_t>;
using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

// The caller's current device is the same afterwards.
template <class Launch>
void on_device(const Stream& where, const Launch& launch) {
    const py::gil_scoped_release unlocked;
    int before = where.first;
    cudaError_t error = cudaGetDevice(&before);
    if (error == cudaSuccess && before != where.first) error = cudaSetDevice(where.first);
    if (error == cudaSuccess) error = launch(at<CUstream_st>(where.second));
    if (before != where.first) cudaSetDevice(before);
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

cuda::Element element(bool bfloat16) {
    return bfloat16 ? cuda::Element::bfloat16 : cuda::Element::float16;
}

// (address, row stride in elements, rows, width)
using Rows = std::tuple<Address, std::int64_t, std::int32_t, std::int32_t>;

cuda::RowMatrix row_matrix(const Rows& rows) {
    const auto [address, stride, count, width] = rows;
    return {at<const void>(address), stride, count, width};
}

// (address, whether float32)
using Numbers = std::pair<Address, bool>;

cuda::Numbers numbers(const Numbers& n) { return {at<const void>(n.first), n.second}; }

void cuda_attention(const Rows& qkv, const Rows& out, Address cu_seqlens, int sequences, int length,
                    int heads, bool causal, bool bfloat16, const Stream& where) {
    const auto [qkv_at, qkv_stride, rows, width] = qkv;
    const auto [out_at, out_stride, out_rows, out_width] = out;
    const cuda::AttentionParams params = {at<const std::uint16_t>(qkv_at),
                                          at<std::uint16_t>(out_at),
                                          at<const std::int32_t>(cu_seqlens),
                                          static_cast<std::int32_t>(qkv_stride),
                                          static_cast<std::int32_t>(out_stride),
                                          sequences,
                                          length,
                                          heads,
                                          causal};
    const int head_dim = out_width / heads;
    on_device(where, [&](cudaStream_t stream) {
        return cuda::attention(params, element(bfloat16), head_dim, stream);
    });
}

void cuda_attention_pool(const Rows& query, const Rows& kv, const Rows& out, Address cu_seqlens,
                         Address key_rows, int length, int heads, bool bfloat16,
                         const Stream& where) {
    const auto [query_at, query_stride, sequences, width] = query;
    const auto [kv_at, kv_stride, rows, kv_width] = kv;
    const auto [out_at, out_stride, out_rows, out_width] = out;
    const cuda::AttentionPoolParams params = {at<const std::uint16_t>(query_at),
                                              at<const std::uint16_t>(kv_at),
                                              at<std::uint16_t>(out_at),
                                              at<const std::int32_t>(cu_seqlens),
                                              at<const std::int32_t>(key_rows),
                                              static_cast<std::int32_t>(query_stride),
                                              static_cast<std::int32_t>(kv_stride),
                                              static_cast<std::int32_t>(out_stride),
                                              sequences,
                                              length,
                                              heads,
                                              width / heads};
    on_device(where, [&](cudaStream_t stream) {
        return cuda::attention_pool(params, element(bfloat16), stream);
    });
}

void cuda_patch_embed(Address pixels, const std::tuple<std::int64_t, int, int>& strides, int images,
                      int grid, int patch, const Rows& weight, const Numbers& bias,
                      const Numbers& class_row, const Numbers& positions, Address out,
                      bool bfloat16, const Stream& where) {
    const auto [image_stride, channel_stride, row_stride] = strides;
    const cuda::PatchEmbedParams params = {at<const std::uint8_t>(pixels),
                                           image_stride,
                                           channel_stride,
                                           row_stride,
                                           images,
                                           grid,
                                           row_matrix(weight),
                                           numbers(bias),
                                           numbers(class_row),
                                           numbers(positions),
                                           at<std::uint16_t>(out)};
    on_device(where, [&](cudaStream_t stream) {
        return cuda::patch_embed(params, element(bfloat16), patch, stream);
    });
}

cuda::CosineParams cosines(const Rows& queries, const Rows& gallery, int multiprocessors) {
    cuda::CosineParams params = {row_matrix(queries), row_matrix(gallery), 0, 0};
    cuda::share_gallery(params, multiprocessors);
    return params;
}

void cuda_top_k(const Rows& queries, const Rows& gallery, bool int8, int k, Address scratch,
                Address scores, Address indices, int multiprocessors, bool bfloat16,
                const Stream& where) {
    const cuda::TopKParams params = {cosines(queries, gallery, multiprocessors),
                                     at<std::uint64_t>(scratch),
                                     at<float>(scores),
                                     at<std::int64_t>(indices),
                                     k,
                                     cuda::candidate_capacity(k)};
    on_device(where, [&](cudaStream_t stream) {
        return cuda::top_k(params, element(bfloat16),
                           int8 ? cuda::Gallery::int8 : cuda::Gallery::same, stream);
    });
}

void cuda_similarity(const Rows& queries, const Rows& keys, bool int8, float scale, Address scratch,
                     Address out, int multiprocessors, bool bfloat16, const Stream& where) {
    const cuda::SimilarityParams params = {cosines(queries, keys, multiprocessors), at<float>(out),
                                           at<cuda::FloatPair>(scratch), scale};
    on_device(where, [&](cudaStream_t stream) {
        return cuda::similarity(params, element(bfloat16),
                                int8 ? cuda::Gallery::int8 : cuda::Gallery::same, stream);
    });
}

// Eights of bytes that top_k (k > 0) and similarity (k = 0) need as scratch.
std::int64_t cuda_cosine_scratch(const Rows& queries, const Rows& gallery, int k,
                                 int multiprocessors) {
    const cuda::CosineParams params = cosines(queries, gallery, multiprocessors);
    const std::int64_t rows = std::int64_t{params.slices} * params.query_tiles * 128;
    return rows * (k > 0 ? cuda::candidate_capacity(k) : 1);
}

// images: (count, 4) int64 address, height, width, row stride. planned: (count, cuda_resize_fields)
// int64.
std::int64_t cuda_plan_resize(Address images, int count, int size, Address planned) {
    const auto* image = at<const std::int64_t>(images);
    auto* plan = at<cuda::ResizeImage>(planned);
    std::int64_t taps = 0;
    for (int i = 0; i < count; ++i, image += 4, ++plan) {
        plan->pixels = image[0];
        plan->row_stride = image[3];
        taps = cuda::plan_resize(*plan, image[2], image[1], size, taps);
    }
    return taps;
}

void cuda_resize_crop(Address planned, Address taps, Address out, int count, int size,
                      const Stream& where) {
    const cuda::ResizeParams params = {at<const cuda::ResizeImage>(planned),
                                       at<std::int32_t>(taps),
                                       at<std::uint8_t>(out),
                                       count,
                                       size,
                                       0};
    on_device(where, [&](cudaStream_t stream) { return cuda::resize_crop(params, stream); });
}

}  // namespace

void bind_cuda(py::module_& module) {
    module.def("cuda_device_reason", &cuda::device_reason, py::arg("device"),
               "Why a device cannot run the CUDA kernels, or an empty string.");
    module.def("cuda_attention", &cuda_attention);
    module.def("cuda_attention_pool", &cuda_attention_pool);
    module.def("cuda_patch_embed", &cuda_patch_embed);
    module.def("cuda_cosine_scratch", &cuda_cosine_scratch);
    module.def("cuda_top_k", &cuda_top_k);
    module.def("cuda_similarity", &cuda_similarity);
    module.def("cuda_plan_resize", &cuda_plan_resize);
    module.def("cuda_resize_crop", &cuda_resize_crop);
    module.attr("cuda_resize_fields") = cuda::kResizeImageFields;
}

}  // namespace clipfast
