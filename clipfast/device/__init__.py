"""What keeps one accelerator busy: batches that fill it, pinned buffers, streams, graphs, and memory that runs out.

Everything here speaks to a `DeviceLayer`: `CudaLayer` on a GPU, `HostLayer` on the CPU, where work runs as early or as
late as its events allow, and failures come when told. Nothing here knows a model.
"""

from clipfast.device.batching import Batching, Product, token_budget
from clipfast.device.cuda import CudaLayer
from clipfast.device.host import HostLayer, HostMemoryError
from clipfast.device.images import DeviceImages
from clipfast.device.layer import DeviceLayer
from clipfast.device.memory import MemoryLimit
from clipfast.device.texts import DeviceTexts

__all__ = [
    "Batching",
    "CudaLayer",
    "DeviceImages",
    "DeviceLayer",
    "DeviceTexts",
    "HostLayer",
    "HostMemoryError",
    "MemoryLimit",
    "Product",
    "token_budget",
]
