// Launching a kernel: the device's limits, and shared memory beyond the default 48 KiB.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace clipfast::cuda {

// The value of an attribute of the current device; zero when it cannot be read.
inline int device_attribute(cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 0;
    return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess ? value : 0;
}

// An empty grid launches nothing.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared_bytes,
                   cudaStream_t stream, Arguments... arguments) {
    constexpr int kDefaultSharedBytes = 48 * 1024;
    constexpr int64_t kMostBlocks = 0x7fffffff;
    if (blocks == 0) return cudaSuccess;
    if (blocks < 0 || blocks > kMostBlocks) return cudaErrorInvalidConfiguration;
    if (shared_bytes > kDefaultSharedBytes) {
        const cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
        if (error != cudaSuccess) return error;
    }
    kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(arguments...);
    return cudaGetLastError();
}

}  // namespace clipfast::cuda
