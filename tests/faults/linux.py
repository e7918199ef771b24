"""Faults that are planted into a good plan for Debian's kernel."""

from __future__ import annotations

from pathlib import Path

from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.machine import Machine
from anyvisor.plan import BootPlan
from anyvisor.x86_64.state import Regs
from faults.fault import SVM, UNICORN, Fault
from faults.places import INITRD, address
from faults.planting import Plant, boot_state, piece, regs, segment, with_states, zero_page

ON_THE_WAY = 0x40
"""How far behind the entry the corrupted bytes are: on the way to code that loads a GDT."""
IN_THE_KERNEL = 0x200_0000
LONG_LINE_BYTES = 0x8000


def config(kernel: Path, initrd: Path | None, **more: object) -> MachineConfig:
    """A good machine."""
    line = f"{DEFAULT_COMMAND_LINE} quiet 8250.nr_uarts=1"
    return MachineConfig(kernel=kernel, initrd=initrd, memory="256M", command_line=line, **more)  # type: ignore[arg-type]


def entry(plan: BootPlan) -> int:
    """RIP at the first instruction."""
    return int(boot_state(plan, Regs)["rip"])


def entered_at(distance: int) -> Plant:
    """An entry that is so many bytes off."""
    return lambda plan: with_states(plan, Regs, rip=entry(plan) + distance)


def corrupt(distance: int, size_bytes: int = 1) -> dict[str, object]:
    """Bytes at that distance from the entry that change after they were loaded, to what 64-bit mode has not."""

    def tamper(machine: Machine) -> None:
        machine.memory.write(entry(machine.plan) + distance, b"\x06" * size_bytes)

    return {"tamper": tamper}


def damage(machine: Machine) -> None:
    """Bytes of the kernel that is packed into the bzImage."""
    machine.memory.write(machine.plan.blob("kernel").guest_address + PAYLOAD, b"\xff" * 64)


def endless(plan: BootPlan) -> BootPlan:
    """The console's name comes last, and goes on in bytes that are no NUL."""
    words = plan.blob("command line").read(0, plan.blob("command line").size_bytes).rstrip(b"\0").split()
    line = b" ".join(sorted(words, key=lambda each: bytes(each).startswith(b"console=")))
    return piece("command line", line.ljust(LONG_LINE_BYTES, b"A"))(plan)


def linux(name: str, words: str, plant: Plant, cause: str, **more: object) -> Fault:
    """A fault that a look at the plan finds."""
    return Fault(name, words, plant, (cause,), **{"checked": cause, **more})  # type: ignore[arg-type]


def good(plan: BootPlan) -> BootPlan:
    """Nothing is wrong with it."""
    return plan


BZIMAGE = (
    linux("linux-entry-off", "the entry is 0x200 bytes too high", entered_at(0x200), "entry-point"),
    linux("linux-entry-32", "the 32-bit entry, in 64-bit mode", entered_at(-0x200), "entry-point"),
    linux("linux-wrong-mode", "CS is 32-bit at the 64-bit entry", segment("cs", l=False, db=True), "protocol-mode"),
    linux("linux-zero-page-lost", "RSI does not lead to the zero page", regs(rsi=0x3000), "handover-found"),
    linux("linux-entry-damaged", "the first byte has changed", good, "code-damaged", checked="", **corrupt(0)),
    linux(
        "linux-way-damaged",
        "eight bytes further on have changed",
        good,
        "code-damaged",
        checked="",
        **corrupt(ON_THE_WAY, 8),
    ),
)
"""Into the bzImage that Debian ships, which dies of them at once."""
PAYLOAD = 0x20_0000
PACKED = (
    linux(
        "linux-payload-damaged",
        "bytes of the packed kernel have changed",
        good,
        "kernel-not-unpacked",
        checked="",
        tamper=damage,
        hosts=(UNICORN, SVM),
    ),
)
"""Into the bzImage, which unpacks itself for a while."""
SLOW = (
    linux("linux-no-root", "no initrd and no root=", good, "guest-panic", checked="", hosts=(UNICORN,)),
    linux(
        "linux-initrd-on-kernel",
        "the zero page has the initrd where the kernel is",
        zero_page(INITRD, address(IN_THE_KERNEL)),
        "initrd-apart",
        hosts=(UNICORN,),
    ),
    linux(
        "linux-line-endless",
        "the command line has no NUL where it should",
        endless,
        "command-line-ends",
        hosts=(UNICORN,),
    ),
)
"""Into the kernel unpacked, which runs for some seconds."""
