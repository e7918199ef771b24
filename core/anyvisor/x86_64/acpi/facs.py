"""The FACS: memory that a fixed-hardware machine's firmware and OS share (5.2.10). No header, and no checksum."""

from __future__ import annotations

import struct
from typing import ClassVar, Self

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.errors import PlanError
from anyvisor.x86_64.records import U8, U32, U64, pack, raw, unpack

ALIGNMENT_BYTES = 64
SIZE_BYTES = 64
_PREFIX = struct.Struct("<4sI")


class FacsFlags(Bits):
    """What the firmware can do when it wakes the OS (Table 5.12)."""

    s4bios = bit(0)
    wake_64bit = bit(1)


@attrs.frozen
class Facs:
    """The Firmware ACPI Control Structure: where to go on after sleep, and the lock on what both may touch.

    A machine that never sleeps leaves all of it 0. `version` 2 is that of ACPI 4.0 and later; `rest` is what a still
    later one has behind these fields.
    """

    SIGNATURE: ClassVar[str] = "FACS"
    NAME: ClassVar[str] = "FACS"

    hardware_signature: int = attrs.field(default=0, metadata=U32)
    waking_vector: int = attrs.field(default=0, metadata=U32)
    global_lock: int = attrs.field(default=0, metadata=U32)
    flags: FacsFlags = attrs.field(default=FacsFlags(), converter=FacsFlags, metadata=U32)
    x_waking_vector: int = attrs.field(default=0, metadata=U64)
    version: int = attrs.field(default=2, metadata=U8)
    reserved: bytes = attrs.field(default=bytes(3), metadata=raw(3))
    ospm_flags: int = attrs.field(default=0, metadata=U32)
    reserved_end: bytes = attrs.field(default=bytes(24), metadata=raw(24))
    rest: bytes = b""

    @property
    def signature(self) -> str:
        """The four letters that it starts with."""
        return self.SIGNATURE

    @property
    def name(self) -> str:
        """What the specification calls it."""
        return self.NAME

    def to_bytes(self) -> bytes:
        """The 64 bytes, and the rest; PlanError when a number is too big for its place."""
        try:
            return _PREFIX.pack(b"FACS", SIZE_BYTES + len(self.rest)) + pack(self) + self.rest
        except struct.error as error:
            raise PlanError(f"FACS: a value does not fit in its place: {error}") from error

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The FACS in `data`, bytes after its end left aside; PlanError says at which offset it is broken."""
        if len(data) < SIZE_BYTES:
            raise PlanError(f"FACS ends at offset {len(data):#x}; it has {SIZE_BYTES} bytes")
        signature, size = _PREFIX.unpack_from(data)
        if signature != b"FACS" or not SIZE_BYTES <= size <= len(data):
            allowed = f"{SIZE_BYTES} to the {len(data)} bytes there are"
            raise PlanError(f"FACS: {signature!r} of {size} bytes at offset 0x0, not b'FACS' of {allowed}")
        return cls(**unpack(cls, data[_PREFIX.size :]), rest=data[SIZE_BYTES:size])

    def describe(self) -> str:
        """The FACS in words."""
        size = f"{len(self.to_bytes())} bytes"
        title = f"FACS: version {self.version}, {size}, hardware signature {self.hardware_signature:#x}"
        vectors = f"  waking vector {self.waking_vector:#x}, of 64 bits {self.x_waking_vector:#x}"
        flags = f"  global lock {self.global_lock:#x}, flags {self.flags.words() or 'none'}"
        return "\n".join([title, vectors, f"{flags}, the OS's {self.ospm_flags:#x}"])
