"""Tiny x86_64 guests that several contracts use; those of one contract stand beside it.

**The basic instructions.** A backend without Capability.FULL_PROCESSOR need have no others, in the modes it names:

    mov al, imm8     mov al, [moffs]     mov [moffs], al
    in al, imm8      out imm8, al        jmp rel8           hlt
"""

from __future__ import annotations

import pytest

from anyvisor.acts import Act, Halt, Load, PortIn, PortOut, Script, Spin, Store
from anyvisor.exits import Exit
from anyvisor.testing.bench import DATA, MORE_RAM, OTHER_PORTS, PORTS
from anyvisor.testing.guest import TinyGuest
from anyvisor.x86_64.modes import LONG, MODES, PROTECTED, REAL

PORT, OTHER_PORT = PORTS.start, OTHER_PORTS.start
MORE_START, MORE_END = MORE_RAM.start, MORE_RAM.end

in_every_mode = pytest.mark.parametrize("mode", MODES)
"""Decorator: run the test in each of the processor's modes."""


def everywhere(code: bytes, *does: Act | Exit, basic: bool = False) -> TinyGuest:
    """A guest whose code means the same in every mode; without `does`, one that acts cannot describe."""
    script: Script | None = does or None
    return TinyGuest(dict.fromkeys(MODES, code), script, basic)


def by_width(real: bytes, flat: bytes, *does: Act | Exit, basic: bool = False) -> TinyGuest:
    """A guest with the prefixes of 16-bit code in real mode, and with those of 32-bit code in the others."""
    return by_mode(real, flat, flat, *does, basic=basic)


def by_mode(real: bytes, protected: bytes, long: bytes, *does: Act | Exit, basic: bool = False) -> TinyGuest:
    """A guest that is written differently in every mode."""
    script: Script | None = does or None
    return TinyGuest({REAL: real, PROTECTED: protected, LONG: long}, script, basic)


# fmt: off
HALT = everywhere(bytes([0xF4]),                          # hlt
                  Halt(), basic=True)

SPIN = everywhere(bytes([0xEB, 0xFE]),                    # here: jmp here
                  Spin(), basic=True)

OUT_42 = everywhere(bytes([0xB0, 0x2A,                    # mov al, 42
                           0xE6, PORT,                    # out PORT, al
                           0xF4]),                        # hlt
                    PortOut(PORT, 1, 42), Halt(), basic=True)

OUT_42_THEN_SPIN = everywhere(bytes([0xB0, 0x2A,          # mov al, 42
                                     0xE6, PORT,          # out PORT, al
                                     0xEB, 0xFE]),        # here: jmp here
                              PortOut(PORT, 1, 42), Spin(), basic=True)

ECHO = everywhere(bytes([0xE4, PORT,                      # in al, PORT
                         0xE6, OTHER_PORT,                # out OTHER_PORT, al
                         0xF4]),                          # hlt
                  PortIn(PORT, 1), PortOut(OTHER_PORT, 1), Halt(), basic=True)

LOAD = by_mode(
    bytes([0xA0, 0x00, 0x40,  # mov al, [DATA]
           0xE6, 0x10,        # out PORT, al
           0xF4]),            # hlt
    bytes([0xA0, 0x00, 0x40, 0x00, 0x00,  # mov al, [DATA]
           0xE6, 0x10,                    # out PORT, al
           0xF4]),                        # hlt
    bytes([0xA0, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs al, [DATA]
           0xE6, 0x10,                                            # out PORT, al
           0xF4]),                                                # hlt
    Load(DATA, 1), PortOut(PORT, 1), Halt(), basic=True)

STORE = by_mode(
    bytes([0xE4, 0x10,        # in al, PORT
           0xA2, 0x00, 0x40,  # mov [DATA], al
           0xF4]),            # hlt
    bytes([0xE4, 0x10,                    # in al, PORT
           0xA2, 0x00, 0x40, 0x00, 0x00,  # mov [DATA], al
           0xF4]),                        # hlt
    bytes([0xE4, 0x10,                                            # in al, PORT
           0xA2, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs [DATA], al
           0xF4]),                                                # hlt
    PortIn(PORT, 1), Store(DATA, 1), Halt(), basic=True)

LOAD_AFTER_IN = by_mode(
    bytes([0xE4, 0x10,        # in al, PORT
           0xA0, 0x00, 0x40,  # mov al, [DATA]
           0xE6, 0x30,        # out OTHER_PORT, al
           0xF4]),            # hlt
    bytes([0xE4, 0x10,                    # in al, PORT
           0xA0, 0x00, 0x40, 0x00, 0x00,  # mov al, [DATA]
           0xE6, 0x30,                    # out OTHER_PORT, al
           0xF4]),                        # hlt
    bytes([0xE4, 0x10,                                            # in al, PORT
           0xA0, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs al, [DATA]
           0xE6, 0x30,                                            # out OTHER_PORT, al
           0xF4]),                                                # hlt
    PortIn(PORT, 1), Load(DATA, 1), PortOut(OTHER_PORT, 1), Halt(), basic=True)

MORE_RAM_EDGES = by_mode(
    bytes([0xE4, 0x10,        # in al, PORT
           0xA2, 0x00, 0xE0,  # mov [MORE_START], al
           0xE4, 0x10,        # in al, PORT
           0xA2, 0xFF, 0xEF,  # mov [MORE_END - 1], al
           0xA0, 0x01, 0xE0,  # mov al, [MORE_START + 1]
           0xE6, 0x30,        # out OTHER_PORT, al
           0xA0, 0xFE, 0xEF,  # mov al, [MORE_END - 2]
           0xE6, 0x30,        # out OTHER_PORT, al
           0xF4]),            # hlt
    bytes([0xE4, 0x10,                    # in al, PORT
           0xA2, 0x00, 0xE0, 0x00, 0x00,  # mov [MORE_START], al
           0xE4, 0x10,                    # in al, PORT
           0xA2, 0xFF, 0xEF, 0x00, 0x00,  # mov [MORE_END - 1], al
           0xA0, 0x01, 0xE0, 0x00, 0x00,  # mov al, [MORE_START + 1]
           0xE6, 0x30,                    # out OTHER_PORT, al
           0xA0, 0xFE, 0xEF, 0x00, 0x00,  # mov al, [MORE_END - 2]
           0xE6, 0x30,                    # out OTHER_PORT, al
           0xF4]),                        # hlt
    bytes([0xE4, 0x10,                                            # in al, PORT
           0xA2, 0x00, 0xE0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs [MORE_START], al
           0xE4, 0x10,                                            # in al, PORT
           0xA2, 0xFF, 0xEF, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs [MORE_END - 1], al
           0xA0, 0x01, 0xE0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs al, [MORE_START + 1]
           0xE6, 0x30,                                            # out OTHER_PORT, al
           0xA0, 0xFE, 0xEF, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs al, [MORE_END - 2]
           0xE6, 0x30,                                            # out OTHER_PORT, al
           0xF4]),                                                # hlt
    PortIn(PORT, 1), Store(MORE_START, 1), PortIn(PORT, 1), Store(MORE_END - 1, 1),
    Load(MORE_START + 1, 1), PortOut(OTHER_PORT, 1), Load(MORE_END - 2, 1), PortOut(OTHER_PORT, 1), Halt(), basic=True)
# fmt: on
