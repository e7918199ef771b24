"""Kernels of a few bytes for tests; see `anyvisor.testing.kernels`."""

from anyvisor.testing.kernels import LOAD_ADDRESS
from anyvisor.testing.kernels import tiny_kernel as tiny_elf

__all__ = ["LOAD_ADDRESS", "tiny_elf"]
