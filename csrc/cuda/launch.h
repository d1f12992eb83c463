// Launching a kernel: the device's limits, shared memory beyond the default 48 KiB, and a start
// under the end of the kernel before it. Source: CUDA C++ Programming Guide, "Programmatic
// Dependent Launch".
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

namespace clipfast::cuda {

// The value of an attribute of the current device; zero when it cannot be read.
inline int device_attribute(cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 0;
    return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess ? value : 0;
}

// Whether kernels of the current device may start under the end of the kernel before: from compute
// capability 9.0 on, for which they are compiled to wait (gpu_machine.h). Asked once a device.
inline bool starts_early() {
    constexpr int kDevices = 64, kFirst = 9;
    static std::atomic<int> majors[kDevices];  // 0: not asked yet
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) return false;
    int major = majors[device].load(std::memory_order_relaxed);
    if (major == 0) {
        major = device_attribute(cudaDevAttrComputeCapabilityMajor);
        majors[device].store(major, std::memory_order_relaxed);
    }
    return major >= kFirst;
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
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = starts_early() ? 1 : 0;
    cudaLaunchKernelEx(&config, kernel, arguments...);
    return cudaGetLastError();
}

}  // namespace clipfast::cuda
