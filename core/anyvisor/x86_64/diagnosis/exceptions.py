"""The exceptions of x86, and why one cannot be delivered.

Some facts about delivery (SDM Vol. 3, 6.10 to 6.14). The processor reads the vector's gate from the IDT (in real mode a
far pointer), loads the handler's code segment and pushes a frame. A gate beyond IDTR's limit, one that is not present,
or a stack that is not mapped is an exception of its own, and becomes a double fault; when that cannot be delivered
either, the processor shuts down: a triple fault. An IDT with nothing in it makes one of any exception.
"""

from __future__ import annotations

import attrs

from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.diagnosis.segments import selector_problem
from anyvisor.x86_64.exceptions import exception_kind
from anyvisor.x86_64.modes import LONG, REAL

DE, DB, BP, UD, NM, DF, NP, SS, GP, PF = 0, 1, 3, 6, 7, 8, 11, 12, 13, 14
WITHOUT_NOUN = (NM, 10, NP, GP)
"""What the manual names after what is wrong, so that it takes a noun in a sentence."""
GATE_BYTES = {LONG: 16, REAL: 4}
INTERRUPT_GATE, TRAP_GATE, TASK_GATE = 0xE, 0xF, 0x5
GATES_16 = (0x6, 0x7)


def exception_name(vector: int) -> str:
    """What the manual calls it: `page fault (#PF)`."""
    kind = exception_kind(vector)
    name = f"{kind.name} exception" if vector in WITHOUT_NOUN else kind.name
    return f"{name} ({kind.mnemonic})" if kind.mnemonic else name


def an_exception(vector: int) -> str:
    """Its name with an article: `a page fault (#PF)`."""
    name = exception_name(vector)
    return f"an {name}" if name[0] in "aio" else f"a {name}"


@attrs.frozen
class Gate:
    """A gate of the IDT as the guest has it: where its handler is, or why it leads to none."""

    vector: int
    handler: int | None = None
    problem: str = ""


def gate(scene: Scene, vector: int) -> Gate:
    """The handler of a vector; the IDTR of `scene` counts."""
    if scene.sregs is None:
        return Gate(vector, problem="IDTR could not be read")
    idt, size = scene.sregs.idt, GATE_BYTES.get(scene.mode, 8)
    if (vector + 1) * size - 1 > idt.limit:
        count = (idt.limit + 1) // size
        words = f"{count} whole gates" if count > 1 else "one whole gate" if count else "no whole gate"
        return Gate(vector, problem=f"the IDT's limit is {idt.limit:#x}: it has {words}")
    address = idt.base + vector * size
    data = scene.read(address, size)
    if len(data) < size:
        return Gate(vector, problem=f"its gate would be at {address:#x}, and no memory is mapped there")
    if scene.mode == REAL:
        handler = int.from_bytes(data[2:4], "little") * 16 + int.from_bytes(data[:2], "little")
        return Gate(vector, handler, "" if any(data) else "its vector is 0000:0000")
    return _gate(scene, vector, data)


def _gate(scene: Scene, vector: int, data: bytes) -> Gate:
    kind, present = data[5] & 0xF, data[5] & 0x80
    selector = int.from_bytes(data[2:4], "little")
    handler = int.from_bytes(data[:2] + data[6:8] + data[8:12], "little")
    if not present:
        return Gate(vector, problem=f"its gate is {'empty' if not any(data) else 'not present'} ({data.hex()})")
    allowed = (INTERRUPT_GATE, TRAP_GATE) if scene.mode == LONG else (INTERRUPT_GATE, TRAP_GATE, TASK_GATE, *GATES_16)
    if kind not in allowed or data[5] & 0x10:
        return Gate(vector, problem=f"its gate has type {data[5] & 0x1F:#x}, which is no interrupt or trap gate")
    if kind == TASK_GATE:
        return Gate(vector)
    if problem := selector_problem(scene, selector):
        return Gate(vector, handler, f"the selector of its gate {problem}")
    if scene.walk(handler).guest_address is None:
        return Gate(vector, handler, f"its handler {handler:#x} is not mapped")
    return Gate(vector, handler)


def is_own_idt(scene: Scene) -> bool:
    """Whether the guest has loaded an IDT of its own; the one that it is started with is empty on purpose."""
    given = scene.planned_sregs.get("idt")
    if scene.sregs is None:
        return False
    return scene.sregs.idt != given and bool(scene.sregs.idt.base or scene.sregs.idt.limit not in (0, 0xFFFF, 0x3FF))
