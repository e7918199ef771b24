import attrs
import pytest

from anyvisor import hookimpl
from anyvisor.assemble import assemble
from anyvisor.config import MachineConfig, Topology
from anyvisor.errors import ConfigError, PlanError, PluginError, Unsupported
from anyvisor.facts import Capability
from anyvisor.memory import GIB, MIB
from anyvisor.plan import BootPlan, DeviceSpec
from anyvisor.plugins import load_plugins
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.gdt import BOOT_GDT, Gdt
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.mptable import MpTable, find_pointer
from anyvisor.x86_64.msrs import Msr, Msrs
from anyvisor.x86_64.paging import walk_memory
from anyvisor.x86_64.state import Regs, Sregs
from elves import tiny_elf


@pytest.fixture
def kernel(tmp_path):
    return tiny_elf(tmp_path / "vmlinux", code=b"\xf4")


def with_plugin(**hooks):
    """A plugin manager with the defaults and one plugin of those hook functions."""
    return load_plugins(
        [type("Mine", (), {name: staticmethod(function) for name, function in hooks.items()})()],
        installed=False,
    )


def test_a_plan_needs_no_hypervisor_and_survives_json(kernel):
    plan = assemble(MachineConfig(kernel=kernel, vcpus=2), FACTS)
    assert BootPlan.from_json(plan.to_json()) == plan
    assert [step.provided_by for step in plan.steps if step.hook == "anyvisor_gdt"] == ["linux"]
    assert {blob.provided_by for blob in plan.blobs} == {"linux"}


def test_a_plan_says_whether_its_time_is_counted_and_tells_no_tsc_speed_then(kernel):
    facts = attrs.evolve(FACTS, tsc_khz=2_000_000)
    plans = {each: assemble(MachineConfig(kernel=kernel, deterministic=each), facts) for each in (False, True)}
    assert {each: plan.deterministic for each, plan in plans.items()} == {False: False, True: True}
    told = {each: b"tsc_early_khz=2000000" in plan.blob("command line").content for each, plan in plans.items()}
    assert told == {False: True, True: False}
    assert BootPlan.from_json(plans[True].to_json()).deterministic


def test_a_deterministic_machine_needs_a_backend_that_can_count(kernel):
    facts = attrs.evolve(FACTS, capabilities=FACTS.capabilities - {Capability.DETERMINISTIC})
    with pytest.raises(ConfigError, match="deterministic: the none backend knows only the host's time"):
        assemble(MachineConfig(kernel=kernel, deterministic=True), facts)


def test_the_boot_processor_enters_as_the_linux_boot_protocol_says(kernel):
    plan = assemble(MachineConfig(kernel=kernel), FACTS)
    (vcpu,) = plan.vcpus
    regs, sregs = vcpu.state(Regs), vcpu.state(Sregs)
    assert (regs.rip, regs.rsi, regs.rflags) == (0x1000000, plan.blob("zero page").guest_address, 2)
    fields = sregs.fields
    assert fields["cs"].selector == 0x10
    assert {fields[name].selector for name in ("ds", "es", "fs", "gs", "ss")} == {0x18}
    assert (fields["tr"].selector, fields["tr"].type) == (0x20, 0xB)
    assert fields["cs"].limit == fields["ds"].limit == 0xFFFFFFFF
    assert (fields["cr0"], fields["cr4"], fields["efer"]) == (0x80000011, 0x20, 0x500)
    assert fields["gdt"].limit == 47  # the TSS takes two entries
    gdt = plan.read(fields["gdt"].base, fields["gdt"].limit + 1)
    assert Gdt.from_bytes(gdt) == BOOT_GDT
    for address in (0, regs.rip, regs.rsi, 0xFEE00000, 512 * MIB - 1):
        assert walk_memory(plan.read, fields["cr3"], address)[0] == address


def test_application_processors_keep_their_reset_registers(kernel):
    plan = assemble(MachineConfig(kernel=kernel, vcpus=2), FACTS)
    assert plan.vcpus[1].state(Regs) is None
    assert plan.vcpus[1].state(Sregs) is None
    assert plan.vcpus[1].state(Cpuid) is not None
    assert plan.vcpus[0].state(Lapic).fields["lint0"] == 0x700
    assert plan.vcpus[1].state(Lapic).fields["lint0"] == 0x10700


def test_every_vcpu_gets_the_memory_type_default_of_firmware(kernel):
    plan = assemble(MachineConfig(kernel=kernel, vcpus=2), FACTS)
    for vcpu in plan.vcpus:
        assert vcpu.state(Msrs)[Msr.MTRR_DEF_TYPE] == 0x806


def test_the_plan_follows_capabilities_and_never_a_backends_name(kernel):
    without = attrs.evolve(FACTS, capabilities=frozenset(), backend="something else")
    plan = assemble(MachineConfig(kernel=kernel), without)
    assert plan.vm_states_before == ()
    assert plan.vcpus[0].state(Lapic) is None
    renamed = attrs.evolve(FACTS, backend="something else")
    assert assemble(MachineConfig(kernel=kernel), renamed) == assemble(MachineConfig(kernel=kernel), FACTS)


@pytest.mark.parametrize("memory", [64 * MIB, 512 * MIB, 3 * GIB - 4096, 3 * GIB, 3 * GIB + 4096, 8 * GIB, 1 << 40])
def test_any_amount_of_ram_is_planned_and_mapped(kernel, memory):
    config = MachineConfig(kernel=kernel, memory=memory)
    plan = assemble(config, FACTS)
    assert sum(region.size_bytes for region in plan.ram) == memory
    root = plan.vcpus[0].state(Sregs).fields["cr3"]
    for region in plan.ram:
        assert walk_memory(plan.read, root, region.end - 1)[0] == region.end - 1


@pytest.mark.parametrize("vcpus", [1, 2, 37, 38, 254])
def test_the_mp_table_names_every_vcpu_and_never_reaches_the_rom_area(kernel, vcpus):
    plan = assemble(MachineConfig(kernel=kernel, vcpus=vcpus, tables="mptable"), FACTS)
    table = MpTable.from_memory(plan.read, find_pointer(plan.read))
    assert len(table.processors) == vcpus
    for name in ("mp table", "mp pointer"):
        assert plan.blob(name).region.end <= 0xA0000


def test_a_step_is_replaced_by_a_plugin_and_credited_to_it(kernel):
    other = Gdt(*BOOT_GDT.segments[:5], BOOT_GDT.segments[2])

    @hookimpl
    def anyvisor_gdt():
        return other

    plan = assemble(MachineConfig(kernel=kernel), FACTS, with_plugin(anyvisor_gdt=anyvisor_gdt))
    assert plan.blob("GDT").content == other.to_bytes()
    assert plan.blob("GDT").provided_by == "Mine"


def test_a_step_is_adjusted_by_a_wrapper_and_both_are_credited(kernel):
    @hookimpl(wrapper=True)
    def anyvisor_cpuid():
        cpuid = yield
        return cpuid.without(Feature.SSE2)

    plan = assemble(MachineConfig(kernel=kernel), FACTS, with_plugin(anyvisor_cpuid=anyvisor_cpuid))
    assert not plan.vcpus[0].state(Cpuid).has(Feature.SSE2)
    (step,) = [step for step in plan.steps if step.hook == "anyvisor_cpuid"]
    assert (step.provided_by, step.adjusted_by) == ("linux", ("Mine",))


def test_a_wrapper_may_drop_a_step_that_is_optional(kernel):
    @hookimpl(wrapper=True)
    def anyvisor_mptable():
        yield

    config = MachineConfig(kernel=kernel, tables="both")
    plan = assemble(config, FACTS, with_plugin(anyvisor_mptable=anyvisor_mptable))
    assert find_pointer(plan.read) is None


@pytest.mark.parametrize(
    ("hook", "value", "message"),
    [
        ("anyvisor_gdt", b"raw", "plugin Mine returned a bytes from anyvisor_gdt, which wants a Gdt"),
        ("anyvisor_boot_params", [], "returned a list from anyvisor_boot_params, which wants a tuple"),
        ("anyvisor_boot_params", (1,), "returned a int from anyvisor_boot_params, which wants a Blob"),
        ("anyvisor_registers", (7,), "wants a VcpuState or Change"),
        ("anyvisor_devices", "serial", "returned a str from anyvisor_devices"),
        ("anyvisor_devices", 7, "returned a int from anyvisor_devices"),
        ("anyvisor_lapic", Lapic(), "wants a Change"),
    ],
)
def test_what_a_plugin_returns_is_not_trusted(kernel, hook, value, message):
    plugins = with_plugin(**{hook: hookimpl(lambda: value)})
    with pytest.raises(PluginError, match=message):
        assemble(MachineConfig(kernel=kernel), FACTS, plugins)


def test_pieces_of_a_plugin_that_overlap_are_refused_by_name(kernel):
    @hookimpl
    def anyvisor_memory_layout(config):
        return attrs.evolve(Layout.for_memory(config.memory), gdt=0x7010)

    with pytest.raises(PlanError, match="zero page 0x7000-0x7fff overlaps GDT 0x7010"):
        assemble(MachineConfig(kernel=kernel), FACTS, with_plugin(anyvisor_memory_layout=anyvisor_memory_layout))


def test_devices_of_all_plugins_are_joined(kernel):
    mine = DeviceSpec("flux capacitor", "flux0")
    plan = assemble(MachineConfig(kernel=kernel), FACTS, with_plugin(anyvisor_devices=hookimpl(lambda: (mine,))))
    names = [device.name for device in plan.devices]
    assert names[-1] == "flux0"
    assert "serial0" in names


def test_ram_beyond_the_processors_addresses_is_refused(kernel):
    with pytest.raises(ConfigError, match="beyond the 36 address bits of the none backend's processor"):
        assemble(MachineConfig(kernel=kernel, memory=64 * GIB), attrs.evolve(FACTS, physical_address_bits=36))


def test_without_a_kernel_there_is_nothing_to_boot():
    with pytest.raises(ConfigError, match="names no kernel"):
        assemble(MachineConfig(), FACTS)


def test_more_vcpus_than_the_host_takes_are_refused(kernel):
    with pytest.raises(ConfigError, match="2 are more than the none backend can run here"):
        assemble(MachineConfig(kernel=kernel, vcpus=2), attrs.evolve(FACTS, max_vcpus=1))


def test_an_architecture_without_boot_steps_is_told(kernel):
    with pytest.raises(Unsupported, match="vax"):
        assemble(MachineConfig(kernel=kernel), attrs.evolve(FACTS, architecture="vax"))


def test_interrupt_chips_are_made_as_far_as_the_host_has_them(kernel):
    plan = assemble(MachineConfig(kernel=kernel), attrs.evolve(FACTS, capabilities=frozenset({Capability.IRQCHIP})))
    assert [type(state).__name__ for state in plan.vm_states_before] == ["Irqchip"]


def test_cpuid_the_mp_table_and_the_apics_agree_on_apic_ids(kernel):
    topology = Topology(sockets=2, cores=3, threads=1)
    plan = assemble(MachineConfig(kernel=kernel, vcpus=6, topology=topology, tables="both"), FACTS)
    table = MpTable.from_memory(plan.read, find_pointer(plan.read))
    ids = [vcpu.hardware_id for vcpu in plan.vcpus]
    assert ids == [0, 1, 2, 4, 5, 6]
    assert [processor.apic_id for processor in table.processors] == ids
    assert [vcpu.state(Cpuid)[1].ebx >> 24 for vcpu in plan.vcpus] == ids


def test_a_wrapper_that_forgets_to_return_is_named(kernel):
    @hookimpl(wrapper=True)
    def anyvisor_cpuid():
        yield

    with pytest.raises(PluginError, match="plugin Mine adjusts anyvisor_cpuid and returned nothing; return the result"):
        assemble(MachineConfig(kernel=kernel), FACTS, with_plugin(anyvisor_cpuid=anyvisor_cpuid))


def test_a_wrapper_of_a_collecting_hook_returns_a_list(kernel):
    @hookimpl(wrapper=True)
    def anyvisor_devices():
        yield
        return 7

    with pytest.raises(PluginError, match=r"Mine returned a int from anyvisor_devices, which wants a list"):
        assemble(MachineConfig(kernel=kernel), FACTS, with_plugin(anyvisor_devices=anyvisor_devices))
