"""What control registers and MSRs do not take is told with the rule; KVM, which refuses it as well, is the judge."""

import contextlib

import attrs
import pytest
from dead_guests import CODE, PAGE_TABLES, REGS, SREGS, UNMAPPED, dead, first, plan

from anyvisor import open_hypervisor
from anyvisor.bus import Bus
from anyvisor.diagnosis import report
from anyvisor.exits import FailEntry, GuestException, Halted, Shutdown
from anyvisor.facts import Capability
from anyvisor.memory import MIB, RamRegion, Region
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.diagnosis.control_faults import refused_write
from anyvisor.x86_64.diagnosis.faults import fault_at
from anyvisor.x86_64.diagnosis.instruction import take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.modes import PROTECTED, enter
from anyvisor.x86_64.state import DescriptorTable, Sregs
from needed_kvm import need_kvm

TO_CR0, TO_CR3, TO_CR4, WRMSR, RDMSR = b"\x0f\x22\xc0", b"\x0f\x22\xd8", b"\x0f\x22\xe0", b"\x0f\x30", b"\x0f\x32"
EFER, LSTAR, PAT = 0xC0000080, 0xC0000082, 0x277
HLT = b"\xf4"
TABLE = 0x200000


def msr(index, value):
    return {"rcx": index, "rax": value & 0xFFFFFFFF, "rdx": value >> 32}


REFUSED = {
    "paging-needs-protection": (TO_CR0, {"rax": 0x80000010}),
    "paging-stays-in-64-bit-code": (TO_CR0, {"rax": 0x11}),
    "cr0-has-32-bits": (TO_CR0, {"rax": 0x180000011}),
    "nw-needs-cd": (TO_CR0, {"rax": 0xA0000011}),
    "long-mode-needs-pae": (TO_CR4, {"rax": 0}),
    "cr4-reserved": (TO_CR4, {"rax": 0x8020}),
    "cr3-is-an-address": (TO_CR3, {"rax": 1 << 60 | PAGE_TABLES}),
    "lme-needs-paging-off": (WRMSR, msr(EFER, 0)),
    "efer-reserved": (WRMSR, msr(EFER, 1 << 40 | 0x500)),
    "msrs-are-canonical": (WRMSR, msr(LSTAR, 1 << 62)),
    "pat-names-types": (WRMSR, msr(PAT, 2)),
}
LAX = {"cr0-has-32-bits", "pat-names-types"}
"""What software KVM takes, and a processor does not."""
EMULATED_LAX = {*LAX, "msrs-are-canonical"}
"""What QEMU's processors take. A CR3 that is none they take as well, and refuse the entry with it."""
TAKEN = {
    "CR0 as it is": (TO_CR0, {"rax": 0x80000011}),
    "CR0 with the cache off": (TO_CR0, {"rax": 0xE0000011}),
    "CR3 as it is": (TO_CR3, {"rax": PAGE_TABLES}),
    "CR4 with more": (TO_CR4, {"rax": 0xA0}),
    "EFER as it is": (WRMSR, msr(EFER, 0x500)),
    "EFER without LMA, which nobody can write": (WRMSR, msr(EFER, 0x100)),
    "LSTAR": (WRMSR, msr(LSTAR, (1 << 64) - 4096)),
    "PAT": (WRMSR, msr(PAT, 0x0007040600070406)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_told_with_the_rule_and_what_to_do(name):
    code, regs = REFUSED[name]
    found = report(dead(code, regs=regs)).likely
    assert (found.name, found.weight) == (name, 88)
    assert "which is refused: " in found.because[0]
    assert "give the guest a handler" not in found.remedy


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_raises_nothing(name):
    code, regs = TAKEN[name]
    assert fault_at(Scene(dead(code, regs=regs)), CODE) is None


def test_a_rule_that_is_broken_already_is_not_what_a_write_breaks():
    broken = {"sregs": {"cr4": 0x80000020}}
    assert fault_at(Scene(dead(TO_CR0, regs={"rax": 0x80000011}, **broken)), CODE) is None


@pytest.fixture(scope="module")
def kvm():
    need_kvm()
    with open_hypervisor("kvm") as hypervisor:
        yield hypervisor


def run_on(kvm, code, regs):
    """How a guest ends that executes the code in long mode, and HLT behind it."""
    made = plan(code + HLT)
    with contextlib.closing(RamRegion(Region(0, 4 * MIB, "RAM"))) as ram, kvm.create_vm() as vm:
        ram.view[:] = made.read(0, 4 * MIB)
        vm.map_memory(ram)
        vcpu = vm.create_vcpu(0)
        vcpu.put(kvm.facts.supported_state(Cpuid))
        now = vcpu.get(Sregs)
        vcpu.put(attrs.evolve(SREGS, apic_base=now.apic_base, idt=DescriptorTable(0, 0)))
        vcpu.put(attrs.evolve(REGS, **regs))
        return vcpu.run(Bus())


@pytest.mark.kvm
@pytest.mark.parametrize("name", [*REFUSED, *TAKEN])
def test_kvm_refuses_the_same(name, kvm):
    """Where a VM has its interrupt controllers in the kernel a HLT waits; here it has none."""
    exit_ = run_on(kvm, *(REFUSED.get(name) or TAKEN[name]))
    if name in TAKEN:
        assert isinstance(exit_, Halted)
    else:
        lax = EMULATED_LAX if kvm.facts.has(Capability.NATIVE) else LAX
        assert isinstance(exit_, Shutdown | FailEntry) or name in lax
        told = [each.vector for each in exit_.exceptions] if isinstance(exit_, Shutdown) else []
        assert told[:1] in ([], [13]) or kvm.facts.has(Capability.NATIVE)


# -- what nobody here knows a rule about -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (RDMSR, "reads MSR 0x12345, and this processor refuses: it has no such register"),
        (
            WRMSR,
            "writes 0x7 to MSR 0x12345, and this processor refuses: it has no such register, or not with that value",
        ),
    ],
)
def test_an_msr_that_the_processor_refuses_is_named(code, words):
    told = Shutdown((GuestException(13, 0, rip=CODE),))
    found = report(dead(code, exit_=told, regs=msr(0x12345, 7))).likely
    assert found.name == "general-protection"
    assert words in found.because[0]
    assert first(dead(code, regs=msr(0x12345, 7))) == "unknown-exception"  # nobody has told


def test_a_selector_in_an_error_code_is_looked_up():
    told = Shutdown((GuestException(13, 0x48, rip=CODE),))
    found = report(dead(b"\x48\xcf", exit_=told)).likely  # iretq
    assert found.name == "selector-beyond-gdt"


def test_a_program_is_told_from_the_kernel():
    user = attrs.evolve(SREGS.ss, dpl=3)
    fault = fault_at(Scene(dead(TO_CR0, regs={"rax": 0x80000011}, sregs={"ss": user})), CODE)
    assert "is for the kernel only" in fault.why


# -- the top table of PAE paging ---------------------------------------------------------------------------------------

PAE = attrs.evolve(enter(PROTECTED, SREGS), cr3=TABLE, cr4=0x20)


@pytest.mark.parametrize("entry", [0x3003, 0x3001])
@pytest.mark.parametrize(
    ("code", "paging"),
    [(TO_CR0, {"cr0": 0x11}), (TO_CR3, {"cr0": 0x80000011, "cr3": CODE})],
    ids=["paging is switched on", "another table"],
)
def test_a_reserved_bit_in_it_is_refused_when_it_is_loaded(entry, code, paging):
    value = TABLE if code == TO_CR3 else 0x80000011
    tables = {TABLE: entry.to_bytes(8, "little"), CODE + 0x1000: bytes(8)}
    sregs = attrs.asdict(attrs.evolve(PAE, **paging), recurse=False)
    scene = Scene(dead(code, regs={"rax": value}, sregs=sregs, written=tables))
    found = list(_refusals(scene))
    assert [each.check for each in found] == ["pdptes-are-valid"] * (entry == 0x3003)
    assert all("PDPTE 0 has reserved bits 0x2 set in memory" in each.why for each in found)


def _refusals(scene):
    return refused_write(scene, CODE, take_apart(scene.guest_memory(CODE, 15), 32))


def test_unmapped_is_not_what_is_looked_at_here():
    assert fault_at(Scene(dead(TO_CR3, regs={"rax": UNMAPPED})), CODE) is None
