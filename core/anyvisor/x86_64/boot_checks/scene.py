"""What a boot check looks at: the state of the first vCPU at its first instruction, and what the registers lead to.

Some facts about what a plan leaves open. A register that it does not set is what RESET makes it. A plan that sets no
registers at all says nothing of how its guest starts, so nothing can be checked there.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import TypeVar, cast

import attrs

from anyvisor.memory import Region
from anyvisor.plan import Blob, BootPlan
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64.acpi.read import FoundTables
from anyvisor.x86_64.acpi.table import SystemTable
from anyvisor.x86_64.boot_checks.page_map import PageMap
from anyvisor.x86_64.bootparams import BootParams
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.e820 import E820Entry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.firmware_tables import READ_ERRORS, Firmware, FoundMpTable, FoundSmbios
from anyvisor.x86_64.handed_over import HandedOver, find_handed_over
from anyvisor.x86_64.paging_modes import MOST_ADDRESS_BITS, paging_of
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.setup_header import SetupHeader
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs

S = TypeVar("S", bound=VcpuState)
T = TypeVar("T")
A = TypeVar("A", bound=SystemTable)
LINUX, PVH, MULTIBOOT = "Linux", "PVH", "multiboot"
"""The protocols of `HandedOver`."""
PROCESSOR = "vCPU 0"
USER_LEVEL = 3
"""The privilege level of programs."""


class Mode(enum.Enum):
    """The mode that control registers, EFER and CS put a processor in (SDM Vol. 3, 2.2)."""

    REAL = "real mode"
    PROTECTED = "32-bit protected mode without paging"
    PAGED = "protected mode with paging"
    COMPATIBILITY = "compatibility mode (long mode, and CS is no 64-bit segment)"
    LONG = "64-bit mode"


class Scene:
    """A plan as its kernel will find it. Everything is read when it is first asked for.

    What cannot be read is None, and the reason stands in `unreadable`, by what it is.
    """

    def __init__(self, plan: BootPlan):
        self.plan = plan
        self.firmware = Firmware(plan)
        self.unreadable: dict[str, Exception] = {}

    # -- the processor -------------------------------------------------------------------------------------------

    @property
    def starts(self) -> bool:
        """Whether the plan says how its guest starts."""
        first = self.plan.vcpus[0] if self.plan.vcpus else None
        return first is not None and (first.state(Regs) or first.state(Sregs)) is not None

    @functools.cached_property
    def regs(self) -> Regs:
        """The first vCPU's general-purpose registers."""
        return self._state(Regs)

    @functools.cached_property
    def sregs(self) -> Sregs:
        """The first vCPU's segments and control registers."""
        return self._state(Sregs)

    @functools.cached_property
    def cpuid(self) -> Cpuid | None:
        """The processor that the first vCPU is shown."""
        found = self.plan.vcpus[0].state(Cpuid) if self.plan.vcpus else None
        return found if isinstance(found, Cpuid) else None

    @functools.cached_property
    def mode(self) -> Mode:
        """The mode that the first instruction runs in."""
        sregs = self.sregs
        if not sregs.cr0.pe:
            return Mode.REAL
        if sregs.cr0.pg and sregs.efer.lma:
            return Mode.LONG if sregs.cs.l else Mode.COMPATIBILITY
        return Mode.PAGED if sregs.cr0.pg else Mode.PROTECTED

    def linear(self, segment: SegmentRegister, offset: int) -> int:
        """The linear address of an offset; in 64-bit mode segments begin at 0 (SDM Vol. 3, 3.4.4)."""
        if self.mode is Mode.LONG:
            return offset % (1 << 64)
        return (segment.base + offset) % (1 << 32)

    @property
    def entry(self) -> int:
        """The linear address of the first instruction."""
        return self.linear(self.sregs.cs, self.regs.rip)

    @functools.cached_property
    def pages(self) -> PageMap | None:
        """The page tables of long mode; None without paging, and for the forms of paging before it."""
        paging, cpuid = paging_of(self.sregs), self.cpuid
        if paging is None or self.mode not in (Mode.LONG, Mode.COMPATIBILITY):
            return None
        if cpuid:
            bits, levels = min(cpuid.physical_address_bits, MOST_ADDRESS_BITS), 3 if cpuid.has(Feature.PDPE1GB) else 2
            paging = attrs.evolve(paging, physical_bits=bits, page_levels=levels)
        return PageMap(self.plan, self.sregs.cr3, paging)

    def physical(self, linear: int) -> int | None:
        """Where in memory a linear address lies; None if it is not mapped, or by tables that are not read here."""
        if self.pages:
            return self.pages.walk(linear).guest_address
        return None if self.mode is Mode.PAGED else linear

    @property
    def entry_address(self) -> int | None:
        """Where in memory the first instruction lies."""
        return self.physical(self.entry) if self.starts else None

    def _state(self, kind: type[S]) -> S:
        reset = next(each for each in reset_states() if isinstance(each, kind))
        planned = self.plan.vcpus[0].state(kind) if self.plan.vcpus else None
        if isinstance(planned, Change):
            return cast("S", planned.apply(reset))
        return planned if isinstance(planned, kind) else reset

    # -- memory --------------------------------------------------------------------------------------------------

    def in_ram(self, address: int, size_bytes: int = 1) -> bool:
        """Whether all of it is RAM."""
        return any(ram.contains(address, size_bytes) for ram in self.plan.ram)

    def loaded(self, address: int) -> Blob | None:
        """The piece that has content at an address, and not only room for some."""
        return next((each for each in self.plan.blobs if 0 <= address - each.guest_address < len(each.content)), None)

    @property
    def ram_words(self) -> str:
        """Where there is RAM."""
        return ", ".join(str(each) for each in self.plan.ram) or "no RAM"

    # -- what the kernel is told ---------------------------------------------------------------------------------

    @functools.cached_property
    def told(self) -> HandedOver | None:
        """What the registers lead the kernel to; nothing any more once it runs in page tables of its own."""
        if not self.starts or self.is_under_way:
            return None
        return self._read("handover", lambda: find_handed_over(self.plan))

    @property
    def is_under_way(self) -> bool:
        """Whether the guest runs already: a program, or a kernel in the upper half, where no protocol enters one."""
        if self.sregs.cs.dpl == self.sregs.ss.dpl == USER_LEVEL:
            return True
        return self.mode is Mode.LONG and bool(self.entry >> 63) and self.physical(self.entry) is not None

    @property
    def misled(self) -> bool:
        """Whether there is something that the registers lead to, and it cannot be read."""
        return self.told is None and "handover" in self.unreadable

    @property
    def zero_page(self) -> BootParams | None:
        """The zero page, of a kernel that is told by one."""
        told = self.told
        return told.structure if told and isinstance(told.structure, BootParams) else None

    @property
    def setup_header(self) -> SetupHeader | None:
        """The setup header in the zero page, where the kernel brought one: that of a bare ELF file is made up."""
        page = self.zero_page
        return page.header if page and page.header.setup_sects else None

    @property
    def memory_map(self) -> tuple[E820Entry, ...]:
        """The memory map that the kernel is told."""
        return self.told.memory_map if self.told else ()

    @property
    def words(self) -> list[str]:
        """The words of the command line."""
        return self.told.command_line.split() if self.told else []

    @property
    def initrds(self) -> tuple[Region, ...]:
        """What the kernel is told of an initrd, or of modules."""
        return self.told.initrds if self.told else ()

    # -- what firmware leaves ------------------------------------------------------------------------------------

    @functools.cached_property
    def acpi(self) -> FoundTables | None:
        """The ACPI tables."""
        return None if self.misled else self._read("ACPI", lambda: self.firmware.acpi)

    def acpi_table(self, kind: type[A]) -> A | None:
        """The first ACPI table of a class."""
        return self.firmware.acpi_table(kind) if self.acpi else None

    @functools.cached_property
    def mptable(self) -> FoundMpTable | None:
        """The MP table."""
        return self._read("MP", lambda: self.firmware.mptable)

    @functools.cached_property
    def smbios(self) -> FoundSmbios | None:
        """The SMBIOS tables."""
        return self._read("SMBIOS", lambda: self.firmware.smbios)

    def _read(self, what: str, reader: Callable[[], T]) -> T | None:
        try:
            return reader()
        except READ_ERRORS as error:
            self.unreadable[what] = error
            return None
