"""What the processor refuses to enter, and KVM takes; what KVM repairs before; and what it refuses to take."""

import attrs

from anyvisor.acts import Halt
from anyvisor.exits import FailEntry
from anyvisor.x86_64.control import Cr0, Efer
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL, enter
from anyvisor.x86_64.paging import PageTables
from anyvisor.x86_64.state import DescriptorTable, Regs, Sregs
from rule_cases.case import accepted, case

CODE, PAGE_TABLES = 0x1000, 0x9000
MIB = 1 << 20
HLT = b"\xf4"


def entered(bench, mode, *, rip=CODE, rflags=2, segments=(), **fields):
    """What comes of a first HLT: that it halted, or in which words the processor refused."""
    vm, ram = bench.vm(), bench.ram(0, MIB)
    tables = PageTables.identity(2 * MIB, root=PAGE_TABLES).to_bytes()
    ram.view[PAGE_TABLES : PAGE_TABLES + len(tables)] = tables
    ram.view[CODE : CODE + len(HLT)] = HLT
    vm.map_memory(ram)
    vcpu = vm.create_vcpu(0)
    vcpu.put(bench.facts.supported_state(Cpuid))
    sregs = enter(mode, vcpu.get(Sregs), page_table=PAGE_TABLES)
    changed = {name: attrs.evolve(getattr(sregs, name), **more) for name, more in dict(segments).items()}
    vcpu.put(attrs.evolve(sregs, **changed, **fields))
    vcpu.put(Regs(rip=rip, rflags=rflags))
    if hasattr(vcpu, "play"):
        vcpu.play([Halt()])
    found = vcpu.run(bench.bus)
    if not isinstance(found, FailEntry):
        return type(found).__name__
    return found.cause


# -- what every processor enters, or KVM repairs -----------------------------------------------------------------------

for _mode in (REAL, PROTECTED, LONG):
    case(None, f"{_mode} mode is entered")(lambda bench, mode=_mode: entered(bench, mode))


@accepted
def flags_are_repaired_and_entered(bench):
    return entered(bench, LONG, rflags=0)


@accepted
def segments_that_are_not_accessed_are_entered(bench):
    return entered(bench, LONG, segments={"cs": {"type": 10}, "ds": {"type": 2}})


@accepted
def data_that_is_not_present_is_entered(bench):
    return entered(bench, LONG, segments={"ds": {"present": False}, "es": {"unusable": True}})


@accepted
def cr0_with_a_reserved_bit_is_entered(bench):
    return entered(bench, PROTECTED, cr0=Cr0(1 << 6 | 0x11))


# -- what only one maker's processors refuse: the mock's do as those of the host ---------------------------------------


@accepted
def a_tss_that_is_not_busy(bench):
    return entered(bench, LONG, segments={"tr": {"type": 9}})


@accepted
def a_base_that_is_not_canonical(bench):
    return entered(bench, LONG, segments={"fs": {"base": 1 << 48}}, gdt=DescriptorTable(1 << 48, 0xFF))


@accepted
def a_limit_that_its_granularity_cannot_say(bench):
    return entered(bench, LONG, segments={"gs": {"g": False}})


@accepted
def cr3_beyond_the_address_bits_without_paging(bench):
    return entered(bench, PROTECTED, cr3=1 << 60)


# -- what all refuse but software KVM, and so the mock of its facts ----------------------------------------------------


@accepted
def a_64_bit_code_segment_with_d_is_not_entered(bench):
    return entered(bench, LONG, segments={"cs": {"db": True}})


@accepted
def a_reserved_bit_of_efer_is_not_entered(bench):
    return entered(bench, LONG, efer=Efer(1 << 40 | 0x500))
