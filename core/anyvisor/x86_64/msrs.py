"""Model-specific registers: 64-bit registers by number, which hold what has no place elsewhere.

Some facts about MSRs at boot. A guest's MSRs start at the values of a processor's reset; firmware then sets a
few, and an operating system that is started without firmware wants them so. The one that matters most is the
default memory type of the MTRRs: left at reset, all of RAM is uncached. Fast strings in MISC_ENABLE are what
makes copying by `rep movsb` fast. The others in `boot_msrs` are zero after a reset too; writing them says so.

Which MSRs there are depends on the vCPU's CPUID table, so a table comes before the MSRs, and `msrs` of one
vCPU need not fit another.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Iterator, Mapping

import attrs

from anyvisor.bits import Bits, bit, field
from anyvisor.codec import named
from anyvisor.errors import PlanError, Unsupported
from anyvisor.states import VcpuState
from anyvisor.x86_64.msr_index import Msr, is_saveable, msr_name

__all__ = [
    "MemoryType",
    "MiscEnable",
    "Msr",
    "MsrEntry",
    "Msrs",
    "MtrrDefType",
    "boot_msrs",
    "is_saveable",
    "msr_name",
]


class MemoryType(enum.IntEnum):
    """How memory is cached (SDM Vol. 3, 12.3)."""

    UNCACHEABLE = 0
    WRITE_COMBINING = 1
    WRITE_THROUGH = 4
    WRITE_PROTECTED = 5
    WRITE_BACK = 6


def _memory_type(value: int) -> MemoryType | int:
    return MemoryType(value) if value in MemoryType._value2member_map_ else value


class MtrrDefType(Bits):
    """IA32_MTRR_DEF_TYPE: the type of memory that no MTRR speaks of (SDM Vol. 3, 12.11.2.1)."""

    default_type = field(0, 8, _memory_type)
    fixed_ranges_enabled = bit(10)
    enabled = bit(11)


class MiscEnable(Bits):
    """IA32_MISC_ENABLE (SDM Vol. 4, table 2-2)."""

    fast_strings = bit(0)
    automatic_thermal_control = bit(3)
    performance_monitoring_available = bit(7)
    branch_trace_storage_unavailable = bit(11)
    pebs_unavailable = bit(12)
    enhanced_speedstep = bit(16)
    monitor = bit(18)
    limit_cpuid_leaves = bit(22)
    xtpr_messages_disabled = bit(23)
    execute_disable_disabled = bit(34)
    turbo_disabled = bit(38)


_LAYOUTS: dict[int, type[Bits]] = {Msr.MTRR_DEF_TYPE: MtrrDefType, Msr.MISC_ENABLE: MiscEnable}


def _check_width(entry: MsrEntry, attribute: attrs.Attribute[int], value: int) -> None:
    bits = 32 if attribute.name == "index" else 64
    if not isinstance(value, int) or not 0 <= value < 1 << bits:
        name = msr_name(entry.index) if isinstance(entry.index, int) else f"MSR {entry.index!r}"
        raise PlanError(f"{name}: {attribute.name}={value!r} is not a number of {bits} bits")


@attrs.frozen
class MsrEntry:
    """One model-specific register and its value."""

    index: int = attrs.field(validator=_check_width)
    value: int = attrs.field(default=0, validator=_check_width)

    @property
    def name(self) -> str:
        """The manuals' name of the register."""
        return msr_name(self.index)

    def __str__(self) -> str:
        kind = _LAYOUTS.get(self.index)
        words = f" ({kind(self.value).words()})" if kind and self.value else ""
        return f"{self.name} = {self.value:#x}{words}"


def _entries(entries: Iterable[MsrEntry]) -> tuple[MsrEntry, ...]:
    return tuple(entries)


def _check_once(_: object, __: object, entries: tuple[MsrEntry, ...]) -> None:
    seen: set[int] = set()
    for each in entries:
        if each.index in seen:
            raise PlanError(f"{each.name} is in the list of MSRs twice; keep one of its values")
        seen.add(each.index)


@named("x86_64.Msrs")
@attrs.frozen
class Msrs(VcpuState):
    """Some MSRs of one vCPU, each once, in the order in which they are written. `msrs[Msr.EFER]` is a value.

    A value itself: what changes it returns new ones.
    """

    entries: tuple[MsrEntry, ...] = attrs.field(default=(), converter=_entries, validator=_check_once)

    @classmethod
    def of(cls, values: Mapping[Msr, int] | Mapping[int, int]) -> Msrs:
        """MSRs from their values: `Msrs.of({Msr.TSC: 0})`."""
        return cls(tuple(MsrEntry(int(index), int(value)) for index, value in values.items()))

    def get(self, index: int) -> int | None:
        """The value of that MSR, None when it is not among these."""
        return next((each.value for each in self.entries if each.index == index), None)

    def __getitem__(self, index: int) -> int:
        value = self.get(index)
        if value is None:
            raise Unsupported(f"{msr_name(index)} is not among these {len(self)} MSRs; ask with get or `in` first")
        return value

    def __contains__(self, index: object) -> bool:
        return any(each.index == index for each in self.entries)

    def __iter__(self) -> Iterator[MsrEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def replace(self, values: Mapping[Msr, int] | Mapping[int, int]) -> Msrs:
        """These MSRs with some values changed; those that are new come last."""
        if not values:
            return self
        return Msrs.of({each.index: each.value for each in self.entries} | {int(i): v for i, v in values.items()})

    def without(self, *indices: int) -> Msrs:
        """These MSRs less some."""
        return Msrs(tuple(each for each in self.entries if each.index not in indices))

    def describe(self) -> str:
        """Names and values, a line each."""
        return "\n".join(str(each) for each in self.entries)


@functools.cache
def boot_msrs() -> Msrs:
    """The MSRs as firmware leaves them, for any vCPU: memory is cached, strings are fast, the rest is zero."""
    return Msrs.of(
        {
            Msr.SYSENTER_CS: 0,
            Msr.SYSENTER_ESP: 0,
            Msr.SYSENTER_EIP: 0,
            Msr.STAR: 0,
            Msr.CSTAR: 0,
            Msr.KERNEL_GS_BASE: 0,
            Msr.FMASK: 0,
            Msr.LSTAR: 0,
            Msr.TSC: 0,
            Msr.MISC_ENABLE: MiscEnable(fast_strings=True),
            Msr.MTRR_DEF_TYPE: MtrrDefType(enabled=True, default_type=MemoryType.WRITE_BACK),
        }
    )
