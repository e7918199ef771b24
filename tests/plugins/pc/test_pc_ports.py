"""The PCI configuration ports, the debug ports, and the plugin that brings them all."""

import json

import pluggy
import pytest
from pc_context import Bench

import anyvisor_pc
from anyvisor import hookspecs
from anyvisor.bus import Bus
from anyvisor.codec import from_data, to_data
from anyvisor.config import MachineConfig
from anyvisor.device import attach
from anyvisor.facts import Capability, HostFacts
from anyvisor.plan import DeviceSpec
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor_pc.debug import open_debug
from anyvisor_pc.pci import open_pci
from anyvisor_pc.specs import APIC, DEBUG, PC_DEVICES, PCI, PIC, PIT


@pytest.fixture
def pci():
    bench = Bench(open_pci, PCI)
    yield bench
    bench.close()


@pytest.fixture
def debug():
    bench = Bench(open_debug, DEBUG)
    yield bench
    bench.close()


# -- PCI -----------------------------------------------------------------------------------------------------


def test_the_mechanism_is_found_as_linux_looks_for_it(pci):
    pci.outb(0xCFB, 0x01)
    before = pci.bus.read_port(0xCF8, 4)
    pci.bus.write_port(0xCF8, 4, 0x80000000)
    assert pci.bus.read_port(0xCF8, 4) == 0x80000000
    pci.bus.write_port(0xCF8, 4, before)
    assert pci.bus.read_port(0xCF8, 4) == 0


def test_no_device_is_there(pci):
    for size_bytes, nothing in ((1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF)):
        pci.bus.write_port(0xCF8, 4, 0x80000800)
        assert pci.bus.read_port(0xCFC, size_bytes) == nothing
        pci.bus.write_port(0xCFC, size_bytes, 0)


def test_bytes_of_the_address_port_are_not_the_address(pci):
    pci.outb(0xCF8, 0x12)
    assert pci.bus.read_port(0xCF8, 4) == 0
    assert pci.inb(0xCF8) == 0xFF


def test_reset_control_resets_as_linux_uses_it(pci):
    pci.outb(0xCF9, pci.inb(0xCF9) & ~0x0E | 0x02)
    assert pci.inb(0xCF9) == 0x02
    assert pci.stops == []
    pci.outb(0xCF9, 0x0E)
    assert pci.stops == ["reset"]


def test_an_address_with_those_bits_set_is_no_reset(pci):
    pci.bus.write_port(0xCF8, 4, 0xFFFFFFFF)
    assert pci.stops == []
    assert pci.bus.read_port(0xCF8, 4) == 0x80FFFFFC


# -- debug ---------------------------------------------------------------------------------------------------


def test_characters_go_to_the_debug_console(debug):
    for byte in b"bios says hi":
        debug.outb(0xE9, byte)
    assert debug.consoles["debug"].text == "bios says hi"
    assert debug.inb(0xE9) == 0xE9


def test_last_post_code_is_kept(debug):
    debug.outb(0x80, 0x12)
    debug.outb(0x80, 0x34)
    assert debug.device.post_code == debug.inb(0x80) == 0x34
    assert debug.consoles["debug"].end == 0


# -- the plugin ----------------------------------------------------------------------------------------------


@pytest.fixture
def plugins():
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(anyvisor_pc, "pc")
    manager.check_pending()
    return manager.hook


def facts(*capabilities: Capability, features: tuple[Feature, ...] = (Feature.APIC,)) -> HostFacts:
    cpuid = Cpuid((CpuidEntry(1),)).with_(*features)
    return HostFacts("fake", "x86_64", frozenset(capabilities), supported=(cpuid,))


def kinds(plugins, facts: HostFacts) -> list[str]:
    [specs] = plugins.anyvisor_devices(config=MachineConfig(), facts=facts)
    return [spec.kind for spec in specs]


ALWAYS = ["serial", "i8042", "rtc", "pci", "debug", "acpi-pm"]


def test_only_the_chips_that_the_hypervisor_lacks_are_given(plugins):
    assert kinds(plugins, facts(Capability.IRQCHIP, Capability.PIT)) == ALWAYS
    assert kinds(plugins, facts(Capability.IRQCHIP)) == ["pit", *ALWAYS]
    assert kinds(plugins, facts(Capability.PIT)) == ["pic", "apic", *ALWAYS]
    assert kinds(plugins, facts(Capability.PIT, features=())) == ["pic", *ALWAYS]
    assert kinds(plugins, facts(features=())) == ["pic", "pit", *ALWAYS]


def test_every_device_is_built_by_its_factory_and_finds_room_on_one_bus(plugins):
    [specs] = plugins.anyvisor_devices(config=MachineConfig(), facts=facts())
    [factories] = plugins.anyvisor_device_factories()
    assert {spec.kind for spec in specs} == factories.keys()
    bus = Bus()
    for spec in specs:
        module, _, name = factories[spec.kind].partition(":")
        bench = Bench(getattr(__import__(module, fromlist=[name]), name), spec)
        attach(bus, spec, bench.device)
        bench.close()
    assert bus.read_port(0x64, 1) == 0x14
    assert bus.read_port(0x3FD, 1) == 0x60


def test_other_architectures_get_none(plugins):
    assert plugins.anyvisor_devices(config=MachineConfig(), facts=HostFacts("fake", "aarch64")) == [()]


def test_specs_survive_being_written_down():
    every = (*PC_DEVICES, PIC, APIC, PIT)
    text = json.dumps(to_data(every))
    assert from_data(json.loads(text), tuple[DeviceSpec, ...], "devices") == every
