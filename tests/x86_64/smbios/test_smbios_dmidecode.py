"""dmidecode and biosdecode as judges: they show what was configured, and complain of nothing."""

import pytest
from cpuid_hosts import HOSTS
from smbios_judges import biosdecode, dmidecode, needs_dmidecode

from anyvisor.identity import Identity
from anyvisor.memory import GIB, KIB, MIB, TIB, Region, parse_size
from anyvisor.plan import BootPlan
from anyvisor.topology import Topology
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.smbios import (
    BaseboardInformation,
    ChassisInformation,
    EntryPoint32,
    ProcessorInformation,
    SmbiosTables,
    smbios_tables,
)

pytestmark = needs_dmidecode

WHO = Identity(
    manufacturer="ACME Inc.", product="Anvil 9", version="2nd", serial="S-7 x", family="Irons", sku="SKU-1",
    uuid="8c0b1d2e-3f40-4a5b-9c6d-7e8f90a1b2c3",
)  # fmt: skip


def show(folder, identity=WHO, topology=None, memory="64M", cpuid=None):
    """What dmidecode shows of a machine, by type."""
    ram = Layout.for_memory(parse_size(memory)).ram
    found = {}
    for each in dmidecode(smbios_tables(identity, topology or Topology(), ram, cpuid).to_dump(), folder):
        found.setdefault(each.type, []).append(each)
    return found


def test_dmidecode_shows_every_configured_string(tmp_path):
    [system] = show(tmp_path)[1]
    assert system.values == {
        "Manufacturer": "ACME Inc.",
        "Product Name": "Anvil 9",
        "Version": "2nd",
        "Serial Number": "S-7 x",
        "UUID": "8c0b1d2e-3f40-4a5b-9c6d-7e8f90a1b2c3",
        "Wake-up Type": "Power Switch",
        "SKU Number": "SKU-1",
        "Family": "Irons",
    }


def test_dmidecode_shows_what_is_not_told_as_not_specified(tmp_path):
    [system] = show(tmp_path, Identity(manufacturer="", product=""))[1]
    assert {system.values[name] for name in ("Manufacturer", "Product Name", "Serial Number")} == {"Not Specified"}
    assert system.values["UUID"] == "Not Settable"


def test_dmidecode_knows_every_type_by_name_and_the_lengths_of_version_3_3(tmp_path):
    titles = {kind: (found[0].title, found[0].length) for kind, found in show(tmp_path).items()}
    assert titles == {
        0: ("BIOS Information", 0x1A),
        1: ("System Information", 0x1B),
        2: ("Base Board Information", 0x0F),
        3: ("Chassis Information", 0x16),
        4: ("Processor Information", 0x30),
        16: ("Physical Memory Array", 0x17),
        17: ("Memory Device", 0x5C),
        19: ("Memory Array Mapped Address", 0x1F),
        32: ("System Boot Information", 0x0B),
        127: ("End Of Table", 0x04),
    }


def test_dmidecode_shows_firmware_of_a_virtual_machine(tmp_path):
    [bios] = show(tmp_path)[0]
    assert bios.values["Vendor"] == "anyvisor"
    assert "System is a virtual machine" in bios.text
    assert "BIOS characteristics not supported" in bios.text


@pytest.mark.parametrize(
    ("topology", "sockets", "cores", "threads"),
    [
        (Topology(), 1, "1", "1"),
        (Topology(sockets=2, dies=2, cores=4, threads=2), 2, "8", "16"),
        (Topology(sockets=300), 300, "1", "1"),
        (Topology(cores=255), 1, "255", "255"),
        (Topology(cores=512, threads=2), 1, "512", "1024"),
    ],
)
def test_dmidecode_shows_sockets_cores_and_threads(topology, sockets, cores, threads, tmp_path):
    found = show(tmp_path, topology=topology)[4]
    assert [each.values["Socket Designation"] for each in found] == [f"CPU {number}" for number in range(sockets)]
    for each in found:
        values = [each.values[name] for name in ("Core Count", "Core Enabled", "Thread Count", "Status")]
        assert values == [cores, cores, threads, "Populated, Enabled"]
        assert ("Multi-Core" in each.text) == (cores != "1")
        assert ("Hardware Thread" in each.text) == (cores != threads)


@pytest.mark.parametrize("host", HOSTS, ids=str)
def test_dmidecode_shows_the_processor_that_cpuid_names(host, tmp_path):
    cpuid = HOSTS[host]
    [found] = show(tmp_path, cpuid=cpuid)[4]
    raw = cpuid[1].eax.to_bytes(4, "little") + cpuid[1].edx.to_bytes(4, "little")
    assert found.values["ID"] == raw.hex(" ").upper()
    assert found.values["Manufacturer"] == (cpuid.vendor or "Not Specified")
    assert found.values["Version"] == (cpuid.brand or "Not Specified")


@pytest.mark.parametrize(
    ("memory", "capacity", "modules", "ranges"),
    [
        ("64M", "64 MB", ["64 MB"], [("0x00000000000", "0x00003FFFFFF", "64 MB")]),
        ("1028K", "1028 kB", ["1 MB", "4 kB"], [("0x00000000000", "0x00000100FFF", "1028 kB")]),
        (
            "17G", "17 GB", ["16 GB", "1 GB"],
            [("0x00000000000", "0x000BFFFFFFF", "3 GB"), ("0x00100000000", "0x0047FFFFFFF", "14 GB")],
        ),
        (
            "1T", "1 TB", ["64 GB"] * 16,
            [("0x00000000000", "0x000BFFFFFFF", "3 GB"), ("0x00100000000", "0x1003FFFFFFF", "1021 GB")],
        ),
        (
            "64T", "64 TB", ["4 TB"] * 16,
            [("0x00000000000", "0x000BFFFFFFF", "3 GB"), ("0x0000000100000000", "0x000040003FFFFFFF", "65533 GB")],
        ),
    ],
)  # fmt: skip
def test_dmidecode_shows_the_memory(memory, capacity, modules, ranges, tmp_path):
    found = show(tmp_path, memory=memory)
    assert found[16][0].values["Maximum Capacity"] == capacity
    assert found[16][0].values["Number Of Devices"] == str(len(modules))
    assert [each.values["Size"] for each in found[17]] == modules
    assert [each.values["Volatile Size"] for each in found[17]] == modules
    names = ("Starting Address", "Ending Address", "Range Size")  # dmidecode 3.4 ends long addresses with a stray k
    assert [tuple(each.values[name].removesuffix("k") for name in names) for each in found[19]] == ranges


@pytest.mark.parametrize("capacity", [2 * TIB - KIB, 2 * TIB])
def test_dmidecode_shows_capacities_around_the_limit_of_the_short_field(capacity, tmp_path):
    tables = smbios_tables(WHO, Topology(), [Region(0, capacity)])
    [array] = [each for each in dmidecode(tables.to_dump(), tmp_path) if each.type == 16]
    assert array.values["Maximum Capacity"] == ("2 TB" if capacity == 2 * TIB else "2047 GB")


def test_dmidecode_shows_what_is_contained(tmp_path):
    board = BaseboardInformation(
        handle=2, product="Board", location="Slot 3", contained_count=2, contained=b"\x04\0\x05\0"
    )
    chassis = ChassisInformation(
        handle=3, element_count=2, element_bytes=3, elements=bytes([0x8A, 1, 2, 0x8A, 3, 4]), height=2, sku="CASE-2"
    )
    socket = ProcessorInformation(handle=4, max_speed=3000, socket="U7", asset_tag="A-1")
    tables = SmbiosTables((board, chassis, socket, *smbios_tables(WHO, Topology(), [Region(0, MIB)]).structures[-1:]))
    shown = dmidecode(tables.to_dump(), tmp_path)
    assert "Contained Object Handles: 2\n\t\t0x0004\n\t\t0x0005" in shown[0].text
    assert shown[0].values["Location In Chassis"] == "Slot 3"
    assert shown[1].values["Contained Elements"] == "2"
    assert (shown[1].values["SKU Number"], shown[1].values["Height"]) == ("CASE-2", "2 U")
    assert (shown[2].values["Max Speed"], shown[2].values["Asset Tag"]) == ("3000 MHz", "A-1")


def test_dmidecode_reads_the_older_entry_point_too(tmp_path):
    tables = smbios_tables(WHO, Topology(), [Region(0, MIB)])
    content = tables.to_bytes()
    longest = max(len(each.to_bytes()) for each in tables.structures)
    entry = EntryPoint32(0x20, len(content), len(tables.structures), longest)
    shown = dmidecode(entry.to_bytes().ljust(0x20, b"\0") + content, tmp_path)
    assert len(shown) == len(tables.structures)


def test_biosdecode_finds_the_entry_point_in_a_memory_image(tmp_path):
    layout = Layout.for_memory(64 * MIB)
    tables = smbios_tables(WHO, Topology(sockets=2), layout.ram)
    plan = BootPlan("x86_64", layout.ram, blobs=tables.at(layout.smbios).blobs)
    found = biosdecode(plan.read(0, MIB), tmp_path)
    assert "SMBIOS 3.3.0 present.\n" in found
    assert "Structure Table 64-bit Address: 0x00000000000F0020" in found
    assert f"Structure Table Maximum Length: {tables.size_bytes} bytes" in found


def test_a_broken_table_makes_dmidecode_complain(tmp_path):
    dump = bytearray(smbios_tables(WHO, Topology(), [Region(0, MIB)]).to_dump())
    dump[0x21] = 2
    with pytest.raises(AssertionError, match="broken"):
        dmidecode(bytes(dump), tmp_path)
    dump = bytearray(smbios_tables(WHO, Topology(), [Region(0, GIB)]).to_dump())
    dump[0x24] = 77  # the number of the first structure's first string
    with pytest.raises(AssertionError, match="BAD INDEX"):
        dmidecode(bytes(dump), tmp_path)
