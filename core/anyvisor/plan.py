"""The boot plan: everything that is done to a fresh VM before its first instruction, as one frozen value.

A `BootPlan` says which RAM there is, which bytes lie where in it, which states the VM and its vCPUs get and which
devices answer. It knows no hypervisor. It refuses to exist when its pieces do not fit together, naming both.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from anyvisor.codec import from_data, name_of, to_data
from anyvisor.errors import PlanError
from anyvisor.memory import Region, format_size
from anyvisor.states import Change, VcpuState, VmState

FORMAT = 1
"""The version of the JSON form; raised when an older reader would misread it."""


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


@attrs.frozen
class Kernel:
    """A kernel image with a place in guest memory: what `anyvisor_load_kernel` returns.

    `entry` is the guest-physical address of the first instruction, under `protocol` (`linux64`: the 64-bit Linux boot
    protocol). `command_line_limit` is the longest command line it takes, in bytes without the closing NUL;
    `initrd_limit` the highest address an initrd's last byte may have. `setup_header` holds the boot protocol's header
    as the file has it (x86: from offset 0x1f1 of a bzImage), empty for an image without one.
    """

    protocol: str
    entry: int
    blobs: tuple[Blob, ...]
    command_line_limit: int
    initrd_limit: int
    setup_header: bytes = attrs.field(default=b"", repr=lambda header: f"<{len(header)} bytes>")

    @property
    def end(self) -> int:
        """The first address after everything the image takes up."""
        return max(blob.region.end for blob in self.blobs)


@attrs.frozen
class FirmwareTables:
    """Tables that firmware would leave for the OS (MP table, ACPI): their bytes, and where the first pointer lies."""

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
    """A boot step that was taken: the hook's name, who provided the result, and who adjusted it."""

    hook: str
    provided_by: str
    adjusted_by: tuple[str, ...] = ()


@attrs.frozen
class BootPlan:
    """All of a machine's boot, as a value. See the module's docstring; made by `assemble`, carried out by `launch`.

    `ram` are the regions of RAM; `reserved` the address ranges that must stay free of RAM (the MMIO gap).
    `vm_states_before` are put before the first vCPU is created, `vm_states_after` after the last. A `deterministic`
    plan is made for counted time (see `Hypervisor.create_vm`).
    """

    architecture: str
    ram: tuple[Region, ...]
    reserved: tuple[Region, ...] = ()
    blobs: tuple[Blob, ...] = ()
    vm_states_before: tuple[VmState, ...] = ()
    vcpus: tuple[VcpuPlan, ...] = ()
    vm_states_after: tuple[VmState, ...] = ()
    devices: tuple[DeviceSpec, ...] = ()
    steps: tuple[Step, ...] = ()
    deterministic: bool = False
    format: int = FORMAT

    def __attrs_post_init__(self) -> None:
        _check_ranges([*self.ram, *self.reserved], 1 << 64)
        _refuse_overlaps([*self.ram, *self.reserved], "memory")
        _refuse_overlaps([blob.region for blob in self.blobs if blob.size_bytes], "anyvisor_memory_layout")
        for blob in self.blobs:
            self._check_in_ram(blob)
        self._check_devices()
        if [vcpu.index for vcpu in self.vcpus] != list(range(len(self.vcpus))):
            raise PlanError(f"vCPUs must be numbered 0, 1, 2...; the plan has {[vcpu.index for vcpu in self.vcpus]}")
        if len({vcpu.hardware_id for vcpu in self.vcpus}) < len(self.vcpus):
            raise PlanError(f"two vCPUs share a hardware id: {[vcpu.hardware_id for vcpu in self.vcpus]}")

    def _check_devices(self) -> None:
        ports = [device.named(region) for device in self.devices for region in device.ports]
        mmio = [device.named(region) for device in self.devices for region in device.mmio]
        _check_ranges(ports, 1 << 16)
        _check_ranges(mmio, 1 << 64)
        _refuse_overlaps(ports, "anyvisor_devices")
        _refuse_overlaps([*mmio, *self.ram], "anyvisor_devices")

    def _check_in_ram(self, blob: Blob) -> None:
        region = blob.region
        if any(ram.contains(region.start, region.size_bytes) for ram in self.ram):
            return
        for hole in self.reserved:
            if region.overlaps(hole):
                raise PlanError(
                    f"{region} lies over the {hole}, where there is no RAM; move it in anyvisor_memory_layout"
                )
        have = ", ".join(str(ram) for ram in self.ram) or "none"
        raise PlanError(
            f"{region} ({format_size(region.size_bytes)}) is outside RAM ({have}); "
            "give the machine more memory, or move it"
        )

    def blob(self, name: str) -> Blob:
        """The piece of that name; PlanError when there is none."""
        for each in self.blobs:
            if each.name == name:
                return each
        raise PlanError(f"the plan has no piece {name!r}; it has {', '.join(each.name for each in self.blobs)}")

    def read(self, guest_address: int, size_bytes: int) -> bytes:
        """What the guest's memory holds there at its first instruction; file contents are read from the files."""
        found = bytearray(size_bytes)
        for blob in self.blobs:
            start = max(guest_address, blob.guest_address)
            end = min(guest_address + size_bytes, blob.guest_address + len(blob.content))
            if start < end:
                found[start - guest_address : end - guest_address] = _part(
                    blob, start - blob.guest_address, end - start
                )
        return bytes(found)

    def describe(self) -> str:
        """The memory map as text, in address order: RAM, gaps, and every piece with the plugin that placed it."""
        rows = [
            (region.start, 0, f"{region.name or 'RAM'} ({format_size(region.size_bytes)})", region)
            for region in self.ram
        ]
        rows += [(region.start, 0, region.name, region) for region in self.reserved]
        rows += [
            (
                blob.guest_address,
                1,
                f"  {blob.name}{f'  [{blob.provided_by}]' if blob.provided_by else ''}",
                blob.region,
            )
            for blob in self.blobs
        ]
        lines = [
            f"{each.start:#014x} - {each.end - 1:#014x}  {text}"
            for _, _, text, each in sorted(rows, key=lambda row: row[:2])
        ]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The plan as JSON text; `from_json` gives an equal plan. File contents stay references to their files."""
        return json.dumps(to_data(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> BootPlan:
        """A plan from `to_json`; PlanError when the text is no plan, or none that this version understands."""
        try:
            data: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"boot plan is not JSON: {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else None
            raise PlanError(f"boot plan has format {found}; this anyvisor reads format {FORMAT}")
        return from_data(data, cls, "boot plan")


def state_names(states: Iterable[VcpuState | VmState | Change]) -> list[str]:
    """The portable names of states and changes, in their order."""
    return [each.name if isinstance(each, Change) else name_of(type(each)) for each in states]


def _check_ranges(regions: list[Region], limit: int) -> None:
    for region in regions:
        if region.start < 0 or region.size_bytes <= 0 or region.end > limit:
            where = f"{region.size_bytes} bytes at {region.start:#x}"
            raise PlanError(f"{region.name or 'a region'}: {where} is empty or not within 0-{limit - 1:#x}")


def _refuse_overlaps(regions: list[Region], remedy: str) -> None:
    for first, second in itertools.pairwise(sorted(regions)):  # of sorted regions, neighbours overlap if any do
        if first.overlaps(second):
            raise PlanError(f"{first} overlaps {second}; move one in {remedy}")


def _part(blob: Blob, offset: int, size_bytes: int) -> bytes:
    if isinstance(blob.content, bytes):
        return blob.content[offset : offset + size_bytes]
    with blob.content.path.open("rb") as file:
        file.seek(blob.content.offset + offset)
        return file.read(size_bytes)
