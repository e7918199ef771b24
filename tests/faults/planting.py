"""Faults planted into a good boot plan: one register, table or byte is made wrong, the rest stays as it was."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import attrs

from anyvisor.plan import Blob, BootPlan
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64.gdt import Gdt
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs

LARGE = 1 << 7
Plant = Callable[[BootPlan], BootPlan]


def boot_state(plan: BootPlan, kind: type[VcpuState]) -> dict[str, Any]:
    """The fields of a planned state or change of the first vCPU."""
    state: Any = plan.vcpus[0].state(kind)
    return state.fields if isinstance(state, Change) else attrs.asdict(state, recurse=False)


def with_states(plan: BootPlan, kind: type[VcpuState], **fields: Any) -> BootPlan:
    """The plan with some fields of a state of the first vCPU changed."""
    first, *rest = plan.vcpus
    states = tuple(_changed(each, kind, fields) for each in first.states)
    return attrs.evolve(plan, vcpus=(attrs.evolve(first, states=states), *rest))


def _changed(state: Any, kind: type[VcpuState], fields: dict[str, Any]) -> Any:
    if isinstance(state, Change) and state.kind is kind:
        return Change(kind, **{**state.fields, **fields})
    evolve: Any = attrs.evolve
    return evolve(state, **fields) if isinstance(state, kind) else state


def regs(**fields: Any) -> Plant:
    """Other general-purpose registers."""
    return lambda plan: with_states(plan, Regs, **fields)


def sregs(**fields: Any) -> Plant:
    """Other special registers."""
    return lambda plan: with_states(plan, Sregs, **fields)


def control(name: str, **bits: bool) -> Plant:
    """Other bits of CR0, CR4, EFER."""
    return lambda plan: with_states(plan, Sregs, **{name: boot_state(plan, Sregs)[name].replace(**bits)})


def raw_bits(name: str, bits: int) -> Plant:
    """More bits of a control register, named or not."""
    return lambda plan: with_states(plan, Sregs, **{name: int(boot_state(plan, Sregs)[name]) | bits})


def segment(name: str, **fields: Any) -> Plant:
    """Another hidden part, or selector, of a segment register."""

    def plant(plan: BootPlan) -> BootPlan:
        register: SegmentRegister = boot_state(plan, Sregs)[name]
        return with_states(plan, Sregs, **{name: attrs.evolve(register, **fields)})

    return plant


def poke(address: Callable[[BootPlan], int] | int, data: bytes) -> Plant:
    """Other bytes in whatever piece lies there."""

    def plant(plan: BootPlan) -> BootPlan:
        at = address if isinstance(address, int) else address(plan)
        return attrs.evolve(plan, blobs=tuple(_poked(blob, at, data) for blob in plan.blobs))

    return plant


def _poked(blob: Blob, at: int, data: bytes) -> Blob:
    offset = at - blob.guest_address
    if not 0 <= offset < blob.size_bytes:
        return blob
    content = bytearray(blob.read(0, len(blob.content)).ljust(blob.size_bytes, b"\0"))
    content[offset : offset + len(data)] = data
    return attrs.evolve(blob, content=bytes(content[: max(len(blob.content), offset + len(data))]))


def moved(name: str, address: int) -> Plant:
    """A piece somewhere else, where nobody looks for it."""

    def plant(plan: BootPlan) -> BootPlan:
        blobs = (attrs.evolve(each, guest_address=address) if each.name == name else each for each in plan.blobs)
        return attrs.evolve(plan, blobs=tuple(blobs))

    return plant


def both(*plants: Plant) -> Plant:
    """One after the other."""

    def plant(plan: BootPlan) -> BootPlan:
        for each in plants:
            plan = each(plan)
        return plan

    return plant


def gdt_of(plan: BootPlan) -> Gdt:
    """The GDT of the plan."""
    register = boot_state(plan, Sregs)["gdt"]
    return Gdt.from_bytes(plan.read(register.base, register.limit + 1), long_mode=True)


def piece(name: str, content: bytes) -> Plant:
    """Other content of a piece."""

    def plant(plan: BootPlan) -> BootPlan:
        blobs = (
            attrs.evolve(each, content=content, size_bytes=len(content)) if each.name == name else each
            for each in plan.blobs
        )
        return attrs.evolve(plan, blobs=tuple(blobs))

    return plant


def zero_page(offset: int, data: bytes) -> Plant:
    """Other bytes in the zero page."""
    return poke(lambda plan: plan.blob("zero page").guest_address + offset, data)


def page_entry(linear: int, entry: int) -> Plant:
    """Another entry in place of the one that maps a linear address."""
    return poke(lambda plan: _entry(plan, linear), struct.pack("<Q", entry))


def _entry(plan: BootPlan, linear: int) -> int:
    """Where the entry lies, in a map of big pages of either size."""
    at = place = int(boot_state(plan, Sregs)["cr3"])
    for shift in (39, 30, 21):
        place = at + (linear >> shift) % 512 * 8
        entry = int.from_bytes(plan.read(place, 8), "little")
        if entry & LARGE:
            break
        at = entry & 0xFFFFFFFFFF000
    return place
