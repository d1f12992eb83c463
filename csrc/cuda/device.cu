// Whether a device can run the kernels: there is one, and this module holds code for it. sm_80 and
// newer.
#include <cuda_runtime.h>

#include "cuda/device.h"

namespace clipfast::cuda {
namespace {

// Compiled for the same architectures as every kernel.
__global__ void probe() {}

}  // namespace

std::string device_reason(int device) {
    int count = 0, driver = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    // Without a driver its version is zero, and the count's error speaks of an old one.
    const bool no_driver = cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0;
    if (no_driver || error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
        return "no CUDA device";
    }
    if (error != cudaSuccess) return std::string("no CUDA device: ") + cudaGetErrorString(error);
    if (device >= count) {
        return "there is no CUDA device " + std::to_string(device) + ", only " +
               std::to_string(count);
    }
    cudaDeviceProp properties;
    error = cudaGetDeviceProperties(&properties, device);
    int before = device;
    if (error == cudaSuccess) error = cudaGetDevice(&before);
    if (error == cudaSuccess && before != device) error = cudaSetDevice(device);
    cudaFuncAttributes attributes;
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, probe);
    if (before != device) cudaSetDevice(before);
    if (error == cudaSuccess) return "";
    const std::string architecture =
        "sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
    return "its kernels do not run on " + architecture + ": " + cudaGetErrorString(error);
}

}  // namespace clipfast::cuda
