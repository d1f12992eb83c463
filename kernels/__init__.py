"""Triton kernels, a file per operation; installed as clipfast.kernels."""
