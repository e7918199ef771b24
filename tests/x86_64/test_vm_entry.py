"""The checks of VM entry: what every plan of ours passes, and each rule of SDM Vol. 3, 27.3.1 that can be broken."""

import os

import attrs
import pytest

from anyvisor import MachineConfig, assemble, generic_facts, launch, open_hypervisor
from anyvisor.errors import HypervisorUnavailable
from anyvisor.memory import MIB, Region
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.states import Change
from anyvisor.testing.kernels import tiny_kernel
from anyvisor.x86_64 import selftest
from anyvisor.x86_64.control import Cr0, Cr4, Efer, Rflags
from anyvisor.x86_64.modes import LONG, MODES, enter
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs
from anyvisor.x86_64.vm_entry import problems


def plan(*states):
    return BootPlan("x86_64", (Region(0, MIB),), vcpus=(VcpuPlan(0, states),))


def sregs(mode=LONG):
    reset = next(each for each in reset_states() if isinstance(each, Sregs))
    return enter(mode, reset, page_table=0x9000)


@pytest.mark.parametrize("mode", MODES)
def test_the_registers_of_every_mode_can_be_entered(mode):
    regs = Regs(rflags=Rflags(fixed=True, interrupt_enable=True))
    assert problems(plan(regs, sregs(mode))) == []


def test_what_a_plan_leaves_to_the_hypervisor_is_not_checked(tmp_path):
    assert problems(plan()) == []
    assert problems(selftest.plan()) == []
    config = MachineConfig(kernel=tiny_kernel(tmp_path / "vmlinux"), vcpus=4)
    assert problems(assemble(config, generic_facts())) == []


def test_a_real_processor_or_one_that_pretends_agrees_about_a_plan_that_is_fine(tmp_path):
    """KVM enters it: the guest comes to its HLT, or asks for a reset by a triple fault, and not to a failed entry."""
    try:
        hypervisor = open_hypervisor("kvm")
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(f"to run this: {error}")
    code = bytes([0xB0, 0xFE, 0xE6, 0x64, 0xEB, 0xFE])  # mov al, 0xfe; out 0x64, al; jmp .
    with hypervisor:
        config = MachineConfig(kernel=tiny_kernel(tmp_path / "vmlinux", code), memory="64M")
        made = assemble(config, hypervisor.facts)
        assert problems(made) == []
        with launch(made, hypervisor) as machine:
            assert machine.start().wait(timeout=20).reason == "reset"


SEGMENT_FAULTS = [
    ("cs", {"type": 3}, "CS (0x10) holds no code segment that is marked accessed (type 0x3)"),
    ("cs", {"type": 10}, "CS (0x10) holds no code segment that is marked accessed (type 0xa)"),
    ("cs", {"s": False}, "CS (0x10) holds a system descriptor"),
    ("cs", {"db": True}, "CS (0x10) has both L and D set"),
    ("cs", {"unusable": True}, "CS (0x10) is unusable: its segment is not present"),
    ("cs", {"present": False}, "CS (0x10) is not present: load another segment, or mark the register unusable"),
    ("cs", {"base": 1 << 32}, "CS (0x10) has a base of more than 32 bits (0x100000000)"),
    ("ss", {"type": 1}, "SS (0x18) holds no writable data segment that is marked accessed (type 0x1)"),
    ("ss", {"dpl": 3}, "CS has privilege level 0 and SS 3"),
    ("ds", {"type": 2}, "DS (0x18) holds a segment that is not marked accessed (type 0x2)"),
    ("es", {"type": 9}, "ES (0x18) holds code that cannot be read (type 0x9)"),
    ("es", {"base": 1 << 40}, "ES (0x18) has a base of more than 32 bits (0x10000000000)"),
    ("fs", {"limit": 0xFFFFF}, ""),
    ("fs", {"base": 1 << 40}, ""),
    ("gs", {"limit": 0x12345}, "GS (0x18) has a limit of 0x12345, which its granularity cannot say"),
    ("gs", {"g": False}, "GS (0x18) has a limit of 0xffffffff, which its granularity cannot say"),
    ("gs", {"unusable": True, "type": 0, "present": False}, ""),
    ("tr", {"type": 9}, "TR (0x20) holds no busy task-state segment (type 0x9)"),
    ("tr", {"type": 3}, "TR (0x20) holds no busy task-state segment (type 0x3)"),
    ("tr", {"s": True}, "TR (0x20) holds no system descriptor"),
    ("tr", {"selector": 0x24}, "TR (0x24) is selected from a local descriptor table"),
    ("tr", {"unusable": True}, "TR (0x20) is unusable: its task-state segment is not present"),
]


@pytest.mark.parametrize(("name", "changes", "message"), SEGMENT_FAULTS)
def test_a_segment_register_is_checked_as_the_manual_says(name, changes, message):
    good = sregs()
    bad = attrs.evolve(good, **{name: attrs.evolve(getattr(good, name), **changes)})
    wanted = [f"vCPU 0: {message} (SDM Vol. 3, 27.3.1.2)"] if message else []
    assert problems(plan(bad)) == wanted
    fields = {each.name: getattr(bad, each.name) for each in attrs.fields(Sregs)}
    assert problems(plan(Change(Sregs, **fields))) == wanted


def test_a_local_descriptor_table_is_checked_where_there_is_one():
    good = SegmentRegister(selector=0x30, type=2, present=True, limit=0xFFFF)
    assert problems(plan(attrs.evolve(sregs(), ldt=good))) == []
    found = problems(plan(attrs.evolve(sregs(), ldt=attrs.evolve(good, type=9))))
    assert found == ["vCPU 0: LDT (0x30) holds no local descriptor table (type 0x9) (SDM Vol. 3, 27.3.1.2)"]


def test_a_busy_16_bit_task_is_fine_outside_long_mode_only():
    task = SegmentRegister(selector=0x20, type=3, present=True, limit=0x67)
    assert problems(plan(attrs.evolve(sregs("protected"), tr=task))) == []
    assert problems(plan(attrs.evolve(sregs(), tr=task))) != []


def test_real_mode_has_other_rules():
    odd = SegmentRegister(limit=0xFFFF, type=0, base=0x12340)
    assert problems(plan(attrs.evolve(sregs("real"), cs=odd, tr=odd))) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cr0": Cr0(pg=True), "efer": Efer(0)}, "CR0.PG is set without CR0.PE"),
        ({"efer": Efer(lme=True)}, "EFER.LMA is not what EFER.LME and CR0.PG make it"),
        ({"efer": Efer(lma=True)}, "EFER.LMA is not what EFER.LME and CR0.PG make it"),
        ({"cr0": Cr0(pe=True)}, "EFER.LMA is not what EFER.LME and CR0.PG make it"),
        ({"cr4": Cr4(0)}, "long mode is active without CR4.PAE"),
    ],
)
def test_control_registers_are_checked(changes, message):
    assert problems(plan(attrs.evolve(sregs(), **changes))) == [f"vCPU 0: {message} (SDM Vol. 3, 27.3.1.1)"]


@pytest.mark.parametrize("flags", [0, 0x8002, 1 << 22 | 2, 0x22, 0xA])
def test_flags_have_their_fixed_bits(flags):
    (found,) = problems(plan(Regs(rflags=flags), sregs()))
    assert found == (
        f"vCPU 0: RFLAGS is {flags:#x}: bit 1 must be set, and no reserved bit (SDM Vol. 3, 27.3.1.4)"
    )  # fmt: skip


def test_rip_fits_the_mode():
    assert problems(plan(Regs(rip=1 << 40), sregs())) == []
    (found,) = problems(plan(Regs(rip=1 << 40), sregs("protected")))
    assert found.startswith("vCPU 0: RIP is 0x10000000000, beyond what code outside 64-bit mode reaches")


def test_every_vcpu_is_checked_by_its_number():
    two = (VcpuPlan(0, (sregs(),)), VcpuPlan(1, (attrs.evolve(sregs(), cr4=Cr4(0)),)))
    assert problems(BootPlan("x86_64", (Region(0, MIB),), vcpus=two))[0].startswith("vCPU 1: long mode")
