"""x86_64 boot primitives, usable on their own: nothing in here needs a hypervisor.

The submodules are imported when they are first named, so `from anyvisor import x86_64` costs nothing:
`x86_64.gdt.BOOT_GDT`, `x86_64.cpuid.Cpuid`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor.lazy import submodules

if TYPE_CHECKING:
    from anyvisor.x86_64 import acpi as acpi
    from anyvisor.x86_64 import bootparams as bootparams
    from anyvisor.x86_64 import chips as chips
    from anyvisor.x86_64 import control as control
    from anyvisor.x86_64 import cpu_models as cpu_models
    from anyvisor.x86_64 import cpuid as cpuid
    from anyvisor.x86_64 import cpuid_policy as cpuid_policy
    from anyvisor.x86_64 import gdt as gdt
    from anyvisor.x86_64 import image as image
    from anyvisor.x86_64 import lapic as lapic
    from anyvisor.x86_64 import layout as layout
    from anyvisor.x86_64 import mptable as mptable
    from anyvisor.x86_64 import msrs as msrs
    from anyvisor.x86_64 import multiboot as multiboot
    from anyvisor.x86_64 import paging as paging
    from anyvisor.x86_64 import pvh as pvh
    from anyvisor.x86_64 import pvh_image as pvh_image
    from anyvisor.x86_64 import raw as raw
    from anyvisor.x86_64 import registers as registers
    from anyvisor.x86_64 import smbios as smbios
    from anyvisor.x86_64 import state as state

__getattr__ = submodules(__name__)
