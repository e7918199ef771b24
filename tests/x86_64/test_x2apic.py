"""Machines whose APIC ids have more than eight bits: what each vCPU is given, and who refuses them."""

import json

import attrs
import pytest

from anyvisor import hookimpl
from anyvisor.assemble import assemble
from anyvisor.config import MachineConfig, Topology
from anyvisor.errors import ConfigError, PlanError
from anyvisor.facts import Capability
from anyvisor.launch import launch
from anyvisor.plan import BootPlan
from anyvisor.plugins import load_plugins
from anyvisor.states import Change
from anyvisor.x86_64.control import ApicBase, Cr0
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Regs, Sregs
from anyvisor.x86_64.x2apic import in_x2apic_mode, without_apic
from anyvisor_mock import MockHypervisor
from anyvisor_mock.host_facts import host_facts
from elves import tiny_elf

GAPS = Topology(dies=5, cores=5, threads=5)
"""125 vCPUs, the last of which has the APIC id 292."""
FULL = Topology(cores=255)
BOOT_BASE, OTHER_BASE = 0xFEE00D00, 0xFEE00C00


@pytest.fixture
def machine(tmp_path):
    """The configuration of a machine of that topology."""

    def machine(topology, **config):
        kernel = tiny_elf(tmp_path / "vmlinux")
        return MachineConfig(kernel=kernel, vcpus=topology.vcpus, topology=topology, **config)

    return machine


def bases(plan):
    found = [vcpu.state(Sregs) for vcpu in plan.vcpus]
    return [each.fields.get("apic_base") if each else None for each in found]


def test_every_apic_is_switched_to_x2apic_mode_when_one_needs_it(machine):
    plan = assemble(machine(GAPS), FACTS)
    assert plan.vcpus[-1].hardware_id == 292
    assert bases(plan) == [BOOT_BASE] + [OTHER_BASE] * 124
    assert plan.vcpus[0].state(Sregs).fields["cr0"] == Cr0(pe=True, et=True, pg=True)
    assert plan.vcpus[1].state(Sregs).fields.keys() == {"apic_base"}
    assert BootPlan.from_json(plan.to_json()) == plan


def test_no_apic_is_switched_when_eight_bits_are_enough(machine):
    plan = assemble(machine(FULL), FACTS)
    assert plan.vcpus[-1].hardware_id == 254
    assert bases(plan) == [None] * 255
    assert plan.vcpus[1].state(Sregs) is None


def test_the_mode_comes_behind_the_cpuid_table_and_before_the_local_apic(machine):
    kinds = [
        each.kind if isinstance(each, Change) else type(each) for each in assemble(machine(GAPS), FACTS).vcpus[7].states
    ]
    assert kinds.index(Cpuid) < kinds.index(Sregs) < kinds.index(Lapic)


def test_whole_sregs_keep_what_else_they_say():
    (after_reset,) = (each for each in reset_states() if isinstance(each, Sregs))
    mine = attrs.evolve(after_reset, apic_base=ApicBase(bsp=True, page=0xFEE11))
    regs, switched = in_x2apic_mode((Regs(), mine), boot_processor=True)
    assert (regs, switched.cr0) == (Regs(), mine.cr0)
    assert switched.apic_base == 0xFEE11D00


def test_a_base_that_a_step_moves_is_kept():
    (switched,) = in_x2apic_mode((Change(Sregs, apic_base=ApicBase(page=0xFEE11)),), boot_processor=False)
    assert switched.fields["apic_base"] == 0xFEE11C00


@pytest.mark.parametrize("host", ["amd-genoa", "intel-nehalem"])
def test_the_plan_is_what_a_hypervisor_with_kvms_rules_takes(machine, host):
    facts = host_facts(host)
    plan = assemble(machine(GAPS), facts)
    with MockHypervisor(facts) as mock, launch(plan, mock, overcommit=True) as launched:
        ids = [vcpu.get(Lapic).id for vcpu in launched.vcpus]
    assert ids == [vcpu.hardware_id for vcpu in plan.vcpus]


@pytest.mark.parametrize("lacking", [Capability.X2APIC, Capability.IRQCHIP])
def test_a_backend_without_x2apic_is_refused_with_a_way_out(machine, lacking):
    facts = attrs.evolve(FACTS, capabilities=FACTS.capabilities - {lacking})
    assert assemble(machine(FULL), facts)
    with pytest.raises(ConfigError, match=r"APIC id 292, .*the none backend has not, 254 is the highest; make dies"):
        assemble(machine(GAPS), facts)


def test_a_processor_without_x2apic_is_refused_with_a_way_out(machine):
    facts = attrs.evolve(FACTS, supported=(FACTS.supported_state(Cpuid).without(Feature.X2APIC),))
    assert assemble(machine(FULL), facts)
    with pytest.raises(ConfigError, match=r"cpu: the processor has no x2APIC.*take a CPU model with x2APIC"):
        assemble(machine(GAPS), facts)


def test_a_plugin_that_takes_the_feature_away_from_one_vcpu_is_refused(machine):
    @hookimpl(wrapper=True)
    def anyvisor_cpuid(vcpu):
        cpuid = yield
        return cpuid.without(Feature.X2APIC) if vcpu == 77 else cpuid

    plugins = load_plugins([type("Mine", (), {"anyvisor_cpuid": staticmethod(anyvisor_cpuid)})()], installed=False)
    with pytest.raises(ConfigError, match="cpu: the processor has no x2APIC"):
        assemble(machine(GAPS), FACTS, plugins)


def test_ids_beyond_the_backends_limit_are_refused_with_a_way_out(machine):
    facts = attrs.evolve(FACTS, hardware_id_limit=292)
    with pytest.raises(ConfigError, match=r"APIC id 292, and those of the none backend end at 291; make dies"):
        assemble(machine(GAPS), facts)
    assert assemble(machine(GAPS), attrs.evolve(FACTS, hardware_id_limit=293))


@pytest.mark.parametrize("tables", ["mptable", "both"])
def test_the_mp_table_says_which_vcpu_it_cannot_name_and_how_to_do_without_it(machine, tables):
    with pytest.raises(PlanError, match=r'vCPU 100 has the APIC id 256.*tables = "acpi"'):
        assemble(machine(GAPS, tables=tables), FACTS)
    with pytest.raises(PlanError, match=r'for 255 processors: it can name 254 at most.*tables = "acpi"'):
        assemble(machine(FULL, tables=tables), FACTS)


def test_facts_of_an_older_file_have_no_limit_of_ids():
    data = json.loads(FACTS.to_json())
    del data["hardware_id_limit"]
    assert type(FACTS).from_json(json.dumps(data)).hardware_id_limit == 1 << 32


def test_an_apic_that_the_cpuid_has_not_is_switched_off():
    """KVM shows the feature for as long as the APIC is enabled, whatever its table says."""
    (change,) = without_apic((Change(Sregs, cr3=0x9000),), boot_processor=True)
    assert change.fields == {"cr3": 0x9000, "apic_base": ApicBase(0xFEE00100)}
    (sregs,) = [each for each in reset_states(0) if isinstance(each, Sregs)]
    (done,) = without_apic((sregs,), boot_processor=True)
    assert done == attrs.evolve(sregs, apic_base=ApicBase(0xFEE00100))
