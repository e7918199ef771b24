"""States of a processor at a guest's first instruction, as changes to good ones of a mode, and what a case is."""

import attrs

from anyvisor.memory import MIB, Region
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.x86_64.control import Rflags
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL, enter
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import (
    Activity,
    DebugRegs,
    MpState,
    Regs,
    SegmentRegister,
    Sregs,
    VcpuEvents,
)

TABLE = FACTS.supported_state(Cpuid).replace(CpuidEntry(0x7, 0))
NARROW = TABLE.replace(CpuidEntry(0x80000008, eax=48 << 8 | 40))  # 40 bits of physical address
MASKING = TABLE.replace(CpuidEntry(0x7, 1)).with_(Feature.LAM)
WIDE = TABLE.with_(Feature.LA57)
RESET = {type(state): state for state in reset_states()}
HOLE = 1 << 47  # an address that is in neither half
V86 = SegmentRegister(base=0x12340, limit=0xFFFF, selector=0x1234, type=3, s=True, dpl=3, present=True)
V86_SEGMENTS = dict.fromkeys(("cs", "ss", "ds", "es", "fs", "gs"), V86)
VIRTUAL = Rflags(fixed=True, vm=True)


def states(mode=LONG, *, cpuid=None, msrs=None, regs=(), debug=(), events=(), activity=Activity.RUNNABLE, **sregs):
    """A processor in that mode at its first instruction, changed.

    The change of a segment is a dictionary of its fields; `cpuid` is the CPUID table, `msrs` a mapping.
    """
    good = enter(mode, RESET[Sregs], page_table=0x9000)
    fields = {
        name: attrs.evolve(getattr(good, name), **value) if isinstance(value, dict) else value
        for name, value in sregs.items()
    }
    made = [
        MpState(activity),
        Regs(**{"rip": 0x1000, **dict(regs)}),
        attrs.evolve(good, **fields),
        DebugRegs(**dict(debug)),
        Msrs.of(msrs or {}),
        VcpuEvents(**dict(events)),
    ]
    return {type(state): state for state in [*made, *([cpuid] if cpuid else [])]}


def plan_of(found, *blobs):
    """Those states as a plan."""
    return BootPlan("x86_64", (Region(0, MIB),), blobs=blobs, vcpus=(VcpuPlan(0, tuple(found.values())),))


BOTH, INTEL, AMD = ("intel", "amd"), ("intel",), ("amd",)


@attrs.frozen
class Case:
    """What breaks a check, and what nearly does; whose processors see it; the register; what is said of it."""

    check: str
    makers: tuple[str, ...]
    register: str
    found: str
    offence: dict
    near: dict
    only_planned: bool = False


def case(check, makers, register, found, offence, near, **more):
    return Case(check, makers, register, found, offence, near, **more)


def long(**changes):
    return {"mode": LONG, **changes}


def protected(**changes):
    return {"mode": PROTECTED, **changes}


def real(**changes):
    return {"mode": REAL, **changes}
