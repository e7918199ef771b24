"""Tiny x86_64 guests for the contracts of `run`, `kick` and the life of a vCPU. `basic` ones as in `guests`."""

from __future__ import annotations

from anyvisor.acts import Act, Halt, MmioWrite, PortIn, PortOut, Spin, Store
from anyvisor.exits import Shutdown
from anyvisor.testing.bench import CODE, DATA, MMIO
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.x86_64.guests import OTHER_PORT, PORT, by_mode, everywhere
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL

LOW, HIGH = DATA.to_bytes(2, "little")
CODE_LOW, CODE_HIGH = CODE.to_bytes(2, "little")
MMIO_HIGH = MMIO.start >> 8
ENOUGH = 20_000
"""For guests that go on for ever: how often a script has the same again. A backend that plays it is kicked before."""


def counting(times: int) -> tuple[Act, ...]:
    """What COUNT does: one store and one OUT for each number."""
    return tuple(act for n in range(1, times + 1) for act in (Store(DATA, 4, n), PortOut(PORT, 4, n)))


# fmt: off
OUT_AND_HALT = everywhere(bytes([0xE6, PORT,                        # again: out PORT, al
                                 0xF4,                              # hlt
                                 0xEB, 0xFB]),                      # jmp again
                          *(PortOut(PORT, 1), Halt()) * 5 * ENOUGH, Spin(), basic=True)

FIVE_HALTS = everywhere(bytes([0xB0, 1, 0xE6, PORT, 0xF4,           # mov al, 1; out PORT, al; hlt
                               0xB0, 2, 0xE6, PORT, 0xF4,           # mov al, 2; out PORT, al; hlt
                               0xB0, 3, 0xE6, PORT, 0xF4,           # mov al, 3; out PORT, al; hlt
                               0xB0, 4, 0xE6, PORT, 0xF4,           # mov al, 4; out PORT, al; hlt
                               0xB0, 5, 0xE6, PORT, 0xF4]),         # mov al, 5; out PORT, al; hlt
                        *(act for n in range(1, 6) for act in (PortOut(PORT, 1, n), Halt())), basic=True)

ECHO_FOREVER = everywhere(bytes([0xE4, PORT,                        # again: in al, PORT
                                 0xE6, OTHER_PORT,                  # out OTHER_PORT, al
                                 0xEB, 0xFA]),                      # jmp again
                          *(PortIn(PORT, 1), PortOut(OTHER_PORT, 1)) * ENOUGH, Spin(), basic=True)

CHANGE_OWN_CODE = by_mode(bytes([0xE4, PORT,                        # again: in al, PORT
                                 0xA2, CODE_LOW + 6, CODE_HIGH,  # mov [CODE + 6], al (the 0 below)
                                 0xB0, 0,                           # mov al, 0
                                 0xE6, OTHER_PORT,                  # out OTHER_PORT, al
                                 0xF4,                              # hlt
                                 0xEB, 0xF4]),                      # jmp again
                          bytes([0xE4, PORT,                        # again: in al, PORT
                                 0xA2, CODE_LOW + 8, CODE_HIGH, 0, 0,  # mov [CODE + 8], al (the 0 below)
                                 0xB0, 0,                           # mov al, 0
                                 0xE6, OTHER_PORT,                  # out OTHER_PORT, al
                                 0xF4,                              # hlt
                                 0xEB, 0xF2]),                      # jmp again
                          bytes([0xE4, PORT,                        # again: in al, PORT
                                 0xA2, CODE_LOW + 12, CODE_HIGH, 0, 0, 0, 0, 0, 0,  # movabs [CODE + 12], al
                                 0xB0, 0,                           # mov al, 0
                                 0xE6, OTHER_PORT,                  # out OTHER_PORT, al
                                 0xF4,                              # hlt
                                 0xEB, 0xEE]),                      # jmp again
                          *(PortIn(PORT, 1), PortOut(OTHER_PORT, 1), Halt()) * 3, basic=True)

COUNT = by_mode(bytes([0x66, 0x40,                                  # again: inc eax
                       0x66, 0xA3, LOW, HIGH,                       # mov [DATA], eax
                       0x66, 0xE7, PORT,                            # out PORT, eax
                       0xEB, 0xF5]),                                # jmp again
                bytes([0x40,                                        # again: inc eax
                       0xA3, LOW, HIGH, 0, 0,                       # mov [DATA], eax
                       0xE7, PORT,                                  # out PORT, eax
                       0xEB, 0xF6]),                                # jmp again
                bytes([0xFF, 0xC0,                                  # again: inc eax
                       0x89, 0x04, 0x25, LOW, HIGH, 0, 0,           # mov [DATA], eax
                       0xE7, PORT,                                  # out PORT, eax
                       0xEB, 0xF3]),                                # jmp again
                *counting(ENOUGH), Spin())

STORE_1 = by_mode(bytes([0xB0, 1,                                   # mov al, 1
                         0xA2, LOW, HIGH,                           # mov [DATA], al
                         0xF4]),                                    # hlt
                  bytes([0xB0, 1,                                   # mov al, 1
                         0xA2, LOW, HIGH, 0, 0,                     # mov [DATA], al
                         0xF4]),                                    # hlt
                  bytes([0xB0, 1,                                   # mov al, 1
                         0xA2, LOW, HIGH, 0, 0, 0, 0, 0, 0,         # movabs [DATA], al
                         0xF4]),                                    # hlt
                  Store(DATA, 1, 1), Halt(), basic=True)

STORE_2 = by_mode(bytes([0xB0, 2,                                   # mov al, 2
                         0xA2, LOW + 1, HIGH,                       # mov [DATA + 1], al
                         0xF4]),                                    # hlt
                  bytes([0xB0, 2,                                   # mov al, 2
                         0xA2, LOW + 1, HIGH, 0, 0,                 # mov [DATA + 1], al
                         0xF4]),                                    # hlt
                  bytes([0xB0, 2,                                   # mov al, 2
                         0xA2, LOW + 1, HIGH, 0, 0, 0, 0, 0, 0,     # movabs [DATA + 1], al
                         0xF4]),                                    # hlt
                  Store(DATA + 1, 1, 2), Halt(), basic=True)

MEET_AS_FIRST = by_mode(bytes([0xC6, 0x06, LOW, HIGH, 1,            # mov byte [DATA], 1
                               0x80, 0x3E, LOW + 1, HIGH, 1,        # wait: cmp byte [DATA + 1], 1
                               0x75, 0xF9,                          # jne wait
                               0xF4]),                              # hlt
                        bytes([0xC6, 0x05, LOW, HIGH, 0, 0, 1,      # mov byte [DATA], 1
                               0x80, 0x3D, LOW + 1, HIGH, 0, 0, 1,  # wait: cmp byte [DATA + 1], 1
                               0x75, 0xF7,                          # jne wait
                               0xF4]),                              # hlt
                        bytes([0xC6, 0x04, 0x25, LOW, HIGH, 0, 0, 1,      # mov byte [DATA], 1
                               0x80, 0x3C, 0x25, LOW + 1, HIGH, 0, 0, 1,  # wait: cmp byte [DATA + 1], 1
                               0x75, 0xF6,                          # jne wait
                               0xF4]))                              # hlt

MEET_AS_SECOND = by_mode(bytes([0xC6, 0x06, LOW + 1, HIGH, 1,       # mov byte [DATA + 1], 1
                                0x80, 0x3E, LOW, HIGH, 1,           # wait: cmp byte [DATA], 1
                                0x75, 0xF9,                         # jne wait
                                0xF4]),                             # hlt
                         bytes([0xC6, 0x05, LOW + 1, HIGH, 0, 0, 1,  # mov byte [DATA + 1], 1
                                0x80, 0x3D, LOW, HIGH, 0, 0, 1,     # wait: cmp byte [DATA], 1
                                0x75, 0xF7,                         # jne wait
                                0xF4]),                             # hlt
                         bytes([0xC6, 0x04, 0x25, LOW + 1, HIGH, 0, 0, 1,  # mov byte [DATA + 1], 1
                                0x80, 0x3C, 0x25, LOW, HIGH, 0, 0, 1,      # wait: cmp byte [DATA], 1
                                0x75, 0xF6,                         # jne wait
                                0xF4]))                             # hlt

TRIPLE_FAULT = TinyGuest({PROTECTED: bytes([0x0F, 0x01, 0x1D, LOW, HIGH, 0, 0,    # lidt [DATA] (zeros, so no handlers)
                                            0x0F, 0x0B]),                               # ud2
                          LONG: bytes([0x0F, 0x01, 0x1C, 0x25, LOW, HIGH, 0, 0,   # lidt [DATA]
                                       0x0F, 0x0B]),                                    # ud2
                          REAL: bytes([0x0F, 0x01, 0x1E, LOW, HIGH,               # lidt [DATA]
                                       0x0F, 0x0B])},                                   # ud2
                         (Shutdown(),))

MMIO_STORES = by_mode(bytes([0xC6, 0x06, 0x00, MMIO_HIGH, 1,        # mov byte [MMIO], 1
                             0xC6, 0x06, 0x01, MMIO_HIGH, 2,        # mov byte [MMIO + 1], 2
                             0xC6, 0x06, 0x00, MMIO_HIGH, 3,        # mov byte [MMIO], 3
                             0xB0, 4, 0xE6, PORT,                   # mov al, 4; out PORT, al
                             0xF4]),                                # hlt
                      bytes([0xC6, 0x05, 0x00, MMIO_HIGH, 0, 0, 1,  # mov byte [MMIO], 1
                             0xC6, 0x05, 0x01, MMIO_HIGH, 0, 0, 2,  # mov byte [MMIO + 1], 2
                             0xC6, 0x05, 0x00, MMIO_HIGH, 0, 0, 3,  # mov byte [MMIO], 3
                             0xB0, 4, 0xE6, PORT,                   # mov al, 4; out PORT, al
                             0xF4]),                                # hlt
                      bytes([0xC6, 0x04, 0x25, 0x00, MMIO_HIGH, 0, 0, 1,  # mov byte [MMIO], 1
                             0xC6, 0x04, 0x25, 0x01, MMIO_HIGH, 0, 0, 2,  # mov byte [MMIO + 1], 2
                             0xC6, 0x04, 0x25, 0x00, MMIO_HIGH, 0, 0, 3,  # mov byte [MMIO], 3
                             0xB0, 4, 0xE6, PORT,                   # mov al, 4; out PORT, al
                             0xF4]),                                # hlt
                      MmioWrite(MMIO.start, 1, 1), MmioWrite(MMIO.start + 1, 1, 2), MmioWrite(MMIO.start, 1, 3),
                      PortOut(PORT, 1, 4), Halt())

WAIT = everywhere(bytes([0xFB,                                      # sti
                         0xF4,                                      # wait: hlt
                         0xEB, 0xFD]))                              # jmp wait
# fmt: on
