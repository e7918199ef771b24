"""iasl and acpiexec judge the tables of whole machines, and our decoder reads the tables that iasl makes."""

import re

import attrs
import pytest
from acpi_judges import complaints, loaded, needs_acpica, run, taken_apart, told
from acpi_machines import HPET, PC, PCIE, PM, REDUCED_PM, halves, placed, virtio

from anyvisor.x86_64.acpi.entries import Entry
from anyvisor.x86_64.acpi.fadt import Fadt
from anyvisor.x86_64.acpi.generic_address import GenericAddress
from anyvisor.x86_64.acpi.read import KINDS, decode_table
from anyvisor.x86_64.acpi.table import Table

pytestmark = needs_acpica

AML = {"DSDT", "SSDT"}
NO_TABLES = {"s3pt"}
"""What iasl has a template for although it is no table: a part of one, with no checksum."""
WITHOUT_BLOCKS = re.compile(
    r"Unexpected AE_BAD_(PARAMETER from Acpi\w*Gpe\w*|ADDRESS from Acpi(Read|Write)BitRegister) "
)
"""What acpiexec says of registers that our machines have not: it tries out GPEs and PM2, and is told of none."""


def blobs(vcpus, virtios, *, reduced, numa):
    devices = (*PC, HPET, PCIE, *virtio(virtios), REDUCED_PM if reduced else PM)
    return placed(vcpus, devices=devices, numa=halves(vcpus) if numa else ()).blobs


def with_fadt(found, change):
    """The same tables with another FADT."""
    return [
        attrs.evolve(each, content=change(Fadt.decode(each.content)).to_bytes()) if each.name == "FADT" else each
        for each in found
    ]


def with_all_blocks(fadt):
    """The FADT of a machine that has general-purpose events and a PM2 register too."""
    gpe0 = {"gpe0_blk": 0x620, "gpe0_blk_len": 8, "x_gpe0_blk": GenericAddress.io(0x620, 64)}
    gpe1 = {"gpe1_blk": 0x640, "gpe1_blk_len": 8, "x_gpe1_blk": GenericAddress.io(0x640, 64), "gpe1_base": 96}
    return attrs.evolve(
        fadt, **gpe0, **gpe1, pm2_cnt_blk=0x630, pm2_cnt_len=1, x_pm2_cnt_blk=GenericAddress.io(0x630, 8)
    )


@pytest.mark.parametrize("reduced", [False, True], ids=["fixed", "reduced"])
@pytest.mark.parametrize(
    ("vcpus", "virtios", "numa"),
    [
        (1, 0, False), (1, 32, True), (2, 0, True), (2, 1, False), (254, 1, False),
        (254, 32, True), (300, 0, True), (300, 1, False), (1024, 0, False), (1024, 32, True),
    ],
)  # fmt: skip
def test_acpica_reads_and_loads_every_table_without_a_complaint(tmp_path, vcpus, virtios, reduced, numa):
    found = blobs(vcpus, virtios, reduced=reduced, numa=numa)
    expected = ["FACS", "XSDT", "FADT", "DSDT", "MADT", "SRAT", "SLIT", "SPCR", "HPET", "MCFG", "SSDT"]
    absent = {*(["FACS"] if reduced else []), *([] if numa else ["SRAT", "SLIT"])}
    assert [each.name for each in found[1:]] == [each for each in expected if each not in absent]
    taken_apart(tmp_path, {each.name: each.content for each in found[1:] if each.name not in AML})
    words = loaded(tmp_path, found)
    assert [line for line in complaints(words) if reduced or not WITHOUT_BLOCKS.match(line)] == []
    assert "2 ACPI AML tables successfully acquired and loaded" in words
    assert f"{3 * vcpus} Objects with {vcpus} Devices" in re.sub(" +", " ", words)


def test_what_acpica_says_of_registers_is_only_that_they_are_not_there(tmp_path):
    found = blobs(300, 1, reduced=False, numa=True)
    assert complaints(loaded(tmp_path, found))
    assert complaints(loaded(tmp_path, with_fadt(found, with_all_blocks))) == []


def test_the_judges_do_complain(tmp_path):
    found = blobs(2, 1, reduced=False, numa=True)
    for each in found[2:]:
        (tmp_path / "broken.dat").write_bytes(each.content[:-1] + bytes([each.content[-1] ^ 1]))
        assert complaints(told(tmp_path, "iasl", "-d", "broken.dat")), each.name
    other = with_fadt(found, lambda fadt: attrs.evolve(with_all_blocks(fadt), pm1_evt_len=8))
    assert complaints(loaded(tmp_path, other))


def test_every_table_that_iasl_has_a_template_for_is_read_and_written_again_to_the_byte(tmp_path):
    run(tmp_path, "iasl", "-T", "ALL")
    sources = sorted(each for each in tmp_path.glob("*.asl") if each.stem not in NO_TABLES)
    run(tmp_path, "iasl", *(each.name for each in sources))
    tables = {}
    for source in sources:
        content = source.with_suffix(".aml").read_bytes()
        table = decode_table(content)
        assert table.to_bytes() == content, source.name
        assert table.describe()
        tables[table.name] = table
    understood = {name for name, each in tables.items() if not isinstance(each, Table)}
    assert understood == {"RSDP", "FACS", *(kind.NAME for kind in KINDS.values())}
    for name, types in {"MADT": {0, 1, 2, 3, 4, 5, 9, 10}, "SRAT": {0, 1, 2}}.items():
        assert {each.TYPE for each in tables[name].entries if isinstance(each, Entry)} == types
