"""The mock's processor looks at a vCPU before it enters it, with the eyes of its host's maker."""

import attrs
import pytest

from anyvisor.acts import Halt, PortOut
from anyvisor.bus import Bus
from anyvisor.exits import FailEntry, Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.control import Efer
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL, enter
from anyvisor.x86_64.state import Activity, DescriptorTable, MpState, Regs, Sregs, VcpuEvents
from anyvisor_mock import MockHypervisor
from anyvisor_mock.host_facts import host_facts, host_names

INTEL, AMD = host_facts("intel-ice-lake-sp"), host_facts("amd-milan")
CODES = {"intel": 0x80000021, "amd": 0xFFFFFFFF}
CAUSES = {
    "intel": "the guest's state is invalid: VM-entry failure 33, INVALID_STATE (SDM Vol. 3, 27.8)",
    "amd": "the guest's state, or what VMRUN was asked for, is invalid: VMEXIT_INVALID, -1 (APM Vol. 2, 15.5.1 and"
    " appendix C)",
}


@pytest.fixture
def entered():
    """What the first run gives of a vCPU of a host in a mode, with changes to segments and other states."""
    opened = []

    def enter_one(facts, mode=LONG, *states, segments=(), **fields):
        mock = MockHypervisor(facts, script=[PortOut(0x80, 1, 1), Halt()])
        opened.append(mock)
        vcpu = mock.create_vm().create_vcpu(0)
        if facts.supported:
            vcpu.put(facts.supported_state(Cpuid))
        good = enter(mode, vcpu.get(Sregs), page_table=0x9000)
        changed = {name: attrs.evolve(getattr(good, name), **more) for name, more in dict(segments).items()}
        for state in (attrs.evolve(good, **changed, **fields), *states):
            vcpu.put(state)
        bus = Bus()
        return vcpu, bus, vcpu.run(bus)

    yield enter_one
    for mock in opened:
        mock.close()


def refusal(maker):
    return FailEntry(CODES[maker], cause=CAUSES[maker])


ON_BOTH = {
    "CS.L and CS.D": {"segments": {"cs": {"db": True}}},
    "a reserved bit of EFER": {"efer": Efer(1 << 40 | 0x500)},
}
ON_INTEL = {
    "a TSS that is not busy": {"segments": {"tr": {"type": 9}}},
    "no TSS": {"segments": {"tr": {"unusable": True}}},
    "code that is not present": {"segments": {"cs": {"present": False}}},
    "data in CS": {"segments": {"cs": {"type": 7}}},
    "a stack of level 3": {"segments": {"ss": {"dpl": 3}}},
    "a limit without its granularity": {"segments": {"gs": {"g": False}}},
    "a GDT that is nowhere": {"gdt": DescriptorTable(1 << 60, 0xFF)},
}
REPAIRED = {
    "data that is not present": {"segments": {"ds": {"present": False}}},
    "code that is not accessed": {"segments": {"cs": {"type": 10}}},
    "data that is not accessed": {"segments": {"es": {"type": 2}}},
}


@pytest.mark.parametrize("fault", ON_BOTH)
@pytest.mark.parametrize(("maker", "facts"), [("intel", INTEL), ("amd", AMD)])
def test_what_both_makers_refuse_ends_the_run_with_the_maker_s_own_code(fault, maker, facts, entered):
    _, bus, exit_ = entered(facts, **ON_BOTH[fault])
    assert exit_ == refusal(maker)
    assert not bus.unclaimed  # nothing was played


@pytest.mark.parametrize("fault", ON_INTEL)
def test_what_intel_s_processors_refuse_amd_s_enter(fault, entered):
    assert entered(INTEL, **ON_INTEL[fault])[2] == refusal("intel")
    assert entered(AMD, **ON_INTEL[fault])[2] == Halted()


@pytest.mark.parametrize("fault", REPAIRED)
@pytest.mark.parametrize("facts", [INTEL, AMD])
def test_what_kvm_repairs_is_entered(fault, facts, entered):
    assert entered(facts, **REPAIRED[fault])[2] == Halted()
    assert entered(facts, LONG, Regs(rflags=0))[2] == Halted()


@pytest.mark.parametrize("mode", [REAL, PROTECTED, LONG])
@pytest.mark.parametrize("name", host_names())
def test_every_host_enters_every_mode(name, mode, entered):
    assert entered(host_facts(name), mode)[2] == Halted()


def test_flags_and_rip_are_looked_at_on_intel_alone(entered):
    for regs in (Regs(rip=1 << 60), Regs(rflags=1 << 3 | 2), Regs(rflags=1 << 17 | 2)):
        assert entered(INTEL, LONG, regs)[2] == refusal("intel")
        assert entered(AMD, LONG, regs)[2] == Halted()
    injected = VcpuEvents(interrupt_injected=True, interrupt_vector=0x41)
    assert entered(INTEL, LONG, injected)[2] == refusal("intel")
    assert entered(INTEL, LONG, Regs(rflags=0x202), injected)[2] == Halted()


def test_a_put_that_mends_it_is_looked_at_again_and_one_that_breaks_it_too(entered):
    vcpu, bus, exit_ = entered(INTEL, segments={"tr": {"type": 9}})
    assert exit_ == vcpu.run(bus) == refusal("intel")
    sregs = vcpu.get(Sregs)
    vcpu.put(attrs.evolve(sregs, tr=attrs.evolve(sregs.tr, type=11)))
    assert vcpu.run(bus) == Halted()
    vcpu.play([Halt()])
    vcpu.put(sregs)
    assert vcpu.run(bus) == refusal("intel")


def test_software_and_hosts_of_no_maker_enter_anything(entered):
    software = attrs.evolve(INTEL, capabilities=INTEL.capabilities - {Capability.NATIVE})
    unknown = attrs.evolve(INTEL, supported=())
    for facts in (software, unknown):
        assert entered(facts, segments={"tr": {"type": 9}})[2] == Halted()


def test_features_are_the_host_s_and_not_the_vcpu_s(entered):
    """A guest whose table hides NX runs with it all the same, since KVM takes EFER as it is."""
    hidden = INTEL.supported_state(Cpuid)
    nx = next(each for each in hidden.features if each.name == "NX")
    assert entered(INTEL, LONG, hidden.without(nx), efer=Efer(0xD00))[2] == Halted()


def test_a_processor_that_waits_to_be_started_is_not_entered():
    with MockHypervisor(INTEL, script={1: [Halt()]}) as mock:
        vm = mock.create_vm()
        vm.put(Irqchip())
        vcpu = vm.create_vcpu(1)
        sregs = vcpu.get(Sregs)
        vcpu.put(attrs.evolve(sregs, tr=attrs.evolve(sregs.tr, type=9)))
        vcpu.kick()
        assert vcpu.run(Bus()) == Kicked()
        vcpu.put(MpState(Activity.RUNNABLE))
        assert vcpu.run(Bus()) == refusal("intel")
