"""The multiboot information structure as it lies in memory: numbers, flags and pointers, nothing followed.

Its layout: GNU Multiboot Specification 0.6.96, 3.3. A field means something only where its flag is set.
"""

from __future__ import annotations

import struct

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.errors import PlanError
from anyvisor.x86_64.records import U16, U32, offsets, pack, raw, unpack

SIZE_BYTES = 116
"""How long it is with the framebuffer's fields, which older loaders leave out."""

_FRAMEBUFFER = struct.Struct("<QIIIBB6s")
_FIXED_BYTES = SIZE_BYTES - _FRAMEBUFFER.size


class InfoFlags(Bits):
    """Which fields of the structure mean something. 3.3."""

    memory = bit(0)
    boot_device = bit(1)
    command_line = bit(2)
    modules = bit(3)
    aout_symbols = bit(4)
    elf_sections = bit(5)
    memory_map = bit(6)
    drives = bit(7)
    config_table = bit(8)
    loader_name = bit(9)
    apm_table = bit(10)
    vbe = bit(11)
    framebuffer = bit(12)


@attrs.frozen(kw_only=True)
class MultibootInfo:
    """The structure by the specification's field names; `framebuffer` is its last 28 bytes, where it has them.

    PlanError when a value does not fit its field.
    """

    flags: InfoFlags = attrs.field(default=InfoFlags(0), converter=InfoFlags, metadata=U32)
    mem_lower: int = attrs.field(default=0, metadata=U32)
    mem_upper: int = attrs.field(default=0, metadata=U32)
    boot_device: int = attrs.field(default=0, metadata=U32)
    cmdline: int = attrs.field(default=0, metadata=U32)
    mods_count: int = attrs.field(default=0, metadata=U32)
    mods_addr: int = attrs.field(default=0, metadata=U32)
    syms: bytes = attrs.field(default=bytes(16), metadata=raw(16))
    mmap_length: int = attrs.field(default=0, metadata=U32)
    mmap_addr: int = attrs.field(default=0, metadata=U32)
    drives_length: int = attrs.field(default=0, metadata=U32)
    drives_addr: int = attrs.field(default=0, metadata=U32)
    config_table: int = attrs.field(default=0, metadata=U32)
    boot_loader_name: int = attrs.field(default=0, metadata=U32)
    apm_table: int = attrs.field(default=0, metadata=U32)
    vbe_control_info: int = attrs.field(default=0, metadata=U32)
    vbe_mode_info: int = attrs.field(default=0, metadata=U32)
    vbe_mode: int = attrs.field(default=0, metadata=U16)
    vbe_interface_seg: int = attrs.field(default=0, metadata=U16)
    vbe_interface_off: int = attrs.field(default=0, metadata=U16)
    vbe_interface_len: int = attrs.field(default=0, metadata=U16)
    framebuffer: bytes = bytes(_FRAMEBUFFER.size)

    def __attrs_post_init__(self) -> None:
        self.to_bytes()

    def to_bytes(self) -> bytes:
        """The structure's bytes: 88, and those of the framebuffer."""
        if len(self.syms) != 16 or len(self.framebuffer) > _FRAMEBUFFER.size:
            lengths = f"{len(self.syms)} and {len(self.framebuffer)}"
            raise PlanError(f"multiboot information: syms and framebuffer have 16 and 28 bytes, not {lengths}")
        try:
            return pack(self) + self.framebuffer
        except struct.error as error:
            raise PlanError(f"multiboot information: a value does not fit its field: {error}: {self}") from error

    @classmethod
    def decode(cls, data: bytes) -> MultibootInfo:
        """The structure that the bytes begin with; PlanError with the offset at which they end too early."""
        if len(data) < _FIXED_BYTES:
            words = f"multiboot information: cut short at offset {len(data):#x}"
            raise PlanError(f"{words}, it has at least {_FIXED_BYTES} bytes")
        return cls(**unpack(cls, data), framebuffer=bytes(data[_FIXED_BYTES:SIZE_BYTES]))

    def describe(self) -> str:
        """The fields that are not 0, one a line, as `offset name value`."""
        lines = [f"0x000  {'flags':<19}{self.flags:#x}  {self.flags.words()}".rstrip()]
        for name, offset in offsets(MultibootInfo).items():
            value = getattr(self, name)
            if name != "flags" and (any(value) if isinstance(value, bytes) else value):
                lines.append(f"{offset:#05x}  {name:<19}{value.hex(' ') if isinstance(value, bytes) else hex(value)}")
        if self.flags.framebuffer and len(self.framebuffer) == _FRAMEBUFFER.size:
            lines.append(f"{_FIXED_BYTES:#05x}  framebuffer        {_picture(self.framebuffer)}")
        return "\n".join(lines)


def _picture(data: bytes) -> str:
    """The framebuffer's fields in words."""
    address, pitch, width, height, bits, kind, _ = _FRAMEBUFFER.unpack(data)
    return f"{width}x{height}, {bits} bits, {pitch} bytes a line, at {address:#x}, type {kind}"
