from tests.native.kernels import kernels

__all__ = ["kernels"]
