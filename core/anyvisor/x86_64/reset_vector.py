"""What a kernel finds where a PC has its BIOS: a few instructions that reset the machine.

Some facts about the reset vector. A processor's first instruction after a reset is 16 bytes below the end of its BIOS,
which real mode sees at F000:FFF0. Kernels go there for a reset by the BIOS (`reboot=bios`), and Linux does so by itself
on ACPI-reduced hardware, which it takes to have UEFI, when there is none.

>>> from anyvisor.memory import Region
>>> reset_code([DeviceSpec("i8042", "i8042", ports=(Region(0x60, 1), Region(0x64, 1)))]).hex(" ")
'ba 64 00 b0 fe ee f4 eb fd'
"""

from __future__ import annotations

from collections.abc import Iterable

from anyvisor.plan import Blob, DeviceSpec
from anyvisor.x86_64.acpi import power
from anyvisor.x86_64.layout import Layout

PULSE_RESET = 0xFE
"""What the keyboard controller takes, at its second port, for: pulse the processor's reset line."""


def reset_register(devices: Iterable[DeviceSpec]) -> tuple[int, int] | None:
    """The port, and the byte to write there, that reset the machine: power management's, or the keyboard's."""
    found = {each.kind: each.ports for each in devices}
    if ports := found.get("acpi-pm"):
        return ports[0].start + power.RESET, power.RESET_VALUE
    if ports := found.get("i8042"):
        return ports[-1].start, PULSE_RESET
    return None


def reset_code(devices: Iterable[DeviceSpec]) -> bytes:
    """Real-mode code that resets the machine; nothing when no device can."""
    register = reset_register(devices)
    if register is None:
        return b""
    port, value = register
    return bytes([
        0xBA, *port.to_bytes(2, "little"),  # mov dx, port
        0xB0, value,                        # mov al, value
        0xEE,                               # out dx, al
        0xF4,                               # hlt
        0xEB, 0xFD,                         # jmp to the hlt
    ])  # fmt: skip


def reset_vector(layout: Layout, devices: Iterable[DeviceSpec]) -> tuple[Blob, ...]:
    """The code in its place, as the piece `reset vector`; none when no device can reset the machine."""
    code = reset_code(devices)
    return (Blob("reset vector", layout.reset_vector, code),) if code else ()
