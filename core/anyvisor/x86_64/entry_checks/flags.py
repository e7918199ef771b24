"""RIP and RFLAGS."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.x86_64.control import Rflags
from anyvisor.x86_64.entry_checks.check import Broken, check, spelled
from anyvisor.x86_64.entry_checks.state import Known
from anyvisor.x86_64.state import Regs

FLAGS = "SDM Vol. 3, 27.3.1.4"
DEFINED = sum(each.mask for each in Rflags.fields.values())


@check("rip-fits-mode", "RIP has 32 bits outside 64-bit code, and is canonical in it.", intel=FLAGS)
def rip_fits(known: Known) -> Iterator[Broken]:
    """Which of the two is said by EFER.LMA and CS.L."""
    rip, code = known.value(Regs, "rip"), known.segment("cs")
    if rip is None:
        return
    found, in_64_bit_code = f"RIP {rip:#x}", known.long_mode and code is not None and code.l
    if in_64_bit_code and not known.is_canonical(rip):
        wanted = f"an address of {known.linear_address_bits} bits, the highest repeated upwards"
        yield Broken("RIP", "is not canonical", found, wanted, "correct the entry")
    elif code is not None and not in_64_bit_code and rip >> 32:
        remedy = "select 64-bit code in long mode, or move the entry below 4 GiB"
        yield Broken("RIP", "is beyond what code outside 64-bit mode reaches", found, "bits 63-32 clear", remedy)


@check("rflags-fixed", "Bit 1 of RFLAGS is set.", intel=FLAGS)
def rflags_fixed(known: Known) -> Iterator[Broken]:
    """It always reads as one."""
    flags = known.rflags
    if flags is not None and not flags.fixed:
        yield Broken("RFLAGS", "bit 1 is clear", spelled("RFLAGS", flags), "bit 1 set", "Rflags(fixed=True)")


@check("rflags-reserved", "No reserved bit of RFLAGS is set.", intel=FLAGS)
def rflags_reserved(known: Known) -> Iterator[Broken]:
    """Bits 3, 5, 15 and those from 22 up."""
    flags = known.rflags
    if flags is not None and (wrong := int(flags) & ~DEFINED):
        problem = f"reserved bits {wrong:#x} are set"
        yield Broken("RFLAGS", problem, spelled("RFLAGS", flags), "bits 3, 5, 15 and 63-22 clear", "clear them")


@check("vm-needs-protection", "RFLAGS.VM is set only in protected mode outside long mode.", intel=FLAGS)
def vm_needs_protection(known: Known) -> Iterator[Broken]:
    """Virtual-8086 mode is one of tasks of protected mode."""
    flags = known.rflags
    if flags is None or not flags.vm:
        return
    real = known.cr0 is not None and not known.cr0.pe
    if real or known.long_mode:
        where = "real mode" if real else "long mode"
        yield Broken("RFLAGS", f"VM is set in {where}", spelled("RFLAGS", flags), "VM clear", "clear RFLAGS.VM")
