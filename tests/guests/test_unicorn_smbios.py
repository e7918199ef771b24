"""Debian's kernels on the emulated processor read the SMBIOS tables and show who the machine was configured to be."""

import re

import pytest
from conversation import INIT, ask, greet

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.identity import Identity
from anyvisor.initramfs import busybox_initramfs
from anyvisor.x86_64.smbios import SmbiosTables, SystemInformation

pytestmark = pytest.mark.timeout(240)

WHO = Identity(
    manufacturer="ACME Inc.", product="Anvil 9", version="2nd", serial="S-7", sku="SKU-1", family="Irons",
    uuid="8c0b1d2e-3f40-4a5b-9c6d-7e8f90a1b2c3",
)  # fmt: skip
SHOWN = "cd /sys/class/dmi/id; for name in *; do [ -f $name ] && echo $name=$(cat $name); done; cd /"
TABLE, ENTRY = "/sys/firmware/dmi/tables/DMI", "/sys/firmware/dmi/tables/smbios_entry_point"


@pytest.fixture(scope="module")
def initrd(busybox, tmp_path_factory):
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(path)
    return path


@pytest.fixture(scope="module")
def answers(initrd, cloud_kernel, generic_kernel):
    """A function: what the guest prints for each question, with an identity or without tables at all."""
    kernels = {"cloud": cloud_kernel, "generic": generic_kernel}

    def talk(flavour, questions, **config):
        config = MachineConfig(kernel=kernels[flavour].vmlinuz, initrd=initrd, memory="256M", unpack=True, **config)
        config = config.replace(command_line=f"{config.command_line} quiet 8250.nr_uarts=1")
        with anyvisor.boot(config, backend="unicorn") as machine:
            greet(machine, kernels[flavour].version)
            return [ask(machine, question) for question in questions]

    return talk


@pytest.fixture(scope="module", params=["cloud", "generic"])
def read_by(request, answers):
    """What a kernel says of itself, shows in sysfs, and gives of the tables' bytes."""
    questions = ["dmesg", SHOWN, f"od -An -v -tx1 {TABLE}", f"od -An -v -tx1 {ENTRY}"]
    return answers(request.param, questions, identity=WHO)


def test_the_log_names_the_machine_and_its_firmware(read_by):
    log, *_ = read_by
    assert "SMBIOS 3.3.0 present." in log
    assert re.search(rf"DMI: ACME Inc\. Anvil 9/, BIOS {re.escape(anyvisor.__version__)} \d\d/\d\d/\d{{4}}\n", log)
    assert "DMI not present" not in log


def test_sysfs_agrees_with_the_configuration(read_by):
    shown = dict(line.split("=", 1) for line in read_by[1].splitlines() if "=" in line)
    names = {
        "sys_vendor": WHO.manufacturer, "product_name": WHO.product, "product_version": WHO.version,
        "product_serial": WHO.serial, "product_uuid": str(WHO.uuid), "product_sku": WHO.sku,
        "product_family": WHO.family, "chassis_vendor": WHO.manufacturer, "board_vendor": WHO.manufacturer,
    }  # fmt: skip
    assert {name: shown.get(name) for name in names} == names


def test_the_kernel_gives_the_very_bytes_that_were_planned(read_by):
    table, entry = (bytes.fromhex(text) for text in read_by[2:])
    tables = SmbiosTables.decode(table, entry)
    assert tables.to_bytes() == table
    assert [each.product for each in tables.of(SystemInformation)] == [WHO.product]
    assert tables.entry.table_address == 0xF0020


def test_without_tables_the_kernel_finds_none_and_says_so(answers):
    log, shown = answers("cloud", ["dmesg", SHOWN], tables="none")
    assert "DMI not present or invalid." in log
    assert "product_name" not in shown


def test_without_a_uuid_the_kernel_shows_none(answers):
    [shown] = answers("cloud", [SHOWN], identity=Identity(product="Nameless"))
    assert "product_name=Nameless\n" in shown
    assert "product_uuid" not in shown
