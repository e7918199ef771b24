"""What a kernel for teaching finds at its first instruction: a GDT that it can keep, and nothing it does not handle.

Such a kernel runs programs in user mode before it has learned to build tables, saves 512 bytes of FXSAVE when it
switches between them, and drives one processor. So it gets a GDT with the segments of user mode, a processor without
wider registers than those of SSE, and no ACPI tables, which take an interpreter to read.
"""

from anyvisor import hookimpl
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.gdt import Gdt, Segment

KERNEL_CODE, KERNEL_DATA, TASK, USER_DATA, USER_CODE = 0x10, 0x18, 0x20, 0x33, 0x3B
"""Selectors. SYSRET wants the user's code behind the user's data: it adds 8 and 16 to what STAR says, here 0x28."""

FLAT_GDT = Gdt(
    Segment.null(),
    Segment.null(),
    Segment.code(bits=64),
    Segment.data(),
    Segment.tss(busy=True),
    Segment.data(privilege=3),
    Segment.code(bits=64, privilege=3),
)

BEYOND_SSE = ("AVX", "XSAVE", "OSXSAVE", "AMX", "FMA", "F16C", "XOP", "VAES", "VPCLMULQDQ", "MPX", "PKU", "CET")
"""How the names of features begin that need registers which only XSAVE saves."""
XSAVE_LEAF = 0xD


@hookimpl
def anyvisor_gdt():
    """Replaces the GDT."""
    return FLAT_GDT


@hookimpl(wrapper=True)
def anyvisor_cpuid():
    """Takes from the CPUID table whatever needs more than FXSAVE."""
    cpuid = yield
    wide = [feature for feature in Feature if feature.name.startswith(BEYOND_SSE)]
    return cpuid.without(*wide).drop(XSAVE_LEAF)


@hookimpl(wrapper=True)
def anyvisor_acpi():
    """Drops the ACPI tables: a machine can do without it, so a wrapper may return None."""
    yield
