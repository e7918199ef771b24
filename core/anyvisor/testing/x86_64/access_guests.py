"""Tiny x86_64 guests that make one access of a device, and say at another port what AL then is. All are basic."""

from __future__ import annotations

from anyvisor.acts import Halt, MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.testing.bench import MMIO
from anyvisor.testing.x86_64.guests import OTHER_PORT, PORT, by_mode, everywhere

MMIO_START = MMIO.start
VALUE = 42

# fmt: off
READ_PORT = everywhere(bytes([0xE4, PORT,        # in al, PORT
                              0xE6, OTHER_PORT,  # out OTHER_PORT, al
                              0xF4]),            # hlt
                       PortIn(PORT, 1), PortOut(OTHER_PORT, 1), Halt(), basic=True)

WRITE_PORT = everywhere(bytes([0xB0, VALUE,       # mov al, VALUE
                               0xE6, PORT,        # out PORT, al
                               0xE6, OTHER_PORT,  # out OTHER_PORT, al
                               0xF4]),            # hlt
                        PortOut(PORT, 1, VALUE), PortOut(OTHER_PORT, 1, VALUE), Halt(), basic=True)

READ_MMIO = by_mode(
    bytes([0xA0, 0x00, 0xD0,  # mov al, [MMIO_START]
           0xE6, OTHER_PORT,  # out OTHER_PORT, al
           0xF4]),            # hlt
    bytes([0xA0, 0x00, 0xD0, 0x00, 0x00,  # mov al, [MMIO_START]
           0xE6, OTHER_PORT,              # out OTHER_PORT, al
           0xF4]),                        # hlt
    bytes([0xA0, 0x00, 0xD0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs al, [MMIO_START]
           0xE6, OTHER_PORT,                                      # out OTHER_PORT, al
           0xF4]),                                                # hlt
    MmioRead(MMIO_START, 1), PortOut(OTHER_PORT, 1), Halt(), basic=True)

WRITE_MMIO = by_mode(
    bytes([0xB0, VALUE,       # mov al, VALUE
           0xA2, 0x00, 0xD0,  # mov [MMIO_START], al
           0xE6, OTHER_PORT,  # out OTHER_PORT, al
           0xF4]),            # hlt
    bytes([0xB0, VALUE,                   # mov al, VALUE
           0xA2, 0x00, 0xD0, 0x00, 0x00,  # mov [MMIO_START], al
           0xE6, OTHER_PORT,              # out OTHER_PORT, al
           0xF4]),                        # hlt
    bytes([0xB0, VALUE,                                           # mov al, VALUE
           0xA2, 0x00, 0xD0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs [MMIO_START], al
           0xE6, OTHER_PORT,                                      # out OTHER_PORT, al
           0xF4]),                                                # hlt
    MmioWrite(MMIO_START, 1, VALUE), PortOut(OTHER_PORT, 1, VALUE), Halt(), basic=True)
# fmt: on
