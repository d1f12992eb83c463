from tests.native.kernels import kernels, towers

__all__ = ["kernels", "towers"]
