"""Debian's kernels on the emulated processor read the SMBIOS tables and show who the machine was configured to be."""

import re

import pytest
from interviews import WHO

import anyvisor
from anyvisor.x86_64.smbios import SmbiosTables, SystemInformation

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(params=["cloud vmlinux", "generic vmlinux"])
def read_by(request, interviewed):
    """What a kernel says of itself, shows in sysfs, and gives of the tables' bytes."""
    return interviewed(request.param)


def test_the_log_names_the_machine_and_its_firmware(read_by):
    assert "SMBIOS 3.3.0 present." in read_by.log
    version = re.escape(anyvisor.__version__)
    assert re.search(rf"DMI: ACME Inc\. Anvil 9/, BIOS {version} \d\d/\d\d/\d{{4}}\n", read_by.log)
    assert "DMI not present" not in read_by.log


def test_sysfs_agrees_with_the_configuration(read_by):
    names = {
        "sys_vendor": WHO.manufacturer, "product_name": WHO.product, "product_version": WHO.version,
        "product_serial": WHO.serial, "product_uuid": str(WHO.uuid), "product_sku": WHO.sku,
        "product_family": WHO.family, "chassis_vendor": WHO.manufacturer, "board_vendor": WHO.manufacturer,
    }  # fmt: skip
    assert {name: read_by.identity.get(name) for name in names} == names


def test_the_kernel_gives_the_very_bytes_that_were_planned(read_by):
    table, entry = bytes.fromhex(read_by.structures), bytes.fromhex(read_by.entry_point)
    tables = SmbiosTables.decode(table, entry)
    assert tables.to_bytes() == table
    assert [each.product for each in tables.of(SystemInformation)] == [WHO.product]
    assert tables.entry.table_address == 0xF0020


def test_without_tables_the_kernel_finds_none_and_says_so(interviewed):
    told = interviewed("no tables")
    assert "DMI not present or invalid." in told.log
    assert "product_name" not in told.identity


def test_without_a_uuid_the_kernel_shows_none(interviewed):
    shown = interviewed("cloud bzImage").identity
    assert shown["product_name"] == "Nameless"
    assert "product_uuid" not in shown
