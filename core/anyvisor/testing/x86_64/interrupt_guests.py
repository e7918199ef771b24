"""Real-mode guests that are interrupted: handlers that say which vector they are for, and a PC's 8259A set up.

A handler writes its vector to PORT. What the guests themselves do they say at the ports behind it, so that the writes
that `ports` has heard are the order of all.
"""

from __future__ import annotations

import struct

from anyvisor.testing.bench import CODE, MMIO, Bench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.x86_64.guests import PORT
from anyvisor.x86_64.modes import REAL

HANDLERS = CODE + 0x800
HANDLER_BYTES = 16
LINES = (3, 4)
BASE = 0x20
"""The vector of line 0: line n of the first 8259A has BASE + n."""
MASTER, MASTER_DATA, TRIGGER_MODES = 0x20, 0x21, 0x4D0
"""Ports of the first 8259A, and of its edge or level register."""
ONLY_LINES = 0xFF & ~sum(1 << line for line in LINES)
MMIO_HIGH = MMIO.start >> 8


def real_mode(*parts: bytes) -> TinyGuest:
    """A guest of real mode."""
    return TinyGuest({REAL: b"".join(parts)})


def handler(vector: int, *, end_of_interrupt: bool) -> bytes:
    """It says its vector, and tells the 8259A that it is done if there is one."""
    done = bytes([0xB0, 0x20, 0xE6, MASTER])  # mov al, 0x20; out MASTER, al: end of interrupt
    return bytes([0x50,                              # push ax
                  0xB0, vector,                      # mov al, vector
                  0xE6, PORT,                        # out PORT, al
                  *(done if end_of_interrupt else b""),
                  0x58,                              # pop ax
                  0xCF])  # iret       # fmt: skip


def install(made: Bench, *vectors: int, end_of_interrupt: bool = False) -> None:
    """Put handlers into the interrupt vector table, which real mode has at address 0."""
    for number, vector in enumerate(vectors):
        place = HANDLERS + number * HANDLER_BYTES
        made.memory.write(place, handler(vector, end_of_interrupt=end_of_interrupt))
        made.memory.write(4 * vector, struct.pack("<HH", place, 0))


# fmt: off
SAY_1 = bytes([0xE6, PORT + 1])                                      # out PORT + 1, al
SAY_2 = bytes([0xE6, PORT + 2])                                      # out PORT + 2, al
STI = bytes([0xFB])                                                  # sti
CLI = bytes([0xFA])                                                  # cli
NOP = bytes([0x90])                                                  # nop
HLT = bytes([0xF4])                                                  # hlt
END = CLI + HLT
WAIT_FOREVER = bytes([0xF4,                                          # wait: hlt
                      0xEB, 0xFD])                                   # jmp wait
SPIN_FOREVER = bytes([0xEB, 0xFE])                                   # here: jmp here
LOAD_SS = bytes([0x8E, 0x16, 0x00, MMIO_HIGH])                       # mov ss, [MMIO]
LEVEL_3 = bytes([0xB0, 1 << LINES[0],                                # mov al, 8 (line 3)
                 0xBA, TRIGGER_MODES & 0xFF, TRIGGER_MODES >> 8,     # mov dx, TRIGGER_MODES
                 0xEE])                                              # out dx, al
SET_UP_PIC = bytes([0xB0, 0x11, 0xE6, MASTER,                        # mov al, 0x11; out MASTER, al (ICW1: edge)
                    0xB0, BASE, 0xE6, MASTER_DATA,                   # mov al, BASE; out MASTER_DATA, al (ICW2: vectors)
                    0xB0, 0x04, 0xE6, MASTER_DATA,                   # mov al, 4; out MASTER_DATA, al (ICW3: line 2)
                    0xB0, 0x01, 0xE6, MASTER_DATA])                  # mov al, 1; out MASTER_DATA, al (ICW4: 8086 mode)
MASK_ALL = bytes([0xB0, 0xFF, 0xE6, MASTER_DATA])                    # mov al, 0xFF; out MASTER_DATA, al
UNMASK = bytes([0xB0, ONLY_LINES, 0xE6, MASTER_DATA])                # mov al, ONLY_LINES; out MASTER_DATA, al
# fmt: on

WAIT = real_mode(STI, WAIT_FOREVER)
WAIT_ONCE = real_mode(STI, HLT, SAY_1, END)
SPIN = real_mode(STI, SAY_1, SPIN_FOREVER)
OFF = real_mode(SAY_1, NOP, SAY_2, HLT)
BRIEFLY_ON = real_mode(SAY_1, STI, NOP, SAY_2, END)
STI_SHADOW = real_mode(SAY_1, STI, SAY_2, SPIN_FOREVER)
SS_SHADOW = real_mode(STI, NOP, SAY_1, LOAD_SS, SAY_2, SPIN_FOREVER)
PIC_WAIT = real_mode(SET_UP_PIC, UNMASK, STI, SAY_1, WAIT_FOREVER)
PIC_LATER = real_mode(SET_UP_PIC, UNMASK, SAY_1, STI, WAIT_FOREVER)
PIC_MASKED = real_mode(SET_UP_PIC, MASK_ALL, SAY_1, STI, NOP, SAY_2, UNMASK, WAIT_FOREVER)
PIC_LEVEL = real_mode(SET_UP_PIC, UNMASK, LEVEL_3, STI, SAY_1, WAIT_FOREVER)
