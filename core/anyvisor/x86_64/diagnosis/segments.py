"""The segment registers with their hidden parts, and what the guest's own tables say of each selector.

Some facts about hidden parts (SDM Vol. 3, 3.4.3). The processor reads a descriptor when a selector is loaded and goes
by its own copy from then on. So a register may hold what no descriptor says: a boot plan writes the hidden part
straight away, and a table may be moved or overwritten. It works until the next load of that selector.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from anyvisor.errors import PlanError
from anyvisor.section import Section
from anyvisor.x86_64.descriptors import CodeType, DataType, Descriptor, SystemType, system_words
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.gdt import SLOT_BYTES, TABLE_INDICATOR
from anyvisor.x86_64.modes import LONG, REAL
from anyvisor.x86_64.segments import Segment
from anyvisor.x86_64.state import DescriptorTable, SegmentRegister, Sregs

NAMES = ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")
TITLES = ("", "sel", "base", "limit", "dpl", "holds")
EXECUTABLE = CodeType.executable.mask
COMPARED = ("type", "s", "dpl", "present", "l", "db", "g")
NULL = "is null"
"""What is wrong with a selector of 0; some registers take it."""
ACCESSED, BUSY = 1, 2
"""Type bits that loading sets: they may differ from the descriptor's."""


def segments(scene: Scene) -> Iterator[Section]:
    """The segment registers, a line each, and behind each what the GDT says where that is something else."""
    if scene.sregs is None:
        return
    sregs = scene.sregs
    alike: dict[SegmentRegister, list[str]] = {}
    for name in NAMES:
        alike.setdefault(getattr(sregs, name), []).append(name)
    rows = [TITLES, *(_cells(scene, names, register) for register, names in alike.items())]
    notes = ["", *(_note(scene, names[0], register) for register, names in alike.items())]
    lines = [line for row, note in zip(_columns(rows), notes, strict=True) for line in (row, note) if line]
    lines += [f"{name}  base {each.base:#x}, limit {each.limit:#x}" for name, each in _tables(sregs)]
    yield Section("Segments", "\n".join(lines), sregs)


def _tables(sregs: Sregs) -> tuple[tuple[str, DescriptorTable], ...]:
    return ("gdtr", sregs.gdt), ("idtr", sregs.idt)


def _cells(scene: Scene, names: list[str], register: SegmentRegister) -> tuple[str, ...]:
    numbers = f"{register.selector:#x}", f"{register.base:#x}", f"{register.limit:#x}", str(register.dpl)
    return " ".join(names), *numbers, words(register, wide=scene.mode == LONG)


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    """The rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _note(scene: Scene, name: str, register: SegmentRegister) -> str:
    note = gdt_note(scene, name, register) if scene.mode != REAL else ""
    return f"    {note}" if note else ""


def words(register: SegmentRegister, *, wide: bool = True) -> str:
    """What a segment register holds, in words, also where no descriptor could say it."""
    if register.unusable:
        return "unusable"
    absent = "" if register.present else " not present"
    if not register.s:
        return system_words(register.type, wide=wide) + absent
    bits = "L and D!" if register.l and register.db else 64 if register.l else 32 if register.db else 16
    is_code = register.type & EXECUTABLE
    name, kind = ("code", CodeType(register.type & ~EXECUTABLE)) if is_code else ("data", DataType(register.type))
    return f"{name}{bits} {kind.words()}".rstrip() + absent


def gdt_note(scene: Scene, name: str, register: SegmentRegister) -> str:
    """What the GDT says of the register's selector, where that is not what the register holds."""
    if register.unusable and register.selector & ~3 == 0:
        return ""
    problem = selector_problem(scene, register.selector)
    if problem:
        return "" if problem == NULL and name != "cs" else f"its selector {problem}"
    descriptor = _descriptor(scene, register.selector)
    if descriptor is None:
        return ""
    try:
        segment = Segment.from_descriptor(descriptor)
    except PlanError as error:
        return f"its descriptor in memory is no segment: {error}"
    loaded = ACCESSED if register.s else BUSY
    differs = [
        each
        for each in COMPARED
        if getattr(segment, each) | loaded * (each == "type") != getattr(register, each) | loaded * (each == "type")
    ]
    level = f", level {segment.dpl}" * ("dpl" in differs)
    return f"its descriptor in memory is another one: {segment.words}{level}" if differs else ""


def selector_problem(scene: Scene, selector: int) -> str:
    """Why loading a selector would fault, as a part of a sentence; empty when its descriptor is present."""
    if selector & ~3 == 0:
        return NULL
    if scene.sregs is None or selector & TABLE_INDICATOR:
        return ""
    offset, limit = selector & ~7, scene.sregs.gdt.limit
    if offset + SLOT_BYTES - 1 > limit:
        return f"{selector:#x} lies beyond the GDT's limit of {limit:#x}"
    descriptor = _descriptor(scene, selector)
    if descriptor is None:
        return f"{selector:#x} leads to {scene.sregs.gdt.base + offset:#x}, and no memory is mapped there"
    if not descriptor >> 47 & 1:
        return f"{selector:#x} selects a descriptor that is not present ({descriptor:#018x})"
    return ""


def kind_problem(scene: Scene, name: str, selector: int) -> str:
    """Why a register does not take the segment that a selector picks; empty when it does, and for CS and LDTR.

    A jump may go through a gate, so what CS takes depends on the instruction.
    """
    raw = _descriptor(scene, selector)
    if raw is None or name in ("CS", "LDTR"):
        return ""
    found = Descriptor(raw)
    code = CodeType(found.type)
    is_data, is_code = found.s and not code.executable, found.s and bool(code.executable)
    fits = {
        "TR": not found.s and found.type in (SystemType.TSS, SystemType.TSS16),
        "SS": is_data and DataType(found.type).writable,
    }.get(name, is_data or (is_code and code.readable))
    wanted = {"TR": "a TSS that is not busy", "SS": "data that can be written"}.get(name, "data or readable code")
    what = f"{'code' if is_code else 'data' if is_data else system_words(found.type, wide=scene.mode == LONG)}"
    return "" if fits else f"{selector:#x} selects {what} ({raw:#018x}), and {name} takes {wanted}"


def selector_base(scene: Scene, selector: int) -> int | None:
    """The base of the segment that a selector picks; None where no descriptor can be read."""
    if scene.mode == REAL:
        return selector << 4
    raw = _descriptor(scene, selector) if selector & ~3 else 0
    return None if raw is None else Descriptor(raw).base_low | Descriptor(raw).base_high << 24


def _descriptor(scene: Scene, selector: int) -> int | None:
    """The lower eight bytes of the descriptor that the GDT has for a selector."""
    if scene.sregs is None or selector & TABLE_INDICATOR:
        return None
    found = scene.read(scene.sregs.gdt.base + (selector & ~7), SLOT_BYTES)
    return struct.unpack("<Q", found)[0] if len(found) == SLOT_BYTES else None
