"""Causes in real mode, where an event without a handler does not stop a guest: it goes on at address 0."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.diagnosis.report import Cause
from anyvisor.x86_64.diagnosis.exceptions import BP, an_exception
from anyvisor.x86_64.diagnosis.fault import NAMES, REMEDIES, Fault
from anyvisor.x86_64.diagnosis.faults import fault_at
from anyvisor.x86_64.diagnosis.interrupted import Interrupted, interrupted
from anyvisor.x86_64.diagnosis.scene import Scene

INT, INT_BYTES, INT3 = 0xCD, 2, 0xCC
VECTOR_BYTES = 4
BIOS = {
    0x10: "video", 0x11: "equipment", 0x12: "memory size", 0x13: "disks", 0x14: "serial ports", 0x15: "system",
    0x16: "keyboard", 0x17: "printers", 0x18: "no bootable disk", 0x19: "boot", 0x1A: "clock and PCI",
}  # fmt: skip
"""What a BIOS offers by which INT."""
REACH_BYTES = 16
"""How far from the stack pointer an INT is looked for; the registers of an exception must be those of now."""
MANUAL = "SDM Vol. 3, 21.1.4"
SEEN = 96
OTHERWISE = "put a handler's address into that vector, or keep the event from happening"
VIDEO = 0x10
REMEDY_OF_VIDEO = "print on the serial port instead (OUT to 0x3F8): nobody has filled the vectors"


def unhandled_event(scene: Scene) -> Iterator[Cause]:
    """An INT or an exception went through a vector that is empty, and the guest went on at address 0."""
    if scene.rip is None or not scene.is_over:
        return
    for moved_bytes in sorted(range(-REACH_BYTES, REACH_BYTES + 1, 2), key=abs):
        was = interrupted(scene, moved_bytes)
        blob = scene.blob(was.rip - 1) if was else None
        if was is None or blob is None or blob == scene.blob(scene.rip):  # in its own code, and the stack is an old one
            continue
        if found := _software_interrupt(scene, was) or (None if moved_bytes else _exception(scene, was)):
            yield found
            return


def _software_interrupt(scene: Scene, was: Interrupted) -> Cause | None:
    """The INT before the place that was pushed."""
    vector = was.scene.number(was.rip - 1, 1)
    if was.scene.number(was.rip - INT_BYTES, 1) != INT or vector is None or not _is_empty(scene, vector):
        return None
    return _no_bios(was, vector) if vector in BIOS else _no_handler(was, vector)


def _exception(scene: Scene, was: Interrupted) -> Cause | None:
    """What the instruction at that place raises, or the one before it."""
    fault = fault_at(was.scene, was.rip)
    if fault is None and was.scene.number(was.rip - 1, 1) == INT3:
        fault = Fault(BP, was.rip - 1, "the instruction is INT3, a breakpoint")
    return _unhandled(was, fault) if fault and _is_empty(scene, fault.vector) else None


def _is_empty(scene: Scene, vector: int) -> bool:
    """Whether a vector was 0000:0000: it is, but for the byte that the zeros that were executed add AL to."""
    assert scene.regs and scene.sregs
    start = scene.sregs.idt.base + vector * VECTOR_BYTES
    written = scene.linear(scene.regs.rbx + scene.regs.rsi & 0xFFFF, scene.sregs.ds)
    return not any(byte for at, byte in enumerate(scene.read(start, VECTOR_BYTES), start) if at != written)


def _went_on(vector: int) -> str:
    return f"vector {vector:#x} of the table at address 0 is 0000:0000, so the processor went on there, among zeros"


def _no_bios(was: Interrupted, vector: int) -> Cause:
    return Cause(
        name="no-bios",
        summary=f"the guest called the BIOS, INT {vector:#x} ({BIOS[vector]}), and there is none",
        because=(f"the call is at {was.place(INT_BYTES)}", _went_on(vector)),
        remedy=REMEDY_OF_VIDEO if vector == VIDEO else "use the devices themselves: nobody has filled the vectors",
        section=MANUAL,
        weight=SEEN,
    )


def _no_handler(was: Interrupted, vector: int) -> Cause:
    return Cause(
        name="no-handler",
        summary=f"the guest executed INT {vector:#x} at {was.place(INT_BYTES)}, and has no handler for it",
        because=(_went_on(vector),),
        remedy=f"put a handler's address into vector {vector:#x} before",
        section=MANUAL,
        weight=SEEN,
    )


def _unhandled(was: Interrupted, fault: Fault) -> Cause:
    name = NAMES.get(fault.vector, f"exception-{fault.vector}")
    what = f"{an_exception(fault.vector)} at {was.place(was.rip - fault.rip)}"
    return Cause(
        name=name,
        summary=f"the guest raised {what}, and has no handler for it",
        because=(fault.why, _went_on(fault.vector), "where it was is what is on the stack"),
        remedy=REMEDIES.get(name, OTHERWISE).replace("in the report", "there"),
        section=MANUAL,
        weight=SEEN,
    )


CAUSES = (unhandled_event,)
