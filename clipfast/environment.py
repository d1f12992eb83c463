"""The environment variables clipfast reads at run time, all of them, each with its accepted values.

CLIPFAST_MODEL: what `clipfast.encode_images` loads when no default model was set; anything that `load` accepts.
CLIPFAST_BACKEND: the backend that `load(backend="auto")` takes; one of BACKENDS.
CLIPFAST_ISA: the instruction set of the C++ kernels; one of ISAS. The processor must have it.
SLURM_PROCID and SLURM_NTASKS, RANK and WORLD_SIZE: which of how many processes `clipfast embed` is.

An unset or empty variable has its default. Values are read at each call, so a test can change them.
"""

from __future__ import annotations

import os

from clipfast.errors import ConfigurationError

BACKENDS = ("auto", "reference", "cpu", "triton", "cuda")
ISAS = ("auto", "serial", "avx2", "avx512", "avx512_bf16")


def default_model() -> str | None:
    """CLIPFAST_MODEL, or None when it is unset."""
    return os.environ.get("CLIPFAST_MODEL") or None


def backend() -> str:
    """CLIPFAST_BACKEND, "auto" when it is unset.

    Raises:
        ConfigurationError: the value is not one of BACKENDS.
    """
    return _choice("CLIPFAST_BACKEND", BACKENDS)


def isa() -> str:
    """CLIPFAST_ISA, "auto" (the widest the processor has) when it is unset.

    Raises:
        ConfigurationError: the value is not one of ISAS.
    """
    return _choice("CLIPFAST_ISA", ISAS)


def process_of_job() -> tuple[int, int] | None:
    """(index, number) of this process among those that SLURM or a launcher like torchrun started, or None.

    Raises:
        ConfigurationError: the variables are no such numbers.
    """
    for index, number in (("SLURM_PROCID", "SLURM_NTASKS"), ("RANK", "WORLD_SIZE")):
        found = os.environ.get(index), os.environ.get(number)
        if found[0] and found[1]:
            try:
                return int(found[0]), int(found[1])
            except ValueError:
                raise ConfigurationError(
                    f"{index}={found[0]!r}, {number}={found[1]!r}: expected two integers, or neither"
                ) from None
    return None


def variables() -> dict[str, str]:
    """Every CLIPFAST_ variable that is set, known or not, for reports."""
    return {name: value for name, value in os.environ.items() if name.startswith("CLIPFAST_")}


def _choice(name: str, accepted: tuple[str, ...]) -> str:
    value = os.environ.get(name) or "auto"
    if value not in accepted:
        raise ConfigurationError(
            f"{name}={value!r} is not known; expected one of {', '.join(accepted)}, or unset it"
        )
    return value
