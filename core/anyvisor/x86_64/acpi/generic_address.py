"""The generic address: a register's place in any address space, in 12 bytes (5.2.3.2, Table 5.1)."""

from __future__ import annotations

import enum
import struct

import attrs


class AddressSpace(enum.IntEnum):
    """Where a register lies."""

    MEMORY = 0
    IO = 1
    PCI_CONFIG = 2
    EMBEDDED_CONTROLLER = 3
    SMBUS = 4
    CMOS = 5
    PCI_BAR = 6
    IPMI = 7
    GPIO = 8
    SERIAL_BUS = 9
    PLATFORM_CHANNEL = 0xA
    PLATFORM_RUNTIME = 0xB
    FIXED_HARDWARE = 0x7F


class AccessSize(enum.IntEnum):
    """How wide an access must be."""

    ANY = 0
    BYTE = 1
    WORD = 2
    DWORD = 3
    QWORD = 4


GAS = struct.Struct("<BBBBQ")
_ACCESS = {8: AccessSize.BYTE, 16: AccessSize.WORD, 32: AccessSize.DWORD, 64: AccessSize.QWORD}


@attrs.frozen
class GenericAddress:
    """A register of `bits` bits at `address` in an address space; all zeros for none.

    >>> GenericAddress.io(0x3F8, 8).to_bytes().hex(" ")
    '01 08 00 01 f8 03 00 00 00 00 00 00'
    """

    space: int = AddressSpace.MEMORY
    bits: int = 0
    bit_offset: int = 0
    access: int = AccessSize.ANY
    address: int = 0

    @classmethod
    def io(cls, port: int, bits: int) -> GenericAddress:
        """An I/O port, to be accessed in one piece."""
        return cls(AddressSpace.IO, bits, 0, _ACCESS.get(bits, AccessSize.ANY), port)

    @classmethod
    def memory(cls, address: int, bits: int) -> GenericAddress:
        """A register in memory, to be accessed in one piece."""
        return cls(AddressSpace.MEMORY, bits, 0, _ACCESS.get(bits, AccessSize.ANY), address)

    def to_bytes(self) -> bytes:
        """The 12 bytes; struct.error when a number is too big for its place."""
        return GAS.pack(self.space, self.bits, self.bit_offset, self.access, self.address)

    def __bool__(self) -> bool:
        """Whether there is such a register."""
        return self.address != 0

    def __str__(self) -> str:
        if not self:
            return "none"
        known = self.space in AddressSpace._value2member_map_
        space = AddressSpace(self.space).name.lower().replace("_", " ") if known else f"address space {self.space:#x}"
        offset = f" from bit {self.bit_offset}" if self.bit_offset else ""
        return f"{self.bits} bits at {space} {self.address:#x}{offset}"


REGISTER = {"shape": f"{GAS.size}s", "nested": True}
"""What a field's `metadata` says for a generic address."""
NOWHERE = GenericAddress()
"""No register."""


def register(value: GenericAddress | bytes) -> GenericAddress:
    """What converts such a field: 12 bytes to a value, and a value to itself."""
    return GenericAddress(*GAS.unpack(value)) if isinstance(value, bytes) else value
