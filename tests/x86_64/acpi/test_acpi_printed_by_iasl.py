"""What iasl reads in our tables is what we meant: its own words for every value that counts."""

import pytest
from acpi_judges import fields, needs_acpica, registers, taken_apart
from acpi_machines import HPET, PC, PCIE, PM, REDUCED_PM, halves, placed

pytestmark = needs_acpica

IO, MEMORY = 1, 0
NONE = (0, 0, 0, 0, 0)


@pytest.fixture
def printed(tmp_path):
    """A function that gives the text of a machine's table."""

    def text(name, vcpus=2, *, reduced=False, numa=False):
        devices = (*PC, HPET, PCIE, REDUCED_PM if reduced else PM)
        blobs = placed(vcpus, devices=devices, numa=halves(vcpus) if numa else ()).blobs
        return taken_apart(tmp_path, {name: next(each.content for each in blobs if each.name == name)})[name]

    return text


def firsts(text):
    """The first value of each label."""
    return dict(reversed(fields(text)))


def numbers(text, label):
    """All values of a label."""
    return [int(value.split()[0], 16) for each, value in fields(text) if each == label]


def test_the_fadt_of_fixed_hardware(printed):
    found = firsts(printed("FADT"))
    wanted = {
        "Revision": "06", "FADT Minor Revision": "05", "Table Length": "00000114", "FACS Address": "000A0000",
        "SCI Interrupt": "0009", "SMI Command Port": "00000000", "ACPI Enable Value": "00", "ACPI Disable Value": "00",
        "PM1A Event Block Address": "00000600", "PM1A Control Block Address": "00000604",
        "PM1B Event Block Address": "00000000", "PM Timer Block Address": "00000608", "GPE0 Block Address": "00000000",
        "PM1 Event Block Length": "04", "PM1 Control Block Length": "02", "PM Timer Block Length": "04",
        "RTC Century Index": "32", "Value to cause reset": "01",
        "Legacy Devices Supported (V2)": "1", "8042 Present on ports 60/64 (V2)": "1", "VGA Not Present (V4)": "1",
        "MSI Not Supported (V4)": "0", "CMOS RTC Not Present (V5)": "0",
        "WBINVD instruction is operational (V1)": "1", "All CPUs support C1 (V1)": "1",
        "C2 works on MP system (V1)": "0", "Control Method Power Button (V1)": "1",
        "Control Method Sleep Button (V1)": "1", "RTC wake not in fixed reg space (V1)": "1",
        "32-bit PM Timer (V1)": "1", "Reset Register Supported (V2)": "1", "Hardware Reduced (V5)": "0",
    }  # fmt: skip
    assert {label: found.get(label) for label in wanted} == wanted


def test_the_registers_of_fixed_hardware(printed):
    assert registers(printed("FADT")) == {
        "Reset Register": (IO, 8, 0, 1, 0x60C),
        "PM1A Event Block": (IO, 32, 0, 3, 0x600), "PM1B Event Block": NONE,
        "PM1A Control Block": (IO, 16, 0, 2, 0x604), "PM1B Control Block": NONE, "PM2 Control Block": NONE,
        "PM Timer Block": (IO, 32, 0, 3, 0x608), "GPE0 Block": NONE, "GPE1 Block": NONE,
        "Sleep Control Register": NONE, "Sleep Status Register": NONE,
    }  # fmt: skip


def test_the_fadt_of_reduced_hardware(printed):
    text = printed("FADT", reduced=True)
    found = firsts(text)
    assert (found["Hardware Reduced (V5)"], found["SCI Interrupt"], found["FACS Address"]) == ("1", "0000", "00000000")
    assert {value for label, value in fields(text) if label.endswith("Block Address")} == {"00000000"}
    assert (found["Reset Register Supported (V2)"], found["Value to cause reset"]) == ("1", "01")
    assert {name: place for name, place in registers(text).items() if place != NONE} == {
        "Reset Register": (IO, 8, 0, 1, 0x60C),
        "Sleep Control Register": (IO, 8, 0, 1, 0x610),
        "Sleep Status Register": (IO, 8, 0, 1, 0x611),
    }


def test_the_processors_and_interrupts_of_the_madt(printed):
    text = printed("MADT", 300)
    kinds = [value for label, value in fields(text) if label == "Subtable Type"]
    short, wide = ["00 [Processor Local APIC]"] * 255, ["09 [Processor Local x2APIC]"] * 45
    rest = ["01 [I/O APIC]", "02 [Interrupt Source Override]", "04 [Local APIC NMI]", "0A [Local x2APIC NMI]"]
    assert kinds == [*short, *wide, *rest]
    assert numbers(text, "Processor ID") == [*range(255), 0xFF]
    assert numbers(text, "Local Apic ID") == list(range(255))
    assert numbers(text, "Processor x2Apic ID") == list(range(255, 300))
    assert numbers(text, "Processor UID") == [*range(255, 300), 0xFFFFFFFF]
    assert numbers(text, "Processor Enabled") == [1] * 300
    assert set(numbers(text, "Runtime Online Capable")) == {0}
    found = firsts(text)
    assert (found["Bus"], found["Source"], numbers(text, "Interrupt")) == ("00", "09", [0, 9])
    assert (found["PC-AT Compatibility"], found["Local Apic Address"]) == ("1", "FEE00000")
    assert (numbers(text, "Polarity"), numbers(text, "Trigger Mode")) == ([1, 0, 0], [3, 0, 0])
    assert numbers(text, "Interrupt Input LINT") == [1, 1]


def test_the_nodes_of_the_srat(printed):
    text = printed("SRAT", 300, numa=True)
    assert numbers(text, "Base Address") == [0, 0x1_0000_0000, 0x1_2000_0000]
    assert numbers(text, "Address Length") == [3 << 30, 512 << 20, 512 << 20]
    assert numbers(text, "Proximity Domain Low(8)") == [0] * 150 + [1] * 105
    assert set(numbers(text, "Proximity Domain High(24)")) == {0}
    assert sorted(numbers(text, "Proximity Domain")) == [0, 0, 1, *[1] * 45]
    assert numbers(text, "Apic ID") == list(range(300))
    assert set(numbers(text, "Enabled")) == {1}
    assert numbers(text, "Table Revision") == [1]


def test_the_distances_of_the_slit(printed):
    found = firsts(printed("SLIT", numa=True))
    assert (found["Locality   0"], found["Locality   1"]) == ("0A 1F", "1F 0A")


def test_the_console_of_the_spcr(printed):
    text = printed("SPCR")
    found = firsts(text)
    assert registers(text) == {"Serial Port Register": (IO, 8, 0, 1, 0x3F8)}
    assert (found["Interface Type"], found["Interrupt Type"], found["Interrupt"]) == ("00", "03", "00000004")
    assert (found["PCAT-compatible IRQ"], found["Baud Rate"], found["Stop Bits"]) == ("04", "07", "01")
    assert (found["Parity"], found["PCI Vendor ID"], found["PCI Device ID"]) == ("00", "FFFF", "FFFF")


def test_the_timers_of_the_hpet(printed):
    text = printed("HPET")
    assert registers(text) == {"Timer Block Register": (MEMORY, 64, 0, 4, 0xFED00000)}
    assert firsts(text)["Hardware Block ID"] == "8086A201"


def test_the_buses_of_the_mcfg(printed):
    found = firsts(printed("MCFG"))
    assert (found["Base Address"], found["Segment Group Number"]) == ("00000000E0000000", "0000")
    assert (found["Start Bus Number"], found["End Bus Number"]) == ("00", "FF")
