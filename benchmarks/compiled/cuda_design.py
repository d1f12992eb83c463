"""What the kernels of csrc/cuda are designed for: matrix instructions, widths of accesses, blocks a multiprocessor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from benchmarks.compiled.cuda_kernels import Change, Kernel
from tests.cuda.host_attention import DEVICES, plan
from tests.cuda.host_library import load

# Warps, and blocks, that a multiprocessor holds at most.
WARPS = {80: 64, 89: 48, 90: 64, 100: 64, 120: 48}
BLOCKS = {80: 32, 89: 24, 90: 32, 100: 32, 120: 24}
LENGTHS = (50, 65, 77, 197, 226, 257, 577, 730)  # of CLIP's image towers
HEAD_DIMS = (64, 72, 80, 88, 104)
RESERVED_BYTES = 1024  # of shared memory per block, by the system


@dataclass(frozen=True)
class Family:
    """products: whether it multiplies on tensor cores. accesses: the only widths of global memory that it may use,
    in bytes; the first one carries its bulk and must be there. constants: those that load weights only, which no kernel
    writes."""

    products: bool
    accesses: tuple[str, ...]
    constants: tuple[str, ...] = ()


# Words of 4 bytes: offsets of sequences, last chunks that four lanes do not share, and the class token's row.
_ATTENTION = ("copy 16", "load 16", "store 16", "load 4", "store 4")
FAMILIES = {
    "attention_resident": Family(True, _ATTENTION),
    "attention_online": Family(True, _ATTENTION),
    "attention_packed": Family(True, _ATTENTION),
    "attention_pool_kernel": Family(False, ("load 16", "load 4", "store 4")),
    # Bias, class row and positions in pairs of either type; pixels of patches of 14 in pairs, their weights in 8 bytes.
    "patch_embed_kernel": Family(
        True, ("copy 16", "load 16", "store 16", "load 8", "load 4"), ("load 8", "load 4")
    ),
    "patch_embed_kernel 14": Family(
        True, ("copy 8", "load 2", "store 16", "load 8", "load 4"), ("load 8", "load 4")
    ),
    "top_k_scan": Family(True, ("copy 16", "load 8", "store 8")),
    "top_k_merge": Family(False, ("load 8", "store 8", "store 4")),
    "similarity_scan": Family(True, ("copy 16", "store 4", "store 8")),
    "similarity_rescale": Family(False, ("load 4", "store 4", "load 8")),
    # Rows of 3-byte pixels have no better alignment than a byte.
    "resize_taps": Family(False, ("load 8", "store 4")),
    "resize_bands": Family(False, ("load 1", "load 4", "load 8", "store 1")),
    "probe": Family(False, ()),
}


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel. shared: dynamic bytes. blocks: that are meant to share a multiprocessor."""

    what: str
    threads: int
    shared: int
    blocks: int


def family(kernel: Kernel) -> Family:
    """What a kernel is designed to be.

    Raises:
        KeyError: the table does not name it.
    """
    fourteen = kernel.family == "patch_embed_kernel" and kernel.name.endswith(" 14>")
    return FAMILIES[f"{kernel.family} 14" if fourteen else kernel.family]


@cache
def launches(architecture: int, changes: tuple[Change, ...] = ()) -> dict[str, list[Launch]]:
    """The launches of each kernel on the published shapes, by the kernel's name with T for its element."""
    found: dict[str, list[Launch]] = {}

    def add(kernel: str, launch: Launch) -> None:
        found.setdefault(kernel, []).append(launch)

    for head_dim in HEAD_DIMS:
        for length in LENGTHS:
            made = plan(architecture, 64, length, 16, head_dim)
            tiles = f", {made.key_tiles}" if made.loop == "resident" else ""
            add(f"attention_{made.loop}<T, {head_dim}{tiles}>", _launch(f"L {length}", made))
        made = plan(architecture, 1024, 0, 12, head_dim, packed=True, causal=True)
        add(f"attention_packed<T, {head_dim}>", _launch("packed", made))
    design = load("design", changes)
    add("attention_pool_kernel<T>", Launch("Dh 104", 128, design.pool_bytes(104), 4))
    for patch in (14, 16, 32):
        embed = Launch(f"P {patch}", 256, design.patch_embed_bytes(), 2)
        add(f"patch_embed_kernel<T, {patch}>", embed)
    # The scans hold both operands' rings: about 80 KB, so a multiprocessor of 100 KB takes one block.
    scans = 1 if architecture in (89, 120) else 2
    for gallery in (False, True):
        name = f"<T, {str(gallery).lower()}>"
        for k in (10, 100):
            blocks = 1 if architecture == 80 and k == 100 else scans
            shared = design.top_k_bytes(k, gallery)
            add(f"top_k_scan{name}", Launch(f"k {k}", 256, shared, blocks))
        shared = design.similarity_bytes(gallery)
        add(f"similarity_scan{name}", Launch("softmax", 256, shared, scans))
    add("top_k_merge", Launch("264 slices", 32, 4 * 264, 16))
    add("similarity_rescale", Launch("4096 columns", 256, 0, 4))
    add("resize_taps", Launch("an axis", 128, 0, 4))
    for size in (224, 336):
        shared = design.resize_bytes(size, DEVICES[architecture][2])
        fit = DEVICES[architecture][1] // (shared + RESERVED_BYTES)
        add("resize_bands", Launch(f"R {size}", 256, shared, min(4, fit)))
    return found


def _launch(what: str, made) -> Launch:
    return Launch(what, 32 * made.warps, made.shared_bytes, made.blocks_a_multiprocessor)


def blocks_a_multiprocessor(kernel: Kernel, launch: Launch) -> int:
    """How many blocks of a launch run side by side on a multiprocessor: the least of what registers, shared memory,
    warps and blocks allow."""
    architecture = int(kernel.architecture.rstrip("a"))
    warps = -(-launch.threads // 32)
    of_a_warp = -(-kernel.registers * 32 // 256) * 256
    by_registers = 4 * (16_384 // of_a_warp) // warps  # four partitions of 16,384
    shared = -(-(launch.shared + kernel.shared + RESERVED_BYTES) // 128) * 128
    by_shared = DEVICES[architecture][1] // shared
    return min(by_registers, by_shared, WARPS[architecture] // warps, BLOCKS[architecture])
