"""No false alarm: plans of every protocol, processors of every mode and after reset, and states made at random."""

import attrs
import pytest
from entry_states import RESET, plan_of, states
from hypothesis import given
from hypothesis import strategies as st

from anyvisor import MachineConfig, assemble, generic_facts
from anyvisor.testing.kernels import tiny_kernel
from anyvisor.x86_64 import selftest
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.entry_checks import CHECKS, check_plan, check_states
from anyvisor.x86_64.modes import MODES, REAL
from anyvisor.x86_64.msrs import Msr, Msrs
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import (
    Activity,
    DebugRegs,
    DescriptorTable,
    MpState,
    Regs,
    SegmentRegister,
    Sregs,
    VcpuEvents,
)
from anyvisor_mock import MockHypervisor
from anyvisor_mock.host_facts import host_facts, host_names
from seen_plans import PROTOCOLS, made

MAKERS = (None, "intel", "amd")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_plan_of_any_protocol_is_fine(protocol, tmp_path):
    assert check_plan(made(tmp_path, protocol)) == []


def test_plans_for_every_host_that_is_known_are_fine(tmp_path):
    config = MachineConfig(kernel=tiny_kernel(tmp_path / "vmlinux"), vcpus=3)
    for facts in (generic_facts(), *map(host_facts, host_names())):
        assert check_plan(assemble(config, facts)) == []


def test_a_plan_that_sets_nothing_is_the_hypervisor_s_own():
    assert check_plan(selftest.plan()) == []
    assert check_plan(plan_of({})) == []
    assert check_states({}) == []


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("maker", MAKERS)
def test_a_processor_after_reset_is_fine(index, maker):
    found = {type(state): state for state in reset_states(index)}
    assert check_states(found, rules=maker) == []
    assert check_plan(plan_of(found)) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("maker", MAKERS)
def test_a_processor_of_any_mode_is_fine(mode, maker):
    assert check_states(states(mode), rules=maker) == []
    assert check_plan(plan_of(states(mode))) == []


def test_what_kvm_says_of_segments_in_real_mode_is_fine():
    """kvm-amd of Linux 6.1 says that a new processor's CS is not accessed, and that its TSS is one of 16 bits."""
    found = states(REAL, cs={"type": 10}, tr={"type": 3})
    assert check_states(found) == []
    assert check_plan(plan_of(found)) == []


def test_both_shadows_at_once_are_how_kvm_says_the_one_of_an_amd_processor():
    assert check_states(states(events={"interrupt_shadow": 3})) == []


@pytest.mark.parametrize("name", host_names())
def test_a_new_vcpu_of_any_host_is_fine_in_all_that_it_says(name):
    with MockHypervisor(host_facts(name)) as mock:
        vcpu = mock.create_vm().create_vcpu(0)
        vcpu.put(mock.facts.supported_state(Cpuid))
        kinds = (Cpuid, Regs, Sregs, MpState, DebugRegs, Msrs, VcpuEvents)
        assert check_states({kind: vcpu.get(kind) for kind in kinds}) == []


# -- anything at all ---------------------------------------------------------------------------------------------------


def numbers(bits):
    return st.one_of(st.integers(0, (1 << bits) - 1), st.sampled_from([0, 1, 1 << bits - 1, (1 << bits) - 1]))


def anything(kind, **known):
    """Any value of such a class: bits and numbers at random, whatever goes together."""
    by_type = {"bool": st.booleans(), "int": numbers(64), "SegmentRegister": segments, "DescriptorTable": tables}
    kinds = {
        each.name: getattr(each.type, "__name__", each.type) for each in attrs.fields(kind)
    }  # once resolved, a class
    fields = {name: by_type.get(type_, numbers(64)) for name, type_ in kinds.items()}
    return st.builds(kind, **fields | known)


segments = st.builds(
    SegmentRegister, base=numbers(64), limit=numbers(32), selector=numbers(16), type=numbers(8), s=st.booleans(),
    dpl=numbers(2), present=st.booleans(), l=st.booleans(), db=st.booleans(), g=st.booleans(), unusable=st.booleans(),
)  # fmt: skip
tables = st.builds(DescriptorTable, numbers(64), numbers(32))
msr_lists = st.dictionaries(st.sampled_from(list(Msr)) | numbers(32), numbers(64), max_size=4).map(
    lambda values: Msrs.of({int(index): value for index, value in values.items()})
)
cpuid_tables = st.lists(
    st.builds(CpuidEntry, st.sampled_from([0, 1, 7, 0x80000001, 0x80000008]), st.just(0), *[numbers(32)] * 4),
    max_size=4,
).map(Cpuid)
any_states = st.fixed_dictionaries(
    {},
    optional={
        Regs: anything(Regs),
        Sregs: anything(Sregs, interrupt_bitmap=numbers(256)),
        MpState: st.builds(MpState, st.sampled_from(Activity)),
        DebugRegs: st.builds(DebugRegs, st.just((0, 0, 0, 0)), numbers(64), numbers(64)),
        VcpuEvents: anything(VcpuEvents, sipi_vector=st.none() | numbers(8)),
        Msrs: msr_lists,
        Cpuid: cpuid_tables,
    },
)


@given(any_states, st.sampled_from(MAKERS))
def test_no_state_is_too_odd_to_be_checked(found, maker):
    names = {check.name for check in CHECKS if check.made_by(maker)}
    for finding in check_states(found, vcpu=0, rules=maker):
        assert finding.check in names
        assert finding.section and finding.found and finding.wanted and str(finding)
    assert {each.check for each in check_plan(plan_of(found))} <= {check.name for check in CHECKS}


@given(any_states)
def test_the_rules_of_all_are_at_least_those_of_each(found):
    both = {each.check for each in check_states(found)}
    assert {each.check for maker in ("intel", "amd") for each in check_states(found, rules=maker)} <= both


def test_a_state_that_is_changed_in_a_field_is_reset_s_otherwise():
    sregs = attrs.evolve(RESET[Sregs], cr3=1 << 63)
    assert [each.check for each in check_states({Sregs: sregs})] == ["cr3-is-an-address"]
