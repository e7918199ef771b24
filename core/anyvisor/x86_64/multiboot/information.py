"""The multiboot information structure as it lies in memory: numbers, flags and pointers, nothing followed.

Its layout: GNU Multiboot Specification 0.6.96, 3.3. A field means something only where its flag is set.
"""

from __future__ import annotations

import struct

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.errors import PlanError

SIZE_BYTES = 116
"""How long it is with the framebuffer's fields, which older loaders leave out."""

_SHAPE = struct.Struct("<I2III2I16s2I2IIIIII4H")
_FRAMEBUFFER = struct.Struct("<QIIIBB6s")


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

    flags: InfoFlags = attrs.field(default=InfoFlags(0), converter=InfoFlags)
    mem_lower: int = 0
    mem_upper: int = 0
    boot_device: int = 0
    cmdline: int = 0
    mods_count: int = 0
    mods_addr: int = 0
    syms: bytes = bytes(16)
    mmap_length: int = 0
    mmap_addr: int = 0
    drives_length: int = 0
    drives_addr: int = 0
    config_table: int = 0
    boot_loader_name: int = 0
    apm_table: int = 0
    vbe_control_info: int = 0
    vbe_mode_info: int = 0
    vbe_mode: int = 0
    vbe_interface_seg: int = 0
    vbe_interface_off: int = 0
    vbe_interface_len: int = 0
    framebuffer: bytes = bytes(_FRAMEBUFFER.size)

    def __attrs_post_init__(self) -> None:
        self.to_bytes()

    def to_bytes(self) -> bytes:
        """The structure's bytes: 88, and those of the framebuffer."""
        values = [getattr(self, name) for name in _NAMES]
        if len(self.syms) != 16 or len(self.framebuffer) > _FRAMEBUFFER.size:
            lengths = f"{len(self.syms)} and {len(self.framebuffer)}"
            raise PlanError(f"multiboot information: syms and framebuffer have 16 and 28 bytes, not {lengths}")
        try:
            return _SHAPE.pack(*values) + self.framebuffer
        except struct.error as error:
            raise PlanError(f"multiboot information: a value does not fit its field: {error}: {self}") from error

    @classmethod
    def decode(cls, data: bytes) -> MultibootInfo:
        """The structure that the bytes begin with; PlanError with the offset at which they end too early."""
        if len(data) < _SHAPE.size:
            words = f"multiboot information: cut short at offset {len(data):#x}"
            raise PlanError(f"{words}, it has at least {_SHAPE.size} bytes")
        fields = dict(zip(_NAMES, _SHAPE.unpack_from(data), strict=True))
        return cls(**fields, framebuffer=bytes(data[_SHAPE.size : SIZE_BYTES]))

    def describe(self) -> str:
        """The fields that are not 0, one a line, as `offset name value`."""
        lines = [f"0x000  {'flags':<19}{self.flags:#x}  {self.flags.words()}".rstrip()]
        for name, offset in _OFFSETS.items():
            value = getattr(self, name)
            if name != "flags" and (any(value) if isinstance(value, bytes) else value):
                lines.append(f"{offset:#05x}  {name:<19}{value.hex(' ') if isinstance(value, bytes) else hex(value)}")
        if self.flags.framebuffer and len(self.framebuffer) == _FRAMEBUFFER.size:
            lines.append(f"{_SHAPE.size:#05x}  framebuffer        {_picture(self.framebuffer)}")
        return "\n".join(lines)


def _picture(data: bytes) -> str:
    """The framebuffer's fields in words."""
    address, pitch, width, height, bits, kind, _ = _FRAMEBUFFER.unpack(data)
    return f"{width}x{height}, {bits} bits, {pitch} bytes a line, at {address:#x}, type {kind}"


_NAMES = [field.name for field in attrs.fields(MultibootInfo)][:-1]
_WIDTHS = {"syms": 16, "vbe_mode": 2, "vbe_interface_seg": 2, "vbe_interface_off": 2, "vbe_interface_len": 2}
_OFFSETS = {name: sum(_WIDTHS.get(each, 4) for each in _NAMES[:index]) for index, name in enumerate(_NAMES)}
