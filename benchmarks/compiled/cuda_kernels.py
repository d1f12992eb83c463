"""Kernels of csrc/cuda compiled without a GPU, and what the assembler and the machine code say about each.

A source is compiled for one architecture with the options it is designed for, warnings as errors; the result is kept
under build/ by the hash of everything that it is made from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "cuda_report"
NVCC = os.environ.get("NVCC", "nvcc")
STRICT = (
    "--Werror=all-warnings",
    "-Xcompiler=-Wall,-Wextra,-Werror",
    "-Xptxas=-v,--warn-on-spills,--warn-on-local-memory-usage,--warning-as-error",
)
# Loads, stores and asynchronous copies of global memory, by the first word of their machine instruction; generic ones
# are what the compiler makes of an address whose memory it does not know.
ACCESSES = {
    "LDG": "load",
    "STG": "store",
    "LDGSTS": "copy",
    "LD": "generic load",
    "ST": "generic store",
    "ATOM": "atomic",
    "ATOMG": "atomic",
    "RED": "atomic",
}
# Where one stretch of machine code without a branch ends.
BRANCHES = {"BRA", "BRX", "JMP", "CALL", "RET", "EXIT", "BSYNC"}
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}

Change = tuple[str, str, str]  # file under csrc/, what it says, what it says instead


class CompileError(RuntimeError):
    """nvcc refused; the message is its own."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture. name: "attention_resident<Bfloat16, 64, 33>". shared: static bytes.
    spills: bytes. code: its machine instructions in order, "LDG.E.128.CONSTANT"."""

    name: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spills: int
    code: tuple[str, ...]

    @cached_property
    def instructions(self) -> Counter[str]:
        """How often each machine instruction stands in the code."""
        return Counter(self.code)

    @property
    def family(self) -> str:
        return self.name.partition("<")[0]

    @property
    def products(self) -> int:
        """Instructions of the tensor cores."""
        return sum(count for word, count in self.instructions.items() if word.startswith("HMMA."))

    @property
    def parts(self) -> int:
        """Stretches of code without a branch that hold products: those of different stretches run one after another."""
        ends = [at for at, word in enumerate(self.code) if word.partition(".")[0] in BRANCHES]
        stretches = zip([0, *ends], [*ends, len(self.code)], strict=True)
        return sum(
            any(word.startswith("HMMA.") for word in self.code[first:end])
            for first, end in stretches
        )

    @property
    def local(self) -> int:
        """Accesses of local memory."""
        words = {word: word.partition(".")[0] for word in self.instructions}
        return sum(self.instructions[word] for word in words if words[word] in ("LDL", "STL"))

    @property
    def accesses(self) -> dict[str, int]:
        """Accesses of global memory: {"copy 16": how often, ...}, widths in bytes."""
        found: Counter[str] = Counter()
        for word, count in self.instructions.items():
            if (access := access_of(word)) is not None:
                found[access] += count
        return dict(sorted(found.items()))

    @property
    def constants(self) -> set[str]:
        """Loads of what no kernel writes, which may run before the wait for the kernel before."""
        return {str(access_of(word)) for word in self.instructions if word.endswith(".CONSTANT")}


def access_of(word: str) -> str | None:
    """What a machine instruction does to global memory, and its width in bytes: "load 16", or None."""
    first, *rest = word.split(".")
    if first not in ACCESSES:
        return None
    return f"{ACCESSES[first]} {next((WIDTHS[part] for part in rest if part in WIDTHS), 4)}"


def sources() -> list[str]:
    """Names of the sources of csrc/cuda that hold kernels."""
    return sorted(path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu"))


def compiler() -> str | None:
    """The version of nvcc, or None where there is none."""
    if shutil.which(NVCC) is None:
        return None
    said = subprocess.run([NVCC, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", said)
    assert found is not None, said
    return found[1]


def changed_sources(folder: Path, changes: Sequence[Change]) -> Path:
    """A copy of csrc/ in `folder`, with the changes made: each must find what it replaces exactly once."""
    copy = folder / "csrc"
    shutil.copytree(ROOT / "csrc", copy)
    for file, old, new in changes:
        path = copy / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} says {old!r} {text.count(old)} times, expected once"
        path.write_text(text.replace(old, new))
    return copy


def compile_kernels(
    source: str,
    architecture: str,
    changes: Sequence[Change] = (),
    options: Sequence[str] = STRICT,
) -> list[Kernel]:
    """The kernels of csrc/cuda/<source>.cu for one architecture, such as "90a".

    Raises:
        CompileError: an error, a warning, which `options` make one, or a note of ptxas on lost performance (C75xx).
    """
    cubin = _compile(source, architecture, changes, options)
    log = cubin.with_suffix(".log").read_text()
    code = {name: tuple(words) for name, words in _machine_code(cubin)}
    return [
        Kernel(name, architecture, registers, shared, stack, spills, code[name])
        for name, registers, shared, stack, spills in _resources(log)
    ]


def _compile(
    source: str, architecture: str, changes: Sequence[Change], options: Sequence[str]
) -> Path:
    folder = ROOT / "csrc" / "cuda"
    digest = hashlib.sha256(repr((compiler(), architecture, changes, options)).encode())
    for path in sorted([*folder.glob("*.h"), folder / f"{source}.cu", folder / "nvcc.options"]):
        digest.update(path.read_bytes())
    target = CACHE / f"{source}-{architecture}-{digest.hexdigest()[:20]}.cubin"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        include = changed_sources(Path(scratch), changes) if changes else ROOT / "csrc"
        built = Path(scratch) / "kernels.cubin"
        code = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
        command = [NVCC, f"--options-file={folder / 'nvcc.options'}", *options, code]
        command += [f"-I{include}", "-cubin", str(include / "cuda" / f"{source}.cu")]
        done = subprocess.run(
            [*command, "-o", str(built)], capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        # What ptxas calls information: setmaxnreg ignored, wgmma serialised.
        if done.returncode or re.search(r"\(C75\d\d\)", said):
            raise CompileError(f"{source} for sm_{architecture}:\n{said}")
        target.with_suffix(".log").write_text(said)
        partial = target.with_suffix(f".{os.getpid()}")
        shutil.copy(built, partial)
        partial.replace(target)
    return target


def _resources(log: str) -> Iterator[tuple[str, int, int, int, int]]:
    """Name, registers, static shared memory, stack and spills of each kernel, from ptxas -v."""
    blocks = re.split(r"Compiling entry function '([^']+)'", log)
    names = _readable(blocks[1::2])
    for name, block in zip(names, blocks[2::2], strict=True):
        used = re.search(r"Used (\d+) registers", block)
        frame = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill", block
        )
        if used is None or frame is None:
            raise CompileError(f"the assembler's log has another form:\n{block}")
        shared = re.search(r"(\d+) bytes smem", block)
        spills = int(frame[2]) + int(frame[3])
        yield name, int(used[1]), int(shared[1]) if shared else 0, int(frame[1]), spills


def _machine_code(cubin: Path) -> Iterator[tuple[str, list[str]]]:
    """Name of each kernel, and the first word of every instruction: "LDG.E.128.CONSTANT"."""
    command = [_cuobjdump(), "--dump-sass", str(cubin)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    blocks = re.split(r"Function : (\S+)", said)
    for name, block in zip(_readable(blocks[1::2]), blocks[2::2], strict=True):
        yield name, re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", block)


def _cuobjdump() -> str:
    """The toolkit's, or the one that triton brings; found without importing it."""
    found = shutil.which("cuobjdump")
    if found is not None:
        return found
    triton = importlib.util.find_spec("triton")
    assert triton is not None, "cuobjdump is in the CUDA toolkit and in triton; neither is here"
    assert triton.origin is not None
    return str(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump")


def _readable(names: Sequence[str]) -> list[str]:
    """Kernel names with their template arguments, without namespaces and parameters."""
    said = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    return [_short(name) for name in said.splitlines()]


def _short(name: str) -> str:
    name = re.sub(r"\(anonymous namespace\)::|clipfast::cuda::|^void ", "", name)
    name = re.sub(r"\(int\)|\(bool\)", "", name)
    depth = 0
    for at, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return name[:at]
    return name
