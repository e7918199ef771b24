"""Large machines on KVM: APIC ids of more than eight bits, RAM far above 4 GiB, and kernels of a few dozen bytes."""

import os
import struct

import attrs
import pytest

import anyvisor
from anyvisor.config import MachineConfig, Topology
from anyvisor.facts import Capability
from anyvisor.memory import GIB, TIB, format_size
from anyvisor.plan import Blob
from anyvisor.x86_64.control import ApicBase
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.state import Activity, MpState, Sregs
from anyvisor.x86_64.topology import apic_ids
from elves import tiny_elf

pytestmark = pytest.mark.kvm

IS_EMULATED = os.environ.get("ANYVISOR_EMULATED") == "1"
MANY = Topology(sockets=150, cores=2)
GAPS = Topology(dies=5, cores=5, threads=5)
"""125 vCPUs, the last of which has the APIC id 292."""
START_UP = 0x2000
"""Where an application processor begins: the page that its start-up interrupt names."""
BY_CPUID, BY_MSR, OF_THE_LAST = 0x3000, 0x3004, 0x3008
RESET = bytes([0xB0, 0xFE, 0xE6, 0x64,                    # mov al, 0xfe; out 0x64, al: the keyboard controller's reset
               0xF4, 0xEB, 0xFD])  # hlt; jmp .-1                         # fmt: skip


def command(destination, value):
    """Write the interrupt command register of an x2APIC."""
    return struct.pack(
        "<BIBIBI2s",
        0xB9, 0x830,                                      # mov ecx, 0x830
        0xBA, destination,                                # mov edx, destination
        0xB8, value,                                      # mov eax, value
        b"\x0f\x30",                                      # wrmsr
    )  # fmt: skip


def waking(last_id):
    """The boot processor's code: it stores its id, as two tell it, and starts the processor with the last id."""
    return b"".join([
        bytes([0xB8, 0x0B, 0, 0, 0,                       # mov eax, 0xb
               0x31, 0xC9,                                # xor ecx, ecx
               0x0F, 0xA2,                                # cpuid
               0x89, 0x14, 0x25]), struct.pack("<I", BY_CPUID),          # mov [BY_CPUID], edx
        bytes([0xB9, 0x02, 0x08, 0, 0,                    # mov ecx, 0x802: the local APIC's id
               0x0F, 0x32,                                # rdmsr
               0x89, 0x04, 0x25]), struct.pack("<I", BY_MSR),            # mov [BY_MSR], eax
        command(last_id, 0x4500),                         # INIT
        command(last_id, 0x4600 | START_UP >> 12),        # SIPI
        bytes([0x83, 0x3C, 0x25]), struct.pack("<IB", OF_THE_LAST, 0),   # wait: cmp dword [OF_THE_LAST], 0
        bytes([0x74, 0xF6]),                              # je wait
        RESET,
    ])  # fmt: skip


STORE_ID = bytes([0x66, 0xB9, 0x02, 0x08, 0, 0,           # mov ecx, 0x802
                  0x0F, 0x32,                             # rdmsr
                  0x66, 0xA3, OF_THE_LAST & 0xFF, OF_THE_LAST >> 8,      # mov [OF_THE_LAST], eax
                  0xF4, 0xEB, 0xFD])  # hlt; jmp .-1                     # fmt: skip


def planned(kvm, tmp_path, code, **config):
    kernel = tiny_elf(tmp_path / "vmlinux", code)
    return anyvisor.assemble(MachineConfig(kernel=kernel, **config), kvm.facts)


def wide(kvm, tmp_path, topology, code=RESET):
    if not kvm.facts.has(Capability.X2APIC) or kvm.facts.max_vcpus < topology.vcpus:
        pytest.skip(f"KVM here has no x2APIC ids of 32 bits, or not {topology.vcpus} vCPUs; run a newer kernel")
    return planned(kvm, tmp_path, code, memory="64M", vcpus=topology.vcpus, topology=topology, tables="none")


def sizes():
    """The emulated processor takes too long to make hundreds."""
    return [GAPS] if IS_EMULATED else [GAPS, MANY]


@pytest.mark.parametrize("topology", sizes(), ids=str)
def test_the_boot_processor_starts_the_one_with_the_last_id(kvm, tmp_path, topology):
    last = apic_ids(topology)[-1]
    assert last > 255
    plan = wide(kvm, tmp_path, topology, waking(last))
    plan = attrs.evolve(plan, blobs=(*plan.blobs, Blob("start-up code", START_UP, STORE_ID)))
    with anyvisor.launch(plan, kvm) as machine:
        machine.start()
        assert machine.wait(60).reason == "reset"
        seen = struct.unpack("<III", machine.memory.read(BY_CPUID, 12))
    assert seen == (0, 0, last)


def test_every_local_apic_is_in_x2apic_mode_with_its_id_and_the_others_wait(kvm, tmp_path):
    plan = wide(kvm, tmp_path, GAPS)
    with anyvisor.launch(plan, kvm) as machine:
        found = [(vcpu.get(Lapic).id, vcpu.get(Sregs).apic_base, vcpu.get(MpState).activity) for vcpu in machine.vcpus]
    waiting, base = Activity.UNINITIALIZED, ApicBase(0xFEE00C00)
    wanted = [(each, base, waiting) for each in apic_ids(GAPS)]
    assert found == [(0, ApicBase(0xFEE00D00), Activity.RUNNABLE), *wanted[1:]]


def test_what_a_local_apic_with_a_wide_id_gave_can_be_put_back(kvm, tmp_path):
    with anyvisor.launch(wide(kvm, tmp_path, GAPS), kvm) as machine:
        vcpu = machine.vcpus[-1]
        for kind in (Sregs, Lapic, MpState):
            before = vcpu.get(kind)
            vcpu.put(before)
            assert vcpu.get(kind) == before


PATTERN = 0x5A17


def ram_sizes():
    """The emulated processor has 40 address bits: 1 TiB behind the MMIO gap is beyond them."""
    return [4 * GIB, 64 * GIB, TIB // 2 if IS_EMULATED else TIB]


def touching(address):
    """Store a pattern at an address of 64 bits, and read it back into the low megabyte."""
    return b"".join([
        bytes([0x48, 0xBB]), struct.pack("<Q", address),                 # mov rbx, address
        bytes([0xC7, 0x03]), struct.pack("<I", PATTERN),                 # mov dword [rbx], PATTERN
        bytes([0x8B, 0x03,                                # mov eax, [rbx]
               0x89, 0x04, 0x25]), struct.pack("<I", BY_MSR),            # mov [BY_MSR], eax
        RESET,
    ])  # fmt: skip


@pytest.mark.parametrize("size_bytes", ram_sizes(), ids=format_size)
def test_a_guest_reaches_the_last_page_of_its_ram(kvm, tmp_path, size_bytes):
    last_page = size_bytes + GIB - 4096  # behind the gap of 1 GiB
    plan = planned(kvm, tmp_path, touching(last_page + 0x40), memory=size_bytes, tables="none")
    with anyvisor.launch(plan, kvm, overcommit=True) as machine:
        machine.start()
        assert machine.wait(60).reason == "reset"
        assert machine.memory.read(BY_MSR, 4) == struct.pack("<I", PATTERN)
        assert machine.memory.read(last_page, 0x44)[0x40:] == struct.pack("<I", PATTERN)
