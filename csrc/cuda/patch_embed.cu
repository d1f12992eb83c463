// Patch embedding from uint8 pixels: patches, product, bias, positions and class row in one pass.
//
//   tokens[b] = [class_row; patches(pixels[b]) weight^T + bias + positions]
//
// pixels (B, 3, R, R) uint8; weight (D, 3 P^2) fp16 | bf16 with pixel normalisation folded in;
// tokens (B, L, D) of the same type; products in fp32. Patches of 14: 2-byte loads of pixels and
// 8-byte copies of weights, whose rows have no better alignment; 16 and 32: 16-byte. Bound: by the
// tensor cores for D >= 768, 2 * 3 P^2 D operations a patch; mma.sync and cp.async of sm_80 and
// newer. Source: Dosovitskiy et al. 2020, arXiv:2010.11929, equation 1.
#include "cuda/gpu_machine.h"
#include "cuda/launch.h"
#include "cuda/patch_embed.h"
#include "cuda/patch_embed_loop.h"

namespace clipfast::cuda {
namespace {

template <class T, int kPatch>
__global__ void __launch_bounds__(kProductThreads, kPatchBlocksPerMultiprocessor)
    patch_embed_kernel(PatchEmbedParams p) {
    Gpu m;
    embed_patches<Gpu, T, kPatch>(m, p);
}

template <class T>
void (*choose_kernel(int patch))(PatchEmbedParams) {
    switch (patch) {
        case 14:
            return patch_embed_kernel<T, 14>;
        case 16:
            return patch_embed_kernel<T, 16>;
        case 32:
            return patch_embed_kernel<T, 32>;
        default:
            return nullptr;
    }
}

}  // namespace

cudaError_t patch_embed(const PatchEmbedParams& params, Element element, int patch,
                        cudaStream_t stream) {
    const auto kernel = element == Element::bfloat16 ? choose_kernel<Bfloat16>(patch)
                                                     : choose_kernel<Float16>(patch);
    if (kernel == nullptr) return cudaErrorInvalidValue;
    return launch(kernel, patch_embed_blocks(params), kProductThreads, kPatchEmbedSharedBytes,
                  stream, params);
}

}  // namespace clipfast::cuda
