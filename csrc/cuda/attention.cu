// Attention over CLIP's sequences: dense (images) and packed, causal or not (texts), and one query
// per sequence.
//
//   out = softmax(q k^T) v;   qkv (T, 3D), out (T, D) fp16 | bf16, fp32 accumulation and softmax.
//
// Bound: for 257 rows and fewer by memory, 4 T D itemsize bytes; beyond by the tensor cores, 4 L T
// D operations. mma.sync and cp.async of sm_80 and newer; 16-byte accesses, 4-byte ones for the
// last chunks of head dims that are no multiple of 32; loops and their machine: attention_loop.h,
// gpu_machine.h. Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1.
#include "cuda/attention.h"
#include "cuda/attention_loop.h"
#include "cuda/gpu_machine.h"
#include "cuda/launch.h"

namespace clipfast::cuda {
namespace {

template <class T, int kHeadDim, int kKeyTiles>
__global__ void __launch_bounds__(32 *
                                  warps_by_registers(AttentionLoop::resident, kKeyTiles, kHeadDim))
    attention_resident(AttentionParams p, AttentionPlan plan) {
    Gpu m;
    attend_resident<Gpu, T, kHeadDim, kKeyTiles>(m, p, plan);
}

template <class T, int kHeadDim>
__global__ void __launch_bounds__(32 * warps_by_registers(AttentionLoop::online, kOnlineKeyTiles,
                                                          kHeadDim))
    attention_online(AttentionParams p, AttentionPlan plan) {
    Gpu m;
    attend_dense_online<Gpu, T, kHeadDim>(m, p, plan);
}

template <class T, int kHeadDim>
__global__ void __launch_bounds__(32 * warps_by_registers(AttentionLoop::packed, kPackedKeyTiles,
                                                          kHeadDim))
    attention_packed(AttentionParams p, AttentionPlan plan) {
    Gpu m;
    attend_packed<Gpu, T, kHeadDim>(m, p, plan);
}

template <class T>
__global__ void __launch_bounds__(kPoolThreads, 4) attention_pool_kernel(AttentionPoolParams p) {
    Gpu m;
    pool_one_head<Gpu, T>(m, p);
}

using Kernel = void (*)(AttentionParams, AttentionPlan);

template <class T, int kHeadDim>
Kernel choose_kernel(const AttentionPlan& plan) {
    if (plan.loop == AttentionLoop::online) return attention_online<T, kHeadDim>;
    if (plan.loop == AttentionLoop::packed) return attention_packed<T, kHeadDim>;
    if (plan.key_tiles == 33) return attention_resident<T, kHeadDim, 33>;
    if constexpr (kHeadDim == 64) {
        if (plan.key_tiles == 7) return attention_resident<T, kHeadDim, 7>;
        if (plan.key_tiles == 10) return attention_resident<T, kHeadDim, 10>;
        if (plan.key_tiles == 25) return attention_resident<T, kHeadDim, 25>;
    }
    return nullptr;
}

template <class T>
Kernel choose_kernel(const AttentionPlan& plan, int head_dim) {
    switch (head_dim) {
        case 64:
            return choose_kernel<T, 64>(plan);
        case 72:
            return choose_kernel<T, 72>(plan);
        case 80:
            return choose_kernel<T, 80>(plan);
        case 88:
            return choose_kernel<T, 88>(plan);
        case 104:
            return choose_kernel<T, 104>(plan);
        default:
            return nullptr;
    }
}

}  // namespace

cudaError_t attention(const AttentionParams& params, Element element, int head_dim,
                      cudaStream_t stream) {
    const DeviceLimits device = {
        device_attribute(cudaDevAttrMultiProcessorCount),
        device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
        device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
    };
    const AttentionPlan plan = plan_attention(params, head_dim, device);
    const Kernel kernel = element == Element::bfloat16 ? choose_kernel<Bfloat16>(plan, head_dim)
                                                       : choose_kernel<Float16>(plan, head_dim);
    if (kernel == nullptr) return cudaErrorInvalidValue;
    const int64_t blocks = blocks_of(params, plan);
    return launch(kernel, blocks, plan.warps * 32, plan.shared_bytes, stream, params, plan);
}

cudaError_t attention_pool(const AttentionPoolParams& params, Element element,
                           cudaStream_t stream) {
    if (params.head_dim % 8 != 0 || params.head_dim > kMaxPoolHeadDim) return cudaErrorInvalidValue;
    const auto kernel = element == Element::bfloat16 ? attention_pool_kernel<Bfloat16>
                                                     : attention_pool_kernel<Float16>;
    const int64_t blocks = static_cast<int64_t>(params.sequences) * params.heads;
    return launch(kernel, blocks, kPoolThreads, single_query_bytes(params.head_dim), stream,
                  params);
}

}  // namespace clipfast::cuda
