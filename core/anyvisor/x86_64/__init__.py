"""x86_64 boot primitives, usable on their own: nothing in here needs a hypervisor.

The submodules are imported when they are first named, so `from anyvisor import x86_64` costs nothing:
`x86_64.gdt.BOOT_GDT`, `x86_64.cpuid.Cpuid`.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """A submodule, imported on first use."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
