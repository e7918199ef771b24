"""The header in which a Linux x86 kernel and its boot loader tell each other what they need.

Some facts about it (Documentation/arch/x86/boot.rst). It lies at 0x1f1 of a bzImage and at the same offset of
the zero page that the kernel is given; the loader copies it and fills in its own fields. It grew over the
years: the `version` says which fields there are (0x020c is protocol 2.12), and the second byte of the jump at
0x200 where it ends. What lies behind is code, so a field is believed only if both say it is there; the others
read as 0.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.errors import PlanError

START = 0x1F1
JUMP_END = 0x202
VERSION = 0x206
END_LIMIT = 0x290
"""Where the zero page goes on with something else: no header is longer."""
BOOT_FLAG = 0xAA55
SIGNATURE = int.from_bytes(b"HdrS", "little")


class LoadFlags(Bits):
    """`loadflags` (boot.rst)."""

    loaded_high = bit(0)
    kaslr = bit(1)
    quiet = bit(5)
    keep_segments = bit(6)
    can_use_heap = bit(7)


class XLoadFlags(Bits):
    """`xloadflags` (boot.rst)."""

    kernel_64 = bit(0)
    can_be_loaded_above_4g = bit(1)
    efi_handover_32 = bit(2)
    efi_handover_64 = bit(3)
    efi_kexec = bit(4)
    five_level = bit(5)
    five_level_enabled = bit(6)
    mem_encryption = bit(7)


def _at(offset: int, form: str, since: int = 0x200, kind: type[int] = int) -> Any:
    """A field: its offset in the file and zero page, its struct letter, the protocol that brought it."""
    return attrs.field(default=0, converter=kind, metadata={"offset": offset, "form": f"<{form}", "since": since})


@attrs.frozen(kw_only=True)
class SetupHeader:
    """The setup header by the kernel's own field names. `unknown` is what a newer kernel has behind these.

    PlanError when a value does not fit its field.
    """

    setup_sects: int = _at(0x1F1, "B")
    root_flags: int = _at(0x1F2, "H")
    syssize: int = _at(0x1F4, "I", 0x204)
    ram_size: int = _at(0x1F8, "H")
    vid_mode: int = _at(0x1FA, "H")
    root_dev: int = _at(0x1FC, "H")
    boot_flag: int = _at(0x1FE, "H")
    jump: int = _at(0x200, "H")
    header: int = _at(0x202, "I")
    version: int = _at(0x206, "H")
    realmode_swtch: int = _at(0x208, "I")
    start_sys_seg: int = _at(0x20C, "H")
    kernel_version: int = _at(0x20E, "H")
    type_of_loader: int = _at(0x210, "B")
    loadflags: LoadFlags = _at(0x211, "B", kind=LoadFlags)  # noqa: RUF009
    setup_move_size: int = _at(0x212, "H")
    code32_start: int = _at(0x214, "I")
    ramdisk_image: int = _at(0x218, "I")
    ramdisk_size: int = _at(0x21C, "I")
    bootsect_kludge: int = _at(0x220, "I")
    heap_end_ptr: int = _at(0x224, "H", 0x201)
    ext_loader_ver: int = _at(0x226, "B", 0x202)
    ext_loader_type: int = _at(0x227, "B", 0x202)
    cmd_line_ptr: int = _at(0x228, "I", 0x202)
    initrd_addr_max: int = _at(0x22C, "I", 0x203)
    kernel_alignment: int = _at(0x230, "I", 0x205)
    relocatable_kernel: int = _at(0x234, "B", 0x205)
    min_alignment: int = _at(0x235, "B", 0x20A)
    xloadflags: XLoadFlags = _at(0x236, "H", 0x20C, XLoadFlags)  # noqa: RUF009
    cmdline_size: int = _at(0x238, "I", 0x206)
    hardware_subarch: int = _at(0x23C, "I", 0x207)
    hardware_subarch_data: int = _at(0x240, "Q", 0x207)
    payload_offset: int = _at(0x248, "I", 0x208)
    payload_length: int = _at(0x24C, "I", 0x208)
    setup_data: int = _at(0x250, "Q", 0x209)
    pref_address: int = _at(0x258, "Q", 0x20A)
    init_size: int = _at(0x260, "I", 0x20A)
    handover_offset: int = _at(0x264, "I", 0x20B)
    kernel_info_offset: int = _at(0x268, "I", 0x20F)
    unknown: bytes = b""

    def __attrs_post_init__(self) -> None:
        self.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> SetupHeader:
        """The header in the bytes from offset 0x1f1 up to its end; fields that its version lacks stay 0."""
        version = int.from_bytes(data[VERSION - START : VERSION - START + 2], "little")
        values = {
            name: struct.unpack_from(form, data, offset - START)[0]
            for name, (offset, form, since) in _fields().items()
            if since <= version and offset - START + struct.calcsize(form) <= len(data)
        }
        return cls(**values, unknown=data[_known_end() - START :])

    def to_bytes(self) -> bytes:
        """The bytes from offset 0x1f1 up to the end of the last field."""
        out = bytearray(_known_end() - START)
        for name, (offset, form, _) in _fields().items():
            try:
                struct.pack_into(form, out, offset - START, getattr(self, name))
            except struct.error as error:
                raise PlanError(f"setup header: {name} is {getattr(self, name):#x}, but {error}") from error
        if len(self.unknown) > END_LIMIT - _known_end():
            raise PlanError(f"setup header: {len(self.unknown)} unknown bytes reach beyond {END_LIMIT:#x}")
        return bytes(out) + self.unknown

    def describe(self) -> str:
        """The fields that are not 0, one a line, as `offset name value`."""
        rows = ((name, offset, getattr(self, name)) for name, (offset, _, _) in _fields().items())
        return "\n".join(f"{offset:#05x}  {name:<22}{_word(value)}" for name, offset, value in rows if value)


def _word(value: int) -> str:
    return f"{value:#x}  {value.words()}" if isinstance(value, Bits) else f"{value:#x}"


@functools.cache
def _fields() -> dict[str, tuple[int, str, int]]:
    """Each field's offset, struct format and first protocol version."""
    found = (each for each in attrs.fields(SetupHeader) if each.metadata)
    return {each.name: (each.metadata["offset"], each.metadata["form"], each.metadata["since"]) for each in found}


@functools.cache
def _known_end() -> int:
    return max(offset + struct.calcsize(form) for offset, form, _ in _fields().values())
