"""What the evidence shows of an x86_64 guest: its registers, the mode it is in, memory as its processor sees it."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from anyvisor.diagnosis.evidence import Evidence
from anyvisor.errors import AnyvisorError
from anyvisor.exits import Halted
from anyvisor.memory import PAGE_BYTES
from anyvisor.plan import Blob
from anyvisor.states import VcpuState
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL
from anyvisor.x86_64.page_walk import Walk, walk
from anyvisor.x86_64.paging_modes import LOW_32
from anyvisor.x86_64.read_back import planned
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs

if TYPE_CHECKING:
    from anyvisor.x86_64.diagnosis.ahead import End
    from anyvisor.x86_64.diagnosis.changes import Entered


@attrs.frozen(slots=False)
class Scene:
    """A guest as its evidence shows it. `regs` and `sregs` are None where they could not be read.

    They are the registers nearest to what happened that there are: see `Evidence.states`.
    """

    evidence: Evidence

    @cached_property
    def regs(self) -> Regs | None:
        """The general-purpose registers."""
        return self.evidence.state(Regs)

    @cached_property
    def sregs(self) -> Sregs | None:
        """The segment and control registers."""
        return self.evidence.state(Sregs)

    @cached_property
    def planned_regs(self) -> dict[str, Any]:
        """What the plan gave this vCPU of `Regs`, by field."""
        return planned(self.evidence.planned, Regs) if self.evidence.planned else {}

    @cached_property
    def planned_sregs(self) -> dict[str, Any]:
        """What the plan gave this vCPU of `Sregs`, by field."""
        return planned(self.evidence.planned, Sregs) if self.evidence.planned else {}

    @cached_property
    def kernel_log(self) -> list[str]:
        """What a Linux has said, from its memory; none without symbols."""
        from anyvisor.x86_64.diagnosis.kernel_log import kernel_log  # noqa: PLC0415 - it needs this module

        return kernel_log(self)

    @cached_property
    def ahead(self) -> End | None:
        """Where the guest went from a state that is of before its death; None where it is not."""
        from anyvisor.x86_64.diagnosis.ahead import look_ahead  # noqa: PLC0415 - it needs this module

        return look_ahead(self) if self.evidence.is_lost else None

    @cached_property
    def entered(self) -> Entered | None:
        """The piece of the plan that the vCPU is entered in; None where there is none."""
        from anyvisor.x86_64.diagnosis.changes import Entered  # noqa: PLC0415 - it needs this module

        return Entered.of(self)

    @property
    def has_died(self) -> bool:
        """Whether there is a death to find a cause of."""
        return self.evidence.exit is not None and not isinstance(self.evidence.exit, Halted)

    @property
    def is_over(self) -> bool:
        """Whether it has died, or was watched since it may go nowhere; else it may be about to go on."""
        return self.has_died or bool(self.evidence.rips)

    def changed(self, *states: VcpuState) -> Scene:
        """The same guest with other states."""
        now = {**self.evidence.states, **{type(each): each for each in states}}
        return Scene(attrs.evolve(self.evidence, exit=None, now=now))

    def as_loaded(self, start: int, size_bytes: int) -> Scene:
        """The same guest with these bytes of guest-physical memory as the plan has them, so many from `start` on."""
        planned = self.evidence.plan.read(start, size_bytes)

        def read(address: int, size: int) -> bytes:
            found, first = bytearray(self.evidence.read(address, size)), max(address, start)
            piece = planned[first - start : max(address + size - start, 0)]
            found[first - address : first - address + len(piece)] = piece
            return bytes(found)

        return Scene(attrs.evolve(self.evidence, read=read))

    @property
    def mode(self) -> str:
        """The processor's mode: real, protected or long."""
        if self.sregs is None or not self.sregs.cr0.pe:
            return REAL
        return LONG if self.sregs.efer.lma else PROTECTED

    @property
    def bits(self) -> int:
        """How wide code is: 16, 32 or 64."""
        cs = self.sregs.cs if self.sregs else SegmentRegister()
        if self.mode == LONG and cs.l:
            return 64
        return 32 if cs.db and self.mode != REAL else 16

    @cached_property
    def rip(self) -> int | None:
        """The linear address of the instruction pointer; CS's base counts outside 64-bit mode."""
        return None if self.regs is None else self.code_address(self.regs.rip)

    @cached_property
    def rsp(self) -> int | None:
        """The linear address of the stack pointer."""
        return None if self.regs is None else self.linear(self.regs.rsp, self.sregs.ss if self.sregs else None)

    @cached_property
    def seen_at(self) -> tuple[int, ...]:
        """The linear addresses at which a guest was seen that was watched."""
        base = 0 if self.rip is None or self.regs is None else self.rip - self.regs.rip
        return tuple(base + each for each in self.evidence.rips)

    @cached_property
    def entry(self) -> int | None:
        """The linear address of the first instruction that the plan gave this vCPU."""
        if "rip" not in self.planned_regs:
            return None
        return self.linear(int(self.planned_regs["rip"]), self.planned_sregs.get("cs"))

    @property
    def entry_bits(self) -> int:
        """How wide the code is at the first instruction."""
        return self.changed(attrs.evolve(self.sregs, **self.planned_sregs)).bits if self.sregs else self.bits

    def linear(self, offset: int, segment: SegmentRegister | None) -> int:
        """An offset in a segment as a linear address."""
        if segment is None or self.bits == 64:
            return offset
        return segment.base + offset & LOW_32

    def code_address(self, offset: int) -> int:
        """What RIP holds, as a linear address."""
        return self.linear(offset, self.sregs.cs if self.sregs else None)

    def walk(self, address: int) -> Walk:
        """Where a linear address leads."""
        if self.sregs is None:
            return Walk(address, None, problem="CR3 could not be read")
        return walk(self.evidence.read, self.sregs, address)

    def read(self, address: int, size_bytes: int) -> bytes:
        """What is at a linear address: as many of the bytes, from its first on, as there are in mapped RAM."""
        found = b""
        while len(found) < size_bytes:
            at = address + len(found)
            place = self.walk(at).guest_address
            wanted = min(size_bytes - len(found), PAGE_BYTES - at % PAGE_BYTES)
            if place is None or not self.is_ram(place, wanted):
                break
            found += self.evidence.read(place, wanted)
        return found

    def is_ram(self, guest_address: int, size_bytes: int = 1) -> bool:
        """Whether there is RAM at a guest-physical address."""
        return any(each.contains(guest_address, size_bytes) for each in self.evidence.plan.ram)

    def number(self, address: int, size_bytes: int = 8) -> int | None:
        """The little-endian number at a linear address; None where it cannot be read."""
        try:
            found = self.read(address, size_bytes)
        except AnyvisorError:
            return None
        return int.from_bytes(found, "little") if len(found) == size_bytes else None

    def name(self, address: int) -> str:
        """The symbol at a linear address, as ` (start_kernel+0x12)`; empty where there is none."""
        evidence = self.evidence
        if evidence.symbols is None:
            return ""
        from anyvisor.x86_64.kaslr import kernel_name  # noqa: PLC0415 - it needs this package

        found = kernel_name(evidence.symbols, address, evidence.states, evidence.read)
        return f" ({found})" if found else ""

    def function_start(self, address: int) -> int | None:
        """Where the function that an address is in begins, as far as symbols tell, or the piece that it lies in."""
        where = self.where(address)
        offset = re.search(r"\+(0x[0-9a-f]+)", where)
        return address - (int(offset[1], 16) if offset else 0) if where else None

    def place(self, address: int) -> str:
        """A linear address with its symbol, or with the piece of the plan that it lies in: `0x1000 (GDT+0x8)`."""
        return f"{address:#x}{self.where(address)}"

    @property
    def here(self) -> str:
        """Where RIP is, in words, in real mode also as people write it: `07c0:0005, 0x7c05 (raw image+0x5)`."""
        if self.rip is None or self.regs is None:
            return "an address that is not known"
        return f"{self.far_address}{', ' * bool(self.far_address)}{self.place(self.rip)}"

    @property
    def far_address(self) -> str:
        """CS and IP in real mode; empty in others."""
        if self.mode != REAL or self.sregs is None or self.regs is None:
            return ""
        return f"{self.sregs.cs.selector:04x}:{self.regs.rip:04x}"

    def where(self, address: int) -> str:
        """The symbol at a linear address, or the piece of the plan that it lies in: ` (GDT+0x8)`; empty for none."""
        if name := self.name(address):
            return name
        target = self.walk(address).guest_address
        blob = None if target is None else self.blob(target)
        if blob is None or target is None:
            return ""
        offset = target - blob.guest_address
        return f" ({blob.name}+{offset:#x})" if offset else f" ({blob.name})"

    def blob(self, guest_address: int) -> Blob | None:
        """The piece of the plan that a guest-physical address lies in."""
        return next((each for each in self.evidence.plan.blobs if each.region.contains(guest_address)), None)

    def guest_memory(self, guest_address: int, size_bytes: int) -> bytes:
        """RAM at a guest-physical address; empty where there is none."""
        try:
            return self.evidence.read(guest_address, size_bytes)
        except AnyvisorError:
            return b""
