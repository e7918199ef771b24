"""Causes that exits show: what a hypervisor could not do, and what the guest asked for."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.diagnosis.report import Cause
from anyvisor.exits import InternalError, MemoryFault, SystemEvent, UnknownExit
from anyvisor.x86_64.diagnosis.exits import device_at
from anyvisor.x86_64.diagnosis.faults import address_of, fault_at
from anyvisor.x86_64.diagnosis.instruction import Instruction, take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES


def internal_error(scene: Scene) -> Iterator[Cause]:
    """What the hypervisor could not do: emulate an instruction, or deliver an event."""
    exit_ = scene.evidence.exit
    if not isinstance(exit_, InternalError):
        return
    if "deliver" in exit_.cause:
        yield Cause(
            name="event-not-delivered",
            summary="the hypervisor could not deliver an exception or interrupt to the guest",
            because=(exit_.describe(), *(f"{name}: {value:#x}" for name, value in exit_.details)),
            remedy="the IDT, the GDT, the TSS or the stack that it needs lies where no RAM is, or in MMIO: look at "
            "the page walks and descriptor tables in the report",
            section="SDM Vol. 3, 25.8.3",
            weight=80,
        )
        return
    fault = None if scene.rip is None else fault_at(scene, scene.rip)
    code = exit_.instruction or (b"" if scene.rip is None else scene.read(scene.rip, MAX_INSTRUCTION_BYTES))
    instruction = take_apart(code, scene.bits)
    observed = [
        *_touched(scene, instruction),
        *([fault.why] if fault else []),
        f"its bytes are {code[:MAX_INSTRUCTION_BYTES].hex(' ')}",
    ]
    at = "an address that is not known" if scene.rip is None else scene.place(scene.rip)
    yield Cause(
        name="instruction-not-emulated",
        summary=f"the hypervisor could not execute the guest's instruction at {at}",
        because=(exit_.cause or exit_.describe(), *observed),
        remedy="a processor with virtualisation extensions executes it itself, and so does the emulated one "
        "(--backend unicorn); of an access to MMIO, use plain moves of 1 to 8 bytes",
        weight=80,
    )


def _touched(scene: Scene, instruction: Instruction | None) -> Iterator[str]:
    """The memory that the instruction names, where that is no RAM."""
    if instruction is None or instruction.memory is None or scene.regs is None or scene.rip is None:
        return
    address = address_of(scene, instruction.memory, scene.rip)
    place = scene.walk(address).guest_address
    if place is not None and not scene.is_ram(place):
        device = device_at(scene.evidence, "mmio", place)
        who = f"the device {device.name} is" if device else "no RAM and no device is"
        yield f"it touches {address:#x}, where {who} (guest-physical {place:#x})"


def unhandled(scene: Scene) -> Iterator[Cause]:
    """Exits that nobody here knows what to do with."""
    exit_ = scene.evidence.exit
    if isinstance(exit_, UnknownExit):
        fields = tuple(f"{name}: {value:#x}" for name, value in exit_.fields)
        yield Cause(
            name="unhandled-exit",
            summary=f"the hypervisor reported {exit_.name} (exit {exit_.number}), which this backend does not handle",
            because=fields or tuple(f"data: {word:#x}" for word in exit_.data),
            remedy="keep the guest from what causes it (a CPU feature, a device that was asked for), or handle it in "
            "the backend",
            weight=60,
        )
    if isinstance(exit_, MemoryFault):
        yield Cause(
            name="memory-not-mapped-by-host",
            summary=f"the hypervisor cannot give the guest its memory at {exit_.guest_address:#x}",
            because=(exit_.describe(),),
            remedy="look at the host: is its memory full, or the file behind the guest's memory too short?",
            weight=70,
        )


def asked_for(scene: Scene) -> Iterator[Cause]:
    """An end that the guest asked the hypervisor for."""
    exit_ = scene.evidence.exit
    if isinstance(exit_, SystemEvent):
        yield Cause(
            name=f"guest-asked-{exit_.kind}",
            summary=f"the guest itself asked the hypervisor for a {exit_.kind}",
            because=tuple(f"its data: {word:#x}" for word in exit_.data),
            remedy="its console says why, if it says anything",
            weight=60,
        )


CAUSES = (internal_error, unhandled, asked_for)
