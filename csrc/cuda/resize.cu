// Resize of the shorter side to `size` and centre crop, for images of any sizes, with Pillow's own
// bits.
//
// images: (H, W, 3) uint8 each; out: (images, 3, size, size) uint8. Integer sums of 22-bit weights,
// which one kernel computes in float64 and the next applies; only pixels of the crop are made.
// 1-byte accesses: rows of 3-byte pixels have no better alignment. Bound: by the issue of byte
// loads, 3 * taps a pixel; sm_80 and newer. Source: Pillow 13's Resample.c (MIT-CMU), from its
// description.
#include "cuda/gpu_machine.h"
#include "cuda/launch.h"
#include "cuda/resize.h"
#include "cuda/resize_loop.h"

namespace clipfast::cuda {
namespace {

__global__ void __launch_bounds__(kTapThreads) resize_taps(ResizeParams p) {
    Gpu m;
    fill_taps(m, p);
}

__global__ void __launch_bounds__(kResizeThreads) resize_bands(ResizeParams p) {
    Gpu m;
    ResizeBand<Gpu>(m, p).run(m);
}

}  // namespace

cudaError_t resize_crop(ResizeParams params, cudaStream_t stream) {
    const int limit = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    params.band = resize_band(params.size, limit);
    const int shared_bytes = resize_shared_bytes(params.size, params.band);
    if (params.size < 1 || shared_bytes > limit) return cudaErrorInvalidValue;
    const cudaError_t error =
        launch(resize_taps, int64_t{2} * params.count, kTapThreads, 0, stream, params);
    if (error != cudaSuccess) return error;
    return launch(resize_bands, resize_blocks(params), kResizeThreads, shared_bytes, stream,
                  params);
}

}  // namespace clipfast::cuda
