"""What is known of a processor: the fields that a plan sets, or those of live states.

What is not known is None, and then a check has nothing to say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64.control import Cr0, Cr4, Efer, Rflags
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.msrs import MsrEntry, Msrs
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs

INTEL, AMD = "intel", "amd"
CODE_AND_DATA = ("cs", "ss", "ds", "es", "fs", "gs")
SYSTEM = ("tr", "ldt")
MOST_ADDRESS_BITS = 52
"""The architecture's limit of physical addresses."""

Read = Callable[[int, int], bytes]
"""`read(guest_address, size_bytes) -> bytes`"""


def _fields(state: VcpuState) -> dict[str, Any]:
    return attrs.asdict(state, recurse=False) if attrs.has(type(state)) else {}  # type: ignore[arg-type]


@attrs.frozen
class Known:
    """What is known of a processor. `rules` is whose rules count, None for all.

    `read` reads the guest's memory, None where that is not at hand; `live` says that the processor has been entered.
    """

    fields: Mapping[type[VcpuState], Mapping[str, Any]]
    rules: str | None = None
    read: Read | None = None
    live: bool = False

    @classmethod
    def of_plan(cls, plan: BootPlan, vcpu: VcpuPlan, rules: str | None = None) -> Known:
        """What a plan sets of a vCPU: of several changes to a field, the last."""
        fields: dict[type[VcpuState], dict[str, Any]] = {}
        for each in vcpu.states:
            kind, new = (each.kind, each.fields) if isinstance(each, Change) else (type(each), _fields(each))
            fields[kind] = fields.get(kind, {}) | new
        return cls(fields, rules, plan.read)

    @classmethod
    def of_states(
        cls, states: Mapping[type[VcpuState], VcpuState], rules: str | None = None, read: Read | None = None
    ) -> Known:
        """What these states say."""
        return cls({kind: _fields(state) for kind, state in states.items()}, rules, read, live=True)

    def enforces(self, rules: str) -> bool:
        """Whether that maker's rules count."""
        return self.rules in (None, rules)

    def value(self, kind: type[VcpuState], name: str) -> Any:
        """A field of a state."""
        return self.fields.get(kind, {}).get(name)

    # -- control registers ---------------------------------------------------------------------------------------------

    @property
    def cr0(self) -> Cr0 | None:
        """CR0."""
        found = self.value(Sregs, "cr0")
        return None if found is None else Cr0(found)

    @property
    def cr4(self) -> Cr4 | None:
        """CR4."""
        found = self.value(Sregs, "cr4")
        return None if found is None else Cr4(found)

    @property
    def efer(self) -> Efer | None:
        """EFER."""
        found = self.value(Sregs, "efer")
        return None if found is None else Efer(found)

    @property
    def rflags(self) -> Rflags | None:
        """RFLAGS."""
        found = self.value(Regs, "rflags")
        return None if found is None else Rflags(found)

    # -- modes ---------------------------------------------------------------------------------------------------------

    @property
    def protected(self) -> bool:
        """Whether it is known to be in protected mode."""
        return bool(self.cr0 and self.cr0.pe)

    @property
    def long_mode(self) -> bool:
        """Whether it is known to be in long mode: EFER.LMA."""
        return bool(self.efer and self.efer.lma)

    @property
    def virtual_8086(self) -> bool:
        """Whether it is known to be in virtual-8086 mode."""
        return bool(self.rflags and self.rflags.vm) and self.protected and not self.long_mode

    # -- segments and MSRs ---------------------------------------------------------------------------------------------

    def segments(self, *names: str) -> list[tuple[str, SegmentRegister]]:
        """Those of these segment registers that are known, by their names in `Sregs`."""
        return [(name, found) for name in names if (found := self.value(Sregs, name)) is not None]

    def segment(self, name: str) -> SegmentRegister | None:
        """A segment register."""
        found: SegmentRegister | None = self.value(Sregs, name)
        return found

    @property
    def msrs(self) -> tuple[MsrEntry, ...]:
        """The MSRs, in their order."""
        return self.value(Msrs, "entries") or ()

    # -- what the CPUID table says -------------------------------------------------------------------------------------

    @functools.cached_property
    def cpuid(self) -> Cpuid | None:
        """The CPUID table, if there is one that says anything."""
        entries = self.value(Cpuid, "entries")
        return Cpuid(entries) if entries else None

    def lacks(self, feature: Feature) -> bool:
        """Whether there is a CPUID table, without that feature."""
        return self.cpuid is not None and not self.cpuid.has(feature)

    @property
    def physical_address_bits(self) -> int:
        """How wide guest-physical addresses are, at most."""
        return self.cpuid.physical_address_bits if self.cpuid else MOST_ADDRESS_BITS

    @property
    def linear_address_bits(self) -> int:
        """How wide linear addresses are: 57 bits on a processor with five-level paging, else 48."""
        five_levels = (self.cr4 and self.cr4.la57) or (self.cpuid and self.cpuid.has(Feature.LA57))
        return 57 if five_levels else 48

    def is_canonical(self, address: int) -> bool:
        """Whether the upper bits of an address repeat the highest that counts (SDM Vol. 1, 3.3.7.1)."""
        upper = address >> self.linear_address_bits - 1
        return upper in (0, (1 << 65 - self.linear_address_bits) - 1)
