"""The bodies of DSDT and SSDT: ACPICA compiles, loads and evaluates them, and what it says is what was configured."""

import re

import pytest
from aml_judges import compiled, disassemble, interpret, needs_acpica, table

from anyvisor.errors import PlanError
from anyvisor.memory import GIB, Region
from anyvisor.plan import DeviceSpec
from anyvisor.x86_64.acpi.aml_outline import aml_outline
from anyvisor.x86_64.acpi.dsdt import dsdt_aml, processors_aml
from anyvisor.x86_64.acpi.power import SOFT_OFF
from work import work

SERIAL = DeviceSpec("serial", "serial0", ports=(Region(0x3F8, 8),), gsi=4, settings={"console": "serial0"})
I8042 = DeviceSpec("i8042", "i8042", ports=(Region(0x60, 1), Region(0x64, 1)), gsi=1)
RTC = DeviceSpec("rtc", "rtc", ports=(Region(0x70, 2),))
PCI = DeviceSpec("pci", "pci", ports=(Region(0xCF8, 8),))
DEBUG = DeviceSpec("debug", "debug", ports=(Region(0x80, 1), Region(0xE9, 1)))
PIC = DeviceSpec("pic", "pic", ports=(Region(0x20, 2), Region(0xA0, 2), Region(0x4D0, 2)))
APIC = DeviceSpec("apic", "apic", mmio=(Region(0xFEC00000, 0x1000), Region(0xFEE00000, 0x1000)))
PIT = DeviceSpec("pit", "pit", ports=(Region(0x40, 4), Region(0x61, 1)), gsi=0)
PM = DeviceSpec("acpi-pm", "acpi-pm", ports=(Region(0x600, 0x20),), gsi=9)
HPET = DeviceSpec("hpet", "hpet", mmio=(Region(0xFED00000, 0x400),))
PCIE = DeviceSpec("pcie", "pcie", mmio=(Region(0xE0000000, 0x10000000),))
PC = (PIC, APIC, PIT, SERIAL, I8042, RTC, PCI, DEBUG, PM)


def virtio(count: int, *, base: int = 0xD0000000, first_gsi: int = 5) -> tuple[DeviceSpec, ...]:
    return tuple(
        DeviceSpec("virtio-mmio", f"virtio{i}", mmio=(Region(base + 0x1000 * i, 0x1000),), gsi=first_gsi + i)
        for i in range(count)
    )


def evaluated(text: str, path: str) -> list[int]:
    """The integers that acpiexec found in the object at `path`."""
    start = text.index(f"Evaluation of {path} returned")
    found = re.match(r"[^\n]*\n((?:\s+\[.*\n)+)", text[start:])
    return [int(number, 16) for number in re.findall(r"\[Integer\] = ([0-9A-F]{16})", found[1])]


MACHINES = {
    "pc": PC,
    "1 virtio": (*PC, *virtio(1)),
    "32 virtio": (*PC, *virtio(32)),
    "256 virtio": virtio(256),
    "high virtio": virtio(4, base=64 * GIB, first_gsi=20),
    "hpet and pcie": (*PC, HPET, PCIE),
    "four serials": (*(DeviceSpec("serial", f"s{i}", ports=(Region(0x2E8 + 8 * i, 8),), gsi=3 + i) for i in range(4)),),
    "no power": (SERIAL, RTC),
    "nothing to tell": (PIC, PIT),
    "bare": (DeviceSpec("serial", "bare"), PM),
    "strange": (
        DeviceSpec("strange", "strange", ports=(Region(0x300, 4),), mmio=(Region(0xD8000000, 0x2000),), gsi=20),
    ),
    "nothing": (),
}


@needs_acpica
@pytest.mark.parametrize("name", MACHINES)
def test_iasl_compiles_its_disassembly_to_the_same_bytes(name, tmp_path):
    body = dsdt_aml(MACHINES[name])
    assert compiled(tmp_path, disassemble(tmp_path, body)).hex(" ") == body.hex(" ")


@needs_acpica
@pytest.mark.parametrize("count", [0, 1, 32])
def test_every_resource_is_what_was_configured(count, tmp_path):
    devices = virtio(count)
    body = dsdt_aml((*PC, *devices))
    commands = [f"resources \\_SB.VIO{i:X}" if i < 16 else f"resources \\_SB.VI{i:X}" for i in range(count)]
    told = interpret(tmp_path, ";".join([*commands, "evaluate \\_S5"]), table(body))
    assert evaluated(told, "\\_S5") == [SOFT_OFF, SOFT_OFF, 0, 0]
    found = re.findall(r"\bAddress : ([0-9A-F]{8})\n\s*Address Length : ([0-9A-F]{8})", told)
    assert [Region(int(start, 16), int(size, 16)) for start, size in found] == [each.mmio[0] for each in devices]
    assert [int(number, 16) for number in re.findall(r"Dword00 : ([0-9A-F]{8})", told)] == [d.gsi for d in devices]
    assert told.count("Triggering : Edge") == count and told.count("Polarity : ActiveHigh") == count


@needs_acpica
def test_the_chips_of_a_pc_have_their_ports_and_interrupts(tmp_path):
    chips = ("COM1", "KBD0", "RTC0", "MB__")
    told = interpret(tmp_path, ";".join(f"resources \\_SB.{each}" for each in chips), table(dsdt_aml(PC)))
    sections = dict(zip(chips, told.split("Device: \\_SB.")[1:], strict=True))
    ports = {
        name: [
            (int(start, 16), int(size, 16))
            for start, size in re.findall(r"Address Minimum : ([0-9A-F]+).*?Address Length : ([0-9A-F]+)", text, re.S)
        ]
        for name, text in sections.items()
    }
    assert ports == {"COM1": [(0x3F8, 8)], "KBD0": [(0x60, 1), (0x64, 1)], "RTC0": [(0x70, 2)], "MB__": [(0x600, 0x20)]}
    interrupts = {name: re.findall(r"Interrupt List : (\S+)", text) for name, text in sections.items()}
    assert interrupts == {"COM1": ["4"], "KBD0": ["1"], "RTC0": [], "MB__": []}


@needs_acpica
@pytest.mark.parametrize("count", [1, 2, 254, 300, 1024])
def test_every_processor_is_loaded_with_its_number(count, tmp_path):
    body = processors_aml(range(count))
    asl = disassemble(tmp_path, body, b"SSDT")
    assert compiled(tmp_path, asl) == body
    told = interpret(tmp_path, "namespace", table(dsdt_aml(PC)), table(body, b"SSDT"))
    found = re.findall(
        r" 1 +(C[0-9A-F]{3}) Device .*\n.* _HID .*\"ACPI0007\"\n.* _UID Integer .*?= ([0-9A-F]{16})", told
    )
    assert [(name, int(uid, 16)) for name, uid in found] == [(f"C{i:03X}", i) for i in range(count)]


def test_processors_keep_the_numbers_they_are_given():
    outline = aml_outline(processors_aml([7, 3, 0x12345678]))
    assert outline.splitlines() == [
        "Scope _SB",
        "  Device C000: _HID ACPI0007, _UID 7",
        "  Device C001: _HID ACPI0007, _UID 3",
        "  Device C002: _HID ACPI0007, _UID 305419896",
    ]


def test_a_processor_takes_30_bytes():
    assert len(processors_aml(range(1024))) <= 1024 * 30


def test_work_grows_linearly():
    def made(count: int) -> None:
        processors_aml(range(count))
        dsdt_aml(virtio(count // 16))

    assert work(lambda: made(1024)) < 5 * work(lambda: made(256))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: processors_aml(range(4097)), "4097 processors"),
        (lambda: processors_aml([-1]), "no sign"),
        (lambda: dsdt_aml(virtio(257)), "virtio256.*256 of kind virtio-mmio"),
        (lambda: dsdt_aml([DeviceSpec("serial", "s", ports=(Region(0xFF80, 0x81),))]), "IO.0x10000, 1."),
    ],
)
def test_what_acpi_cannot_tell_is_refused(make, message):
    with pytest.raises(PlanError, match=message):
        make()


def test_names_are_unique_and_follow_the_order_of_the_devices():
    devices = (*virtio(256), *(DeviceSpec("serial", f"s{i}", ports=(Region(8 * i, 8),)) for i in range(255)))
    names = re.findall(r"Device (\w+)", aml_outline(dsdt_aml(devices) + processors_aml(range(4096))))
    assert len(set(names)) == len(names) == 256 + 255 + 4096
    assert names[:17] == [f"VIO{i:X}" for i in range(16)] + ["VI10"]
    assert dsdt_aml(devices) == dsdt_aml(list(devices))


def test_outline_of_a_pc():
    assert aml_outline(
        dsdt_aml((*PC, HPET, PCIE, *virtio(1), *virtio(1, base=4 * GIB, first_gsi=20)))
    ).splitlines() == [
        "Scope _SB",
        "  Device COM1: _HID PNP0501, _UID 1, _CRS ports 0x3f8-0x3ff, IRQ 4",
        "  Device KBD0: _HID PNP0303, _UID 0, _CRS port 0x60, port 0x64, IRQ 1",
        "  Device RTC0: _HID PNP0B00, _UID 0, _CRS ports 0x70-0x71",
        "  Device HPT0: _HID PNP0103, _UID 0, _CRS memory 0xfed00000-0xfed003ff",
        "  Device VIO0: _HID LNRO0005, _UID 0, _CRS memory 0xd0000000-0xd0000fff, interrupt 5 (edge)",
        "  Device VIO1: _HID LNRO0005, _UID 1, _CRS memory 0x100000000-0x100000fff, interrupt 20 (edge)",
        "  Device MB: _HID PNP0C02, _CRS ports 0x600-0x61f, memory 0xe0000000-0xefffffff",
        "Name _S5 {5, 5, 0, 0}",
    ]


@needs_acpica
def test_a_device_of_more_ports_than_a_descriptor_counts_has_several(tmp_path):
    bridge = DeviceSpec("bridge", "bridge", ports=(Region(0x1000, 0x101), Region(0xFF80, 0x80)))
    told = interpret(tmp_path, "resources \\_SB.MB__", table(dsdt_aml((bridge,))))
    found = re.findall(r"Address Minimum : ([0-9A-F]+).*?Address Length : ([0-9A-F]+)", told, re.S)
    pieces = [Region(int(start, 16), int(size, 16)) for start, size in found]
    assert pieces == [Region(0x1000, 0x80), Region(0x1080, 0x80), Region(0x1100, 1), Region(0xFF80, 0x80)]


def test_without_a_power_device_there_is_no_way_to_switch_off():
    assert b"_S5_" in dsdt_aml((SERIAL, PM))
    assert b"_S5_" not in dsdt_aml((SERIAL,))
