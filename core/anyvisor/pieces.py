"""The pieces that a boot plan is made of: bytes at places, devices, vCPUs and the steps that made them, as values.

They are what boot steps return; `anyvisor.plan` puts them together.
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import Region
from anyvisor.states import Change, VcpuState


@attrs.frozen
class FileSlice:
    """A part of a file, to be read straight into guest memory at launch: `size_bytes` bytes from `offset`."""

    path: Path
    offset: int
    size_bytes: int

    @classmethod
    def whole(cls, path: os.PathLike[str] | str) -> FileSlice:
        """All of a file as it is now."""
        return cls(Path(path), 0, Path(path).stat().st_size)

    def __attrs_post_init__(self) -> None:
        if self.offset < 0 or self.size_bytes < 0 or self.offset + self.size_bytes >= 1 << 63 or "\0" in str(self.path):
            raise PlanError(f"{str(self.path)!r}: no file has {self.size_bytes} bytes at offset {self.offset}")

    def __len__(self) -> int:
        return self.size_bytes


@attrs.frozen
class Blob:
    """Bytes at a guest-physical address. `size_bytes` may be more than the content: the rest stays zero, kept free.

    `provided_by` is the plugin that made it, filled in by `assemble`.
    """

    name: str
    guest_address: int
    content: bytes | FileSlice = attrs.field(repr=lambda content: f"<{len(content)} bytes>")
    size_bytes: int = attrs.field(default=attrs.Factory(lambda self: len(self.content), takes_self=True))
    provided_by: str = ""

    def __attrs_post_init__(self) -> None:
        if self.size_bytes < len(self.content):
            raise PlanError(f"{self.name}: {len(self.content)} bytes of content in a piece of {self.size_bytes} bytes")

    @property
    def region(self) -> Region:
        """The addresses it takes up."""
        return Region(self.guest_address, self.size_bytes, self.name)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """A part of the content; that of a file is read from the file."""
        if isinstance(self.content, bytes):
            return self.content[offset : offset + size_bytes]
        with self.content.path.open("rb") as file:
            file.seek(self.content.offset + offset)
            return file.read(size_bytes)


@attrs.frozen
class Kernel:
    """A kernel image with a place in guest memory: what `anyvisor_load_kernel` returns.

    `entry` is the guest-physical address of the first instruction, under `protocol` (`linux64`: the 64-bit Linux boot
    protocol), in the processor mode `mode` (x86_64: real, protected or long). `command_line_limit` is the longest
    command line it takes, in bytes without the closing NUL; `initrd_limit` the highest address an initrd's last byte
    may have. `setup_header` holds the boot protocol's header as the file has it (x86: from offset 0x1f1 of a bzImage),
    empty for an image without one.
    """

    protocol: str
    entry: int
    blobs: tuple[Blob, ...]
    command_line_limit: int
    initrd_limit: int
    setup_header: bytes = attrs.field(default=b"", repr=lambda header: f"<{len(header)} bytes>")
    mode: str = "long"

    @property
    def end(self) -> int:
        """The first address after everything the image takes up."""
        return max(blob.region.end for blob in self.blobs)


@attrs.frozen
class FirmwareTables:
    """Tables that firmware would leave for the OS (MP, ACPI, SMBIOS): their bytes, and where the first pointer lies."""

    pointer: int
    blobs: tuple[Blob, ...]


@attrs.frozen
class DeviceSpec:
    """A device as a value: its `kind` (which factory builds it), its addresses, its interrupt line, its settings.

    The offsets that a device sees count from the start of its first port range, and of its first MMIO range.
    """

    kind: str
    name: str
    ports: tuple[Region, ...] = ()
    mmio: tuple[Region, ...] = ()
    gsi: int | None = None
    settings: dict[str, str | int | bool] = attrs.field(factory=dict)

    def named(self, region: Region) -> Region:
        """One of its ranges under its own name, or under the device's if it has none."""
        return attrs.evolve(region, name=region.name or self.name)


@attrs.frozen
class VcpuPlan:
    """What one vCPU is given, in order: states as they are, and changes to what the hypervisor made.

    `hardware_id` is the number by which the guest and its interrupt controllers know it (x86: the local APIC id).
    """

    index: int
    states: tuple[VcpuState | Change, ...]
    hardware_id: int = attrs.field(default=attrs.Factory(lambda self: self.index, takes_self=True))

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.hardware_id < 1 << 32:
            raise PlanError(f"vCPU {self.index}: its hardware id {self.hardware_id:#x} does not fit in 32 bits")

    def state(self, kind: type[VcpuState]) -> VcpuState | Change | None:
        """The planned state, or change to the state, of that type; None when the vCPU keeps its reset value."""
        for each in self.states:
            if (each.kind if isinstance(each, Change) else type(each)) is kind:
                return each
        return None


@attrs.frozen
class Step:
    """A boot step that was taken: the hook's name, who provided the result, and who adjusted it.

    `dropped` when an adjuster returned None in its place: the machine does without.
    """

    hook: str
    provided_by: str
    adjusted_by: tuple[str, ...] = ()
    dropped: bool = False
