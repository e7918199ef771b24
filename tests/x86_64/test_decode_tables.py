"""Bytes of tables from anywhere are told for what they are, and broken ones for what is broken."""

import json
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anyvisor.config import NumaNode
from anyvisor.errors import AnyvisorError, PlanError
from anyvisor.memory import GIB, MIB
from anyvisor.x86_64 import multiboot
from anyvisor.x86_64.acpi.rsdp import Rsdp
from anyvisor.x86_64.decode import KINDS, decode, sniff
from anyvisor.x86_64.dump import dump
from anyvisor.x86_64.gdt import FLAT32_GDT
from seen_plans import made


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """Every file that can be dumped of a machine with everything."""
    folder = tmp_path_factory.mktemp("kernel")
    nodes = (NumaNode(GIB, "0-1"), NumaNode(GIB, "2-3"))
    plan = made(folder, tables="both", vcpus=4, memory=2 * GIB, numa=nodes, overcommit=True)
    found = {name: content for kind in KINDS_TO_DUMP for name, content in dump(plan, kind).items()}
    for protocol in ("pvh", "multiboot"):
        found |= dump(made(folder, protocol), "bootparams")
    found["memory"] = plan.read(0, MIB)
    return found


KINDS_TO_DUMP = ("acpi", "mptable", "smbios", "cpuid", "bootparams", "gdt")
OF_FILES = {
    "RSDP.dat": "acpi", "XSDT.dat": "acpi", "FACP.dat": "acpi", "FACS.dat": "acpi", "DSDT.dat": "acpi",
    "APIC.dat": "acpi", "SRAT.dat": "acpi", "SLIT.dat": "acpi", "SPCR.dat": "acpi", "SSDT.dat": "acpi",
    "mppointer.bin": "mptable", "mptable.bin": "mptable", "smbios_entry_point": "smbios", "DMI": "smbios",
    "dmidecode.bin": "smbios", "cpuid.txt": "cpuid", "zero_page.bin": "zero-page", "gdt.bin": "gdt",
    "start_info.bin": "start-info", "mbi.bin": "mbi", "memory": "memory",
}  # fmt: skip
NO_MARK = {"gdt.bin", "mbi.bin"}


def test_every_dumped_file_is_sniffed_for_what_it_is(files):
    assert {name: sniff(content, name) for name, content in files.items()} == OF_FILES
    for name, content in files.items():
        assert sniff(content) == (None if name in NO_MARK else OF_FILES[name]), name


def test_every_dumped_file_is_decoded_to_its_bytes(files):
    for name, content in files.items():
        section = decode(content, OF_FILES[name])
        assert section.text
        values = section.value if isinstance(section.value, list) else [section.value]
        if name in {"cpuid.txt", "memory", "mppointer.bin", "dmidecode.bin"}:
            continue
        assert b"".join(each.to_bytes() for each in values) == content, name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("APIC.dat", ["processors 0-3: APIC ids 0-3, enabled", "I/O APIC 4 at 0xfec00000"]),
        ("DSDT.dat", ["Device COM1: _HID PNP0501"]),
        ("RSDP.dat", ["RSDP: revision 2, 36 bytes", "XSDT at 0xa0"]),
        ("SRAT.dat", ["node 1: APIC ids 2-3, enabled"]),
        ("mppointer.bin", ["MP pointer: table at 0x9e000"]),
        ("mptable.bin", ["MP table of ANYVISOR anyvisor", "processor 3: enabled"]),
        ("smbios_entry_point", ["structures at 0xf0020"]),
        ("DMI", ["type 1, System Information", "type 127, End Of Table"]),
        ("dmidecode.bin", ["structures at 0x20", "type 127, End Of Table"]),
        ("cpuid.txt", ["GenuineIntel", "1 package x 4 cores x 1 thread", "CPU 3, against CPU 0:"]),
        ("zero_page.bin", ["acpi_rsdp_addr        0xe0000", "e820  0x000000000000-0x00000009dfff  RAM"]),
        ("start_info.bin", ["magic           0x336ec578", "memmap_entries  3"]),
        ("mbi.bin", ["flags", "memory|command_line|memory_map|loader_name"]),
        ("gdt.bin", ["code64", "tss64 busy"]),
        ("memory", ["RSDP: revision 2, 36 bytes, OEM ANYVSR, at 0xe0000", "pointer at 0x9fc10", "entry point at 0xf"]),
    ],
)  # fmt: skip
def test_what_the_bytes_say_is_told_in_words(files, name, words):
    text = decode(files[name], OF_FILES[name]).text
    for each in words:
        assert each in text


def test_tables_one_behind_the_other_are_all_told(files):
    several = files["RSDP.dat"] + files["FACS.dat"] + files["APIC.dat"] + bytes(12)
    assert [type(each).__name__ for each in decode(several, "acpi").value] == ["Rsdp", "Facs", "Madt"]
    with pytest.raises(PlanError, match="table at offset 0x24: ACPI table ends at offset 0x4"):
        decode(files["RSDP.dat"] + b"JUNK", "acpi")


def test_an_mp_table_may_come_behind_its_pointer(files):
    both = files["mppointer.bin"] + files["mptable.bin"]
    assert sniff(both) == "mptable"
    assert decode(both, "mptable").text.startswith("MP pointer: table at 0x9e000\nMP table of ANYVISOR")


def test_what_a_zero_page_has_besides_is_said(files):
    page = bytearray(files["zero_page.bin"])
    page[0:3], page[0x1E0] = b"\x01\x02\x03", 7
    assert decode(bytes(page), "zero-page").text.endswith("other bytes that are not 0: 0x0-0x2, 0x1e0")


def test_a_zero_page_without_the_mark_is_known_by_its_memory_map(files):
    page = bytearray(files["zero_page.bin"])
    page[0x202:0x206] = bytes(4)
    assert sniff(bytes(page)) == "zero-page"
    assert sniff(bytes(4096)) is None


def test_a_legacy_gdt_is_read_as_one():
    table = FLAT32_GDT.to_bytes()
    assert "tss32 busy" in decode(table, "gdt32").text
    with pytest.raises(PlanError, match="selector 0x20"):
        decode(table, "gdt")


def test_a_multiboot_structure_without_the_framebuffer_is_read_too():
    data = multiboot.Handover(loader="x").to_bytes(0x6000)[:88]
    assert "loader_name" in decode(data, "mbi").text


def test_a_text_of_acpidump_is_read(files):
    table = files["SLIT.dat"]
    rows = [f"    {at:04X}: {table[at : at + 16].hex(' ').upper()}  text: 12" for at in range(0, len(table), 16)]
    text = "\n".join(["SLIT @ 0x0000000000000000", *rows, "", "SLIT @ 0x1", *rows, ""]).encode()
    assert sniff(text) == "acpi"
    assert [each.to_bytes() for each in decode(text, "acpi").value] == [table, table]
    with pytest.raises(PlanError, match="acpidump text, line 3: its offset 0010 is not where the table goes on"):
        decode(text.replace(rows[0].encode(), b""), "acpi")


def test_cpuid_texts_of_one_processor_are_read():
    text = b"CPU:\n   0x00000000 0x00: eax=0x00000000 ebx=0x756e6547 ecx=0x6c65746e edx=0x49656e69\n"
    assert sniff(text) == "cpuid"
    assert decode(text, "cpuid").text.startswith("GenuineIntel, family 0")


# -- broken bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("acpi", b"", "ACPI table ends at offset 0x0, in its header of 36 bytes"),
        ("acpi", b"APIC" + struct.pack("<I", 99) + bytes(40), "MADT: length at offset 0x4 is 99, not 36 to the 48"),
        ("acpi", b"APIC" + struct.pack("<I", 44) + bytes(40), "MADT: checksum at offset 0x9 is 0x00, not 0x"),
        ("acpi", b"RSD PTR " + bytes(12), "RSDP: checksum at offset 0x8"),
        ("mptable", b"_MP_" + bytes(12), "MP pointer: length 0 and revision 0 at offset 0x8"),
        ("mptable", b"PCMP", "MP table ends at offset 0x4, in its header of 44 bytes"),
        ("smbios", b"_SM3_", "SMBIOS entry point ends at offset 0x5; it has 24 bytes"),
        ("smbios", b"", "SMBIOS tables end at offset 0x0"),
        ("smbios", b"\x01\x02\x00\x00\x00\x00", "offset 0x"),
        ("zero-page", bytes(100), "a zero page has 4096 bytes, not 100"),
        ("start-info", bytes(40), "0x0 is not the magic number of a PVH start info, 0x336ec578 (at offset 0)"),
        ("mbi", bytes(10), "multiboot information: cut short at offset 0xa"),
        ("gdt", bytes(7), "7 bytes are no GDT; its entries have 8 bytes each"),
        ("gdt", b"", "0 bytes are no GDT"),
        ("cpuid", b"hello", "there is no line `CPU 0:` in it"),
        ("cpuid", b"CPU 0:\n 0x1 0x0: eax=1\n", "is not `0x<leaf> 0x<subleaf>"),
        (
            "cpuid",
            b"CPU 0:\n 0x1 0x0: eax=0x1 ebx=0x0 ecx=0x0 edx=0x0\nCPU 0:\n",
            "CPU 0 at offset 0x31 is there a second",
        ),
        ("memory", bytes(100), "memory ends at offset 0x64; at least the first MiB is needed"),
    ],
)
def test_what_is_broken_is_said_with_its_place(kind, data, words):
    with pytest.raises(PlanError) as caught:
        decode(data, kind)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_memory_that_ends_before_its_tables_says_so(files):
    memory = bytearray(files["memory"])
    memory[0xE0000:0xE0024] = Rsdp(xsdt=0x7FFE0000).to_bytes()
    shown = decode(bytes(memory), "memory")
    assert "cannot be read: the dump has 0x100000 bytes, and something leads to 0x7ffe0000-0x7ffe0007" in shown.text
    assert shown.value.acpi is None
    assert shown.value.smbios


def survives(data, kind):
    """Decoding gives a section or one of our errors, in one line."""
    try:
        section = decode(data, kind)
    except AnyvisorError:
        return
    json.dumps(section.to_data(), ensure_ascii=False).encode("utf-8")
    assert section.short


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200))
@example("cpuid", b"CPU 0:\n" + b"0x0 0x0: eax=0x0 ebx=0x0 ecx=0x0 edx=0x0\n")
def test_any_bytes_of_any_kind_are_told_or_refused(kind, data):
    survives(data, kind)
    sniff(data)


def damaged(content, spots):
    data = bytearray(content)
    for position, value in spots:
        data[position % len(data)] = value
    return data


SPOTS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6)


@settings(max_examples=400)
@given(st.sampled_from(sorted(set(OF_FILES) - {"memory"})), SPOTS, st.integers(0, 300), st.booleans())
def test_damaged_tables_are_told_or_refused(files, name, spots, cut, mend):
    """Also with the checksum made right again, so that what lies behind it is reached."""
    data = damaged(files[name], spots)
    data = data[: len(data) - cut] if cut < len(data) else data
    if mend and OF_FILES[name] == "acpi" and len(data) > 9:
        data[9] = (data[9] - sum(data)) % 256
    if mend and OF_FILES[name] == "mptable" and len(data) > 7:
        at = 7 if data.startswith(b"PCMP") else 10
        data[at % len(data)] = (data[at % len(data)] - sum(data)) % 256
    survives(bytes(data), OF_FILES[name])
    sniff(bytes(data), name)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from([0x9E000, 0x9FC10, 0xA0000, 0xE0000, 0xF0000]), st.integers(0, 2048), st.integers(0, 255)), max_size=6))  # fmt: skip  # noqa: E501
def test_damaged_memory_is_told_or_refused(files, spots):
    survives(bytes(damaged(files["memory"], [(base + offset, value) for base, offset, value in spots])), "memory")
