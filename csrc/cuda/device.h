// Whether a device can run the kernels.
#pragma once

#include <string>

namespace clipfast::cuda {

// Why device number `device` cannot run them, as a sentence; empty when it can.
std::string device_reason(int device);

}  // namespace clipfast::cuda
