"""What the installed native module holds."""

from importlib.util import find_spec


def built_for_cuda() -> bool:
    if find_spec("clipfast._native") is None:
        return False
    from clipfast import _native

    return bool(_native.cuda_architectures)
