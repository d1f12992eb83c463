"""Calls of the C++ kernels, recorded once for inputs of a shape, and from then on run again without Python.

What a tower does on the CPU follows from its input's shape alone, down to the addresses when the memory is kept. A tape
holds those calls: running it takes no interpreter lock, which two batches at once would wait for, and no memory is
taken or given back. Whatever was computed by anything but these kernels cannot be on a tape; it is seen, and such a
function is called as it is, always.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipfast.backends.cpu_operands import threads
from clipfast.ops import Tensor

if TYPE_CHECKING:
    from clipfast import _native

Shape = tuple[torch.Size, torch.dtype]
Function = Callable[[Tensor], Tensor]

# Memory of tapes that wait for the next input of their shape; those of the last one are kept in any case.
MOST_IDLE_BYTES = 256 << 20
# Blocks are of sizes that many operands share: steps of an eighth of a power of two. What is never written takes no
# memory.
_STEPS = 8


class Kernels(Protocol):
    """What the native module and its tapes have in common."""

    layer_norm: Callable[..., None]
    attention: Callable[..., None]
    patches: Callable[..., None]
    tokens: Callable[..., None]
    quantise: Callable[..., None]
    dequantise: Callable[..., None]
    product: Callable[..., None]


class _OfThread(threading.local):
    recording: Recording | None = None


_of_thread = _OfThread()


def kernels() -> Kernels:
    """The kernels of the towers: the native module's, or those of the tape that this thread records."""
    from clipfast import _native

    recording = _of_thread.recording
    return _native if recording is None else recording.tape


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uninitialised memory for what a kernel computes; of the tape that this thread records, if any."""
    recording = _of_thread.recording
    return torch.empty(shape, dtype=dtype) if recording is None else recording.empty(shape, dtype)


class Repeated:
    """A function of one tensor, whose calls with a shape that was seen before run from tapes.

    Several threads may call it: each takes a tape of its own while it runs.
    """

    def __init__(self, function: Function) -> None:
        """function: what it does follows from its input's shape and dtype alone; it works in the calling thread."""
        self._function = function
        self._idle: OrderedDict[Shape, list[Recorded]] = OrderedDict()  # used last at the end
        self._unrecordable: set[torch.dtype] = set()
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """function(x), to the bit."""
        if x.dtype in self._unrecordable:
            return self._function(x)
        recorded = self._take((x.shape, x.dtype))
        if recorded is not None:
            y = recorded.run(x)
        else:
            recorded = Recorded(self._function, x)
            y = recorded.y.clone()
        if recorded.foreign is None:
            self._keep((x.shape, x.dtype), recorded)
        else:
            self._unrecordable.add(x.dtype)
        return y

    def forget(self) -> None:
        """Gives the tapes' memory back."""
        with self._lock:
            self._idle.clear()

    @property
    def idle_bytes(self) -> int:
        """Memory of the tapes that nobody is running."""
        return sum(recorded.bytes for tapes in self._idle.values() for recorded in tapes)

    def _take(self, shape: Shape) -> Recorded | None:
        with self._lock:
            tapes = self._idle.get(shape)
            return tapes.pop() if tapes else None

    def _keep(self, shape: Shape, recorded: Recorded) -> None:
        with self._lock:
            self._idle.setdefault(shape, []).append(recorded)
            self._idle.move_to_end(shape)
            while len(self._idle) > 1 and self.idle_bytes > MOST_IDLE_BYTES:
                self._idle.popitem(last=False)


class Recorded:
    """One tape with its input and its output.

    Attributes:
        y: what came of the input; written again by every run. bytes: of memory. foreign: None, or why it cannot run.
    """

    def __init__(self, function: Function, x: Tensor) -> None:
        recording = Recording(x)
        self.y = recording.of(function)
        self.foreign = recording.foreign
        self.bytes = recording.bytes
        self._recording = recording

    def run(self, x: Tensor) -> Tensor:
        """function(x)."""
        self._recording.x.copy_(x)
        self._recording.tape.run(threads())
        return self.y.clone()


class Recording:
    """A tape that is being made, and the memory that its kernels use.

    Attributes:
        x: the input of the tape. foreign: what was done to it, or to what came of it, by others than the kernels.
        bytes: of memory for the input and the kernels.
    """

    def __init__(self, like: Tensor) -> None:
        from clipfast import _native

        self.tape: _native.Tape = _native.Tape()
        self.x = torch.empty(like.shape, dtype=like.dtype).copy_(like)
        self.foreign: str | None = None
        self.bytes = self.x.nbytes
        self._free: dict[int, list[Tensor]] = {}
        self._data = {self.x.data_ptr()}
        self._constants: list[Tensor] = []

    def of(self, function: Function) -> Tensor:
        """Records function(x) while it is computed, and returns it."""
        _of_thread.recording = self
        try:
            with _Watch(self):
                return function(self.x)
        finally:
            _of_thread.recording = None

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A part of the tape's memory, free again when nothing refers to it any more."""
        count = math.prod(shape) * dtype.itemsize
        size = _block_size(count)
        free = self._free.setdefault(size, [])
        if free:
            block = free.pop()
        else:
            block = torch.empty(size, dtype=torch.uint8)
            self.bytes += size
            self._data.add(block.data_ptr())
        lease = block.numpy()[:count]
        weakref.finalize(lease, self._return, block).atexit = False
        return torch.from_numpy(lease).view(dtype).view(shape)

    def _return(self, block: Tensor) -> None:
        self._free[len(block)].append(block)

    def saw(self, operation: Any, inputs: Iterable[Any], outputs: Iterable[Any]) -> None:
        """An operation of torch's. Views are no work; of constants it is done once; the rest is foreign."""
        if any(self._is_data(value) for value in inputs):
            if not _is_view(operation):
                self.foreign = str(operation)
            return
        made = [value for value in outputs if isinstance(value, Tensor)]
        self._constants += made
        if "empty" in str(operation):  # a kernel will write there
            self._data |= {value.untyped_storage().data_ptr() for value in made}

    def _is_data(self, value: Any) -> bool:
        """Whether it holds what another input would change."""
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return False
        return value.numel() > 0 and value.untyped_storage().data_ptr() in self._data


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows a recording every operation of torch's."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording = recording

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to skip torch's compiler, torch would import it, 900 modules and 140 MB."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        y = func(*args, **(kwargs or {}))
        self._recording.saw(func, tree_leaves((args, kwargs)), tree_leaves(y))
        return y


def _block_size(count: int) -> int:
    """The least size of a block that holds so many bytes."""
    step = max(1, (1 << count.bit_length()) // (2 * _STEPS))
    return -(-count // step) * step


def _is_view(operation: Any) -> bool:
    returns = operation._schema.returns  # noqa: SLF001  (torch's only name for it)
    aliases = [value.alias_info for value in returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)
