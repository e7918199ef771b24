"""Real KVM agrees: what it runs is not refused here, and what its processor refuses has a finding.

Seen of a HLT in long mode (unless said) with one fault each. `refused` is KVM_EXIT_FAIL_ENTRY, `EINVAL` is put's. Linux
6.1 is kvm-amd in an emulated machine, Linux 6.18 software KVM. None of them is Intel's, whose rules are the manual's.

    fault                                      Linux 6.1        Linux 6.18
    L and D of CS                              refused          runs
    EFER with a reserved bit                   refused          runs
    CR3 beyond its bits, protected mode        refused          runs
    CR3 beyond its bits                        EINVAL           EINVAL
    LME without LMA, LMA in protected mode     EINVAL           EINVAL
    CR0.NW without CD                          EINVAL           EINVAL
    CR4: reserved bit, CET, VMXE, and          EINVAL           EINVAL
      PCIDE in protected mode (no PCID)
    CS.L in protected mode                     EINVAL           EINVAL
    CS of type 3, 7 or 10, or not present      runs             runs (3, 10, not present)
    CS with a base beyond 32 bits              runs             runs
    SS of type 1; DS of type 2                 runs             runs
    SS.DPL 3 with CS.DPL 0                     triple fault     triple fault
    TR of type 9, unusable, or with TI         runs             runs
    GS: a limit that G cannot say              runs             runs
    FS, GDTR: bases that are not canonical     runs             runs
    RFLAGS 0, or reserved bits, or VM          runs             runs
    RIP not canonical                          triple fault     triple fault
    RIP beyond 32 bits in protected mode       runs             triple fault
    an interrupt injected with IF clear        triple fault     triple fault
"""

import contextlib
import os

import attrs
import pytest

from anyvisor import MachineConfig, assemble, launch, open_hypervisor
from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError, HypervisorUnavailable
from anyvisor.exits import FailEntry
from anyvisor.facts import Capability
from anyvisor.memory import MIB, RamRegion, Region
from anyvisor.testing.kernels import tiny_kernel
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.entry_checks import check_plan, check_states
from anyvisor.x86_64.modes import LONG, PROTECTED, enter
from anyvisor.x86_64.paging import PageTables
from anyvisor.x86_64.state import VCPU_STATES, Regs, Sregs

CODE, PAGE_TABLES, HLT = 0x1000, 0x9000, b"\xf4"
RESET_BY_KEYBOARD = bytes([0xB0, 0xFE, 0xE6, 0x64, 0xEB, 0xFE])  # mov al, 0xfe; out 0x64, al; jmp .


@pytest.fixture
def kvm():
    try:
        hypervisor = open_hypervisor("kvm")
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(f"to run this: {error}")
    with hypervisor:
        yield hypervisor


def test_a_plan_that_is_fine_is_entered(kvm, tmp_path):
    config = MachineConfig(kernel=tiny_kernel(tmp_path / "vmlinux", RESET_BY_KEYBOARD), memory="64M")
    plan = assemble(config, kvm.facts)
    assert check_plan(plan) == []
    with launch(plan, kvm) as machine:
        assert machine.start().wait(timeout=20).reason == "reset"


def test_a_new_vcpu_is_fine_in_all_that_kvm_says_of_it(kvm):
    known = [kind for kind in VCPU_STATES if kind.__name__ != "Lapic"]
    with kvm.create_vm() as vm:
        vcpu = vm.create_vcpu(0)
        assert check_states({kind: vcpu.get(kind) for kind in known}) == []
        assert check_states({Sregs: vcpu.get(Sregs), Cpuid: kvm.facts.supported_state(Cpuid)}) == []


FAULTS = {
    "cs-has-one-size": (LONG, lambda sregs: {"cs": attrs.evolve(sregs.cs, db=True)}),
    "efer-reserved": (LONG, lambda _: {"efer": Efer(1 << 40 | 0x500)}),
    "lma-is-lme-and-paging": (LONG, lambda _: {"efer": Efer(lme=True)}),
    "long-mode-needs-pae": (LONG, lambda _: {"cr4": Cr4(0)}),
    "nw-needs-cd": (PROTECTED, lambda _: {"cr0": Cr0(pe=True, et=True, nw=True)}),
    "cr0-has-32-bits": (PROTECTED, lambda _: {"cr0": Cr0(1 << 32 | 0x11)}),
    "cr4-reserved": (LONG, lambda _: {"cr4": Cr4(0x20 | 1 << 15)}),
    "cr3-is-an-address": (PROTECTED, lambda _: {"cr3": 1 << 60}),
    "code-64-needs-long-mode": (PROTECTED, lambda sregs: {"cs": attrs.evolve(sregs.cs, l=True, db=False)}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_kvm_or_its_processor_refuses_has_a_finding(name, kvm):
    mode, fault = FAULTS[name]
    with contextlib.closing(RamRegion(Region(0, MIB, "RAM"))) as ram, kvm.create_vm() as vm:
        tables = PageTables.identity(2 * MIB, root=PAGE_TABLES).to_bytes()
        ram.view[PAGE_TABLES : PAGE_TABLES + len(tables)] = tables
        ram.view[CODE : CODE + len(HLT)] = HLT
        vm.map_memory(ram)
        vcpu = vm.create_vcpu(0)
        vcpu.put(kvm.facts.supported_state(Cpuid))
        good = enter(mode, vcpu.get(Sregs), page_table=PAGE_TABLES)
        bad = attrs.evolve(good, **fault(good))
        assert name in {each.check for each in check_states({Sregs: bad})}
        assert check_states({Sregs: good}) == []
        try:
            vcpu.put(bad)
        except HypervisorError:
            return
        vcpu.put(Regs(rip=CODE))
        assert isinstance(vcpu.run(Bus()), FailEntry) or not kvm.facts.has(Capability.NATIVE)
