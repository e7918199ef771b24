"""The GDT behind the segment registers: there, long enough, and saying what the registers say.

Some facts about hidden parts (SDM Vol. 3, 3.4.3). Software sees a segment register's selector only; base, limit and
rights stay as they were when it was loaded. Who sets registers directly can give it any hidden part, and the guest runs
on with it, until it loads the register anew, or returns from its first interrupt: then the GDT counts. Of a register in
64-bit mode only the kind matters, and the privilege level, and of CS also L and D; FS and GS have their bases in MSRs.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.errors import PlanError
from anyvisor.finding import Finding
from anyvisor.x86_64.boot_checks.check import broken, check
from anyvisor.x86_64.boot_checks.scene import PROCESSOR, Mode, Scene
from anyvisor.x86_64.gdt import SLOT_BYTES, TABLE_INDICATOR
from anyvisor.x86_64.segments import Segment
from anyvisor.x86_64.state import SegmentRegister

LIMIT_MASK = 0xFFFF
"""GDTR's limit has 16 bits."""
LOADED = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
SYSTEM = ("tr", "ldt")
ACCESSED, BUSY = 1, 2
"""Type bits that loading a register sets by itself: of code and data, of a TSS."""
TSS_KINDS = (1, 3, 9, 11)


def selected(scene: Scene) -> Iterator[tuple[str, SegmentRegister]]:
    """The registers that were loaded from the GDT, by name: neither null, nor from an LDT, nor of real mode.

    No event loads TR and LDTR again: a guest that runs already may keep old ones beside a GDT of its own.
    """
    if not scene.starts or scene.mode is Mode.REAL or scene.regs.rflags.vm:
        return
    for name in LOADED:
        if name in SYSTEM and scene.is_under_way:
            continue
        register: SegmentRegister = getattr(scene.sregs, name)
        if register.selector & ~3 & LIMIT_MASK and not register.selector & TABLE_INDICATOR:
            yield name, register


def _wide(scene: Scene, name: str) -> bool:
    """Whether a register's descriptor has 16 bytes."""
    return name in SYSTEM and bool(scene.sregs.efer.lma)


@check("gdt-in-ram", "The GDT that GDTR leads to lies in RAM.", "SDM Vol. 3, 3.5.1", "APM Vol. 2, 4.6")
def gdt_in_ram(scene: Scene) -> Iterator[Finding]:
    """Where there are no segments from it, it need not be anywhere."""
    gdt = scene.sregs.gdt
    at = scene.physical(gdt.base)
    if any(selected(scene)) and at is not None and not scene.in_ram(at, (gdt.limit & LIMIT_MASK) + 1):
        yield broken(
            PROCESSOR,
            "the GDT is outside RAM",
            found=f"GDTR {gdt.base:#x}, limit {gdt.limit:#x}",
            wanted=f"an address in {scene.ram_words}",
            remedy="set GDTR to where anyvisor_gdt's table lies",
            vcpu=0,
        )


@check(
    "gdt-limit",
    "GDTR's limit covers the descriptor of every segment register that is loaded.",
    "SDM Vol. 3, 3.5.1",
    "APM Vol. 2, 4.6",
)
def gdt_limit(scene: Scene) -> Iterator[Finding]:
    """A system descriptor of long mode has 16 bytes, of which the limit must cover all."""
    limit = scene.sregs.gdt.limit & LIMIT_MASK
    beyond = {
        name: (register.selector | 7) + (SLOT_BYTES if _wide(scene, name) else 0)
        for name, register in selected(scene)
        if (register.selector | 7) + (SLOT_BYTES if _wide(scene, name) else 0) > limit
    }
    if beyond:
        names = ", ".join(f"{name.upper()} ({getattr(scene.sregs, name).selector:#x})" for name in beyond)
        yield broken(
            PROCESSOR,
            f"the GDT's limit leaves out what {names} selects: loading it again is a fault, and there is no handler",
            found=f"GDTR limit {limit:#x}",
            wanted=f"at least {max(beyond.values()):#x}",
            remedy="set GDTR's limit to the table's size less one (Gdt.limit_bytes), or correct the selector",
            vcpu=0,
        )


@check(
    "gdt-agrees",
    "Each segment register holds what its descriptor in the GDT says.",
    "SDM Vol. 3, 3.4.3 and 3.4.5",
    "APM Vol. 2, 4.5 and 4.7",
)
def gdt_agrees(scene: Scene) -> Iterator[Finding]:
    """As far as it matters in the mode that the processor is in, and not what loading sets by itself."""
    gdt = scene.sregs.gdt
    for name, register in selected(scene):
        at = scene.physical(scene.sregs.gdt.base + (register.selector & ~7 & LIMIT_MASK))
        last = (register.selector | 7) + (SLOT_BYTES if _wide(scene, name) else 0)
        if at is None or last > gdt.limit & LIMIT_MASK or not scene.in_ram(at, 2 * SLOT_BYTES):
            continue
        differences = _differences(scene, name, register, scene.plan.read(at, 2 * SLOT_BYTES))
        if differences:
            yield broken(
                PROCESSOR,
                f"{name.upper()} is not what the GDT has at selector {register.selector:#x}:"
                f" {' and '.join(each for each, *_ in differences)} would change when it is loaded again",
                found=", ".join(f"{field} {there}" for field, there, _ in differences),
                wanted=", ".join(f"{field} {wanted}" for field, _, wanted in differences),
                remedy="make registers from the table (Gdt.register), or give the table that segment",
                vcpu=0,
            )


def _differences(scene: Scene, name: str, register: SegmentRegister, data: bytes) -> list[tuple[str, str, str]]:
    """Field, value in the register, value in the descriptor."""
    low, upper = (int.from_bytes(data[at : at + SLOT_BYTES], "little") for at in (0, SLOT_BYTES))
    try:
        entry = Segment.from_descriptor(low, upper if _wide(scene, name) else None)
    except PlanError as error:
        return [("descriptor", _kind(register), str(error))]
    if register.unusable or not (register.present and entry.present):
        usable = register.present and not register.unusable
        return [] if usable == entry.present else [("present", str(usable), str(entry.present))]
    if _kind(register) != _kind(entry):
        return [("kind", _kind(register), _kind(entry))]
    found = [(field, getattr(register, field), getattr(entry, field)) for field in ("dpl", *_bits(scene, name))]
    if name in SYSTEM:
        found += [("base", register.base, entry.base)]
    elif scene.mode is not Mode.LONG:
        found += [("base", register.base, entry.base), ("limit", register.limit, entry.limit_bytes)]
    return [(field, f"{int(there):#x}", f"{int(wanted):#x}") for field, there, wanted in found if there != wanted]


def _bits(scene: Scene, name: str) -> tuple[str, ...]:
    """The size bits that matter."""
    if name == "cs":
        return ("l", "db") if scene.sregs.efer.lma else ("db",)
    return ("db",) if name == "ss" and scene.mode is not Mode.LONG else ()


def _kind(segment: SegmentRegister | Segment) -> str:
    """What kind of segment it is, without what loading sets by itself."""
    system = not segment.s
    own = BUSY if system and segment.type in TSS_KINDS else 0 if system else ACCESSED
    return f"{'system' if system else 'code' if segment.type & 8 else 'data'} type {segment.type & ~own:#x}"


CHECKS = (gdt_in_ram, gdt_limit, gdt_agrees)
