// Similarity and top-k over a gallery in one pass of it.
//
//   cos(q, g) = q.g / (max(|q|, 1e-12) max(|g|, 1e-12));   softmax over g of scale * cos, or the k
//   largest
//
// queries (M, E) fp16 | bf16; gallery (N, E) of the same type or int8; products, norms and softmax
// in fp32. Bound: up to about 170 queries by memory, N E itemsize bytes; beyond by the tensor
// cores, 2 M N E operations. mma.sync and cp.async of sm_80 and newer; 16-byte accesses of both
// matrices. Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
#include "cuda/cosine.h"
#include "cuda/gpu_machine.h"
#include "cuda/launch.h"
#include "cuda/similarity_loop.h"
#include "cuda/top_k_loop.h"

namespace clipfast::cuda {
namespace {

template <class T, bool kBytes>
struct GalleryRows {
    using type = ElementRows<T, 16, true>;
};
template <class T>
struct GalleryRows<T, true> {
    using type = ByteRows<T>;
};

template <class T, bool kBytes>
__global__ void __launch_bounds__(kProductThreads, kCosineBlocksPerMultiprocessor)
    top_k_scan(TopKParams p) {
    Gpu m;
    scan_top_k<Gpu, T, typename GalleryRows<T, kBytes>::type>(m, p);
}

__global__ void __launch_bounds__(32) top_k_merge(TopKParams p) {
    Gpu m;
    merge_top_k(m, p);
}

template <class T, bool kBytes>
__global__ void __launch_bounds__(kProductThreads, kCosineBlocksPerMultiprocessor)
    similarity_scan(SimilarityParams p) {
    Gpu m;
    scan_similarity<Gpu, T, typename GalleryRows<T, kBytes>::type>(m, p);
}

__global__ void __launch_bounds__(kRescaleThreads) similarity_rescale(SimilarityParams p) {
    Gpu m;
    rescale_logits(m, p);
}

template <class T, bool kBytes>
cudaError_t run(const TopKParams& p, cudaStream_t stream) {
    using Rows = typename GalleryRows<T, kBytes>::type;
    const int64_t blocks = int64_t{p.cosines.slices} * p.cosines.query_tiles;
    const cudaError_t error =
        launch(top_k_scan<T, kBytes>, blocks, kProductThreads,
               scan_shared_bytes<Rows>(top_k_shared_bytes(p.capacity)), stream, p);
    if (error != cudaSuccess) return error;
    return launch(top_k_merge, p.cosines.queries.rows, 32, 4 * p.cosines.slices, stream, p);
}

template <class T, bool kBytes>
cudaError_t run(const SimilarityParams& p, cudaStream_t stream) {
    using Rows = typename GalleryRows<T, kBytes>::type;
    const int64_t blocks = int64_t{p.cosines.slices} * p.cosines.query_tiles;
    const cudaError_t error = launch(similarity_scan<T, kBytes>, blocks, kProductThreads,
                                     scan_shared_bytes<Rows>(kSoftmaxSharedBytes), stream, p);
    if (error != cudaSuccess) return error;
    return launch(similarity_rescale, rescale_blocks(p.cosines), kRescaleThreads, 0, stream, p);
}

template <class Params>
cudaError_t dispatch(const Params& params, Element element, Gallery gallery, cudaStream_t stream) {
    const bool bytes = gallery == Gallery::int8;
    switch (element) {
        case Element::float16:
            return bytes ? run<Float16, true>(params, stream) : run<Float16, false>(params, stream);
        case Element::bfloat16:
            return bytes ? run<Bfloat16, true>(params, stream)
                         : run<Bfloat16, false>(params, stream);
        default:
            return cudaErrorInvalidValue;
    }
}

}  // namespace

cudaError_t top_k(const TopKParams& params, Element element, Gallery gallery, cudaStream_t stream) {
    if (params.k < 1 || params.k > kMaxK || params.k > params.cosines.gallery.rows) {
        return cudaErrorInvalidValue;
    }
    return dispatch(params, element, gallery, stream);
}

cudaError_t similarity(const SimilarityParams& params, Element element, Gallery gallery,
                       cudaStream_t stream) {
    return dispatch(params, element, gallery, stream);
}

}  // namespace clipfast::cuda
