"""A plan and facts that have a bit of everything, for the tests of the codec."""

import json
from pathlib import Path

import attrs

from anyvisor.codec import from_data, to_data
from anyvisor.facts import Capability, HostFacts
from anyvisor.memory import Region
from anyvisor.plan import Blob, BootPlan, DeviceSpec, FileSlice, Step, VcpuPlan
from anyvisor.states import Change
from anyvisor.x86_64.chips import Clock, Ioapic, Irqchip, Pit
from anyvisor.x86_64.control import Cr0, Rflags
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.lapic import boot_lapic
from anyvisor.x86_64.msrs import MsrEntry, Msrs, boot_msrs
from anyvisor.x86_64.state import Activity, MpState, Regs, SegmentRegister, Sregs, VcpuEvents


def over_json(value, kind):
    return from_data(json.loads(json.dumps(to_data(value))), kind, "it")


def same(one, other):
    """Equal, and of the same types all the way down: a Cr0 is not a plain int, True is not 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Change):
        return one.kind is other.kind and one.fields.keys() == other.fields.keys() and all(
            same(one.fields[name], other.fields[name]) for name in one.fields
        )  # fmt: skip
    if attrs.has(type(one)):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in attrs.fields(type(one)))
    return one == other


def full_plan():
    return BootPlan(
        "x86_64",
        ram=(Region(0, 1 << 20, "RAM"),),
        reserved=(Region(3 << 30, 1 << 30, "MMIO gap"),),
        blobs=(
            Blob("gdt", 0x500, bytes(range(256)), provided_by="linux"),
            Blob("initrd", 0x1000, FileSlice(Path("/boot/initrd"), 4096, 512), size_bytes=1024),
        ),
        vm_states_before=(Irqchip(ioapic=Ioapic(id=3)), Pit(flags=1)),
        vcpus=(
            VcpuPlan(
                0,
                (
                    Cpuid((CpuidEntry(0xB, 1, 3, indexed=True),)),
                    boot_msrs(),
                    Change(Sregs, cr0=Cr0(pe=True), cs=SegmentRegister(limit=0xFFFFFFFF)),
                    Regs(rip=1 << 63, rflags=Rflags(2)),
                    boot_lapic(boot_processor=True),
                    VcpuEvents(sipi_vector=None),
                ),
            ),
            VcpuPlan(1, (MpState(Activity.UNINITIALIZED),)),
        ),
        vm_states_after=(Clock(5),),
        devices=(
            DeviceSpec("serial", "ttyS0", ports=(Region(0x3F8, 8),), gsi=4, settings={"a": "1", "b": 1, "c": True}),
        ),
        steps=(Step("anyvisor_gdt", "linux", ("mine",)),),
    )


def full_facts():
    return HostFacts(
        "kvm",
        "x86_64",
        capabilities=frozenset(Capability),
        states=("x86_64.Cpuid",),
        supported=(Cpuid((CpuidEntry(0, eax=5),)), Msrs((MsrEntry(0x10),))),
        notes=("software KVM",),
    )
