"""The boot plan: everything that is done to a fresh VM before its first instruction, as one frozen value.

A `BootPlan` says which RAM there is, which bytes lie where in it, which states the VM and its vCPUs get and which
devices answer. It knows no hypervisor. It refuses to exist when its pieces do not fit together, naming both.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import attrs

from anyvisor.codec import from_data, name_of, to_data
from anyvisor.errors import PlanError
from anyvisor.memory import Region, format_size
from anyvisor.pieces import Blob, DeviceSpec, FileSlice, FirmwareTables, Kernel, Step, VcpuPlan
from anyvisor.states import Change, VcpuState, VmState

if TYPE_CHECKING:
    from anyvisor.difference.plan import PlanDiff

__all__ = [
    "FORMAT",
    "Blob",
    "BootPlan",
    "DeviceSpec",
    "FileSlice",
    "FirmwareTables",
    "Kernel",
    "Step",
    "VcpuPlan",
    "state_names",
]

FORMAT = 1
"""The version of the JSON form; raised when an older reader would misread it."""


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
                part = blob.read(start - blob.guest_address, end - start)
                found[start - guest_address : start - guest_address + len(part)] = part
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

    def diff(self, other: BootPlan) -> PlanDiff:
        """What `other` has differently, in words: empty, and false, when the two are equal. Print it."""
        from anyvisor.difference.plan import plan_diff  # noqa: PLC0415 - it needs this module, and seldom is needed

        return plan_diff(self, other)

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
