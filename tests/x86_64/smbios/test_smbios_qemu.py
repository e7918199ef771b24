"""The tables that QEMU and SeaBIOS leave in a PC's memory, and those of the host: they have the same bytes again.

SeaBIOS runs with no disk to boot from; the first MiB of the machine is then saved through QMP.
"""

import contextlib
import shutil
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from smbios_judges import needs_dmidecode, run, shown

from anyvisor.errors import PlanError
from anyvisor.memory import GIB, MIB
from anyvisor.x86_64.smbios import (
    BaseboardInformation,
    BiosInformation,
    ChassisInformation,
    EntryPoint32,
    EntryPoint64,
    MemoryArrayMappedAddress,
    MemoryDevice,
    PhysicalMemoryArray,
    ProcessorInformation,
    RawStructure,
    SmbiosTables,
    SystemInformation,
    find_entry,
)
from qmp import ask

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="install QEMU (Debian: qemu-system-x86) to have its tables read")
SECONDS = 30
UUID = "00112233-4455-6677-8899-aabbccddeeff"
MACHINES = {
    "pc": ["-M", "pc", "-m", "256M"],
    "q35": ["-M", "q35", "-m", "5G", "-smp", "8,sockets=2,cores=2,threads=2"],
    "64-bit entry point": ["-M", "q35,smbios-entry-point-type=64", "-m", "128M", "-smp", "1,maxcpus=255,cores=255"],
    "large": [
        "-M", "q35,memory-backend=ram", "-m", "40G",
        "-object", "memory-backend-ram,id=ram,size=40G,reserve=off",
    ],
    "strings": [
        "-M", "pc", "-m", "64M",
        "-smbios", "type=0,vendor=Maker,version=v1,date=02/29/2024,release=3.14,uefi=on",
        "-smbios", f"type=1,manufacturer=ACME,product=Anvil,version=2,serial=7,uuid={UUID},sku=S,family=F",
        "-smbios", "type=2,manufacturer=ACME,product=Board,version=3,serial=8,asset=A,location=L",
        "-smbios", "type=3,manufacturer=ACME,version=4,serial=9,asset=B,sku=C",
        "-smbios", "type=4,sock_pfx=Socket,manufacturer=ACME,version=5,max-speed=3000,serial=10,asset=D,part=E",
        "-smbios", "type=11,value=first,value=second",
        "-smbios", "type=17,loc_pfx=Slot,bank=Bank,manufacturer=ACME,serial=11,asset=G,part=H,speed=3200",
    ],
}  # fmt: skip


class Qemu:
    """An emulated PC without a disk, spoken to over QMP; it ends by itself after a minute."""

    def __init__(self, arguments: list[str]):
        silent = ["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-qmp", "stdio"]
        command = ["timeout", "-k", "5", "60", QEMU, *arguments, *silent]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: object) -> None:
        ask(self.process, name, **arguments)

    def first_mebibyte(self, file: Path) -> bytes:
        """What is there once SeaBIOS has made the tables."""
        for _ in range(SECONDS * 10):
            self.command("pmemsave", val=0, size=MIB, filename=str(file))
            memory = file.read_bytes()
            if find_entry(reader(memory)):
                return memory
            time.sleep(0.1)
        raise AssertionError(f"SeaBIOS made no tables in {SECONDS} s")

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate()


def reader(memory):
    return lambda address, size: memory[address : address + size]


@pytest.fixture(scope="module")
def memory_of(tmp_path_factory):
    """The first MiB of the machine of that name, made once."""
    made = {}

    def get(name):
        if name not in made:
            with contextlib.closing(Qemu(MACHINES[name])) as qemu:
                made[name] = qemu.first_mebibyte(tmp_path_factory.mktemp("qemu") / "memory")
        return made[name]

    return get


@pytest.fixture
def tables_of(memory_of):
    def get(name):
        read = reader(memory_of(name))
        return SmbiosTables.from_memory(read, find_entry(read))

    return get


def one(tables, kind):
    [found] = tables.of(kind)
    return found


@needs_qemu
@pytest.mark.parametrize("name", MACHINES)
def test_qemus_tables_have_the_same_bytes_again(name, memory_of):
    memory = memory_of(name)
    place = find_entry(reader(memory))
    tables = SmbiosTables.from_memory(reader(memory), place)
    entry = tables.entry
    assert entry.to_bytes() == memory[place : place + len(entry.to_bytes())]
    assert isinstance(entry, EntryPoint64 if name == "64-bit entry point" else EntryPoint32)
    assert tables.to_bytes() == memory[entry.table_address : entry.table_address + entry.table_bytes]
    kinds = {type(each) for each in tables.structures}
    assert {BiosInformation, SystemInformation, ChassisInformation, ProcessorInformation, MemoryDevice} <= kinds


@needs_qemu
@needs_dmidecode
@pytest.mark.parametrize("name", MACHINES)
def test_dmidecode_shows_the_same_of_qemus_tables_and_of_ours_made_of_them(name, memory_of, tables_of, tmp_path):
    memory = memory_of(name)
    tables = tables_of(name)
    entry = tables.entry
    content = memory[entry.table_address : entry.table_address + entry.table_bytes]
    dumps = {
        "theirs": entry.moved(0x20).to_bytes().ljust(0x20, b"\0") + content,
        "ours": tables.to_dump(),
    }
    texts = []
    for each, dump in dumps.items():
        (tmp_path / each).write_bytes(dump)
        output = run("dmidecode", "--from-dump", tmp_path / each)
        texts.append([shown(part) for part in output.split("\n\n") if part.startswith("Handle")])
    assert texts[0] == texts[1]
    assert len(texts[0]) == len(tables.structures)


@needs_qemu
def test_the_strings_given_to_qemu_are_read(tables_of):
    tables = tables_of("strings")
    bios, system, board = (one(tables, kind) for kind in (BiosInformation, SystemInformation, BaseboardInformation))
    assert (bios.vendor, bios.version, bios.release_date) == ("Maker", "v1", "02/29/2024")
    assert (bios.major_release, bios.minor_release) == (3, 14)
    assert bios.extension.uefi
    assert (system.manufacturer, system.product, system.version, system.serial) == ("ACME", "Anvil", "2", "7")
    assert (system.uuid, system.sku, system.family) == (uuid.UUID(UUID), "S", "F")
    assert (board.product, board.asset_tag, board.location) == ("Board", "A", "L")
    chassis = one(tables, ChassisInformation)
    assert (chassis.version, chassis.serial, chassis.asset_tag, chassis.sku) == ("4", "9", "B", "C")
    assert board.chassis == chassis.handle
    processor, device = one(tables, ProcessorInformation), one(tables, MemoryDevice)
    assert (processor.socket, processor.version, processor.max_speed) == ("Socket 0", "5", 3000)
    assert (processor.serial, processor.asset_tag, processor.part_number) == ("10", "D", "E")
    assert (device.locator, device.bank, device.manufacturer, device.speed) == ("Slot 0", "Bank", "ACME", 3200)
    assert (device.serial, device.asset_tag, device.part_number) == ("11", "G", "H")
    [oem] = [each for each in tables.structures if isinstance(each, RawStructure)]
    assert (oem.type, oem.strings) == (11, ("first", "second"))


@needs_qemu
def test_the_processors_and_the_memory_given_to_qemu_are_read(tables_of):
    tables = tables_of("q35")
    assert [(each.cores, each.threads) for each in tables.of(ProcessorInformation)] == [(2, 4)] * 2
    assert one(tables, PhysicalMemoryArray).capacity_bytes == 5 * GIB
    assert sum(each.size_bytes for each in tables.of(MemoryDevice)) == 5 * GIB
    ranges = [each.region for each in tables.of(MemoryArrayMappedAddress)]
    assert sum(each.size_bytes for each in ranges) == 5 * GIB
    assert [each.start for each in ranges] == [0, 4 * GIB]
    assert one(tables_of("64-bit entry point"), ProcessorInformation).cores == 255
    large = tables_of("large")
    assert one(large, PhysicalMemoryArray).capacity_bytes == 40 * GIB
    assert [each.size_bytes for each in large.of(MemoryDevice)] == [16 * GIB, 16 * GIB, 8 * GIB]


def host_tables():
    """The host's own, if it has some and shows them: a few machines that nobody here made."""
    files = Path("/sys/firmware/dmi/tables")
    with contextlib.suppress(OSError):
        return [pytest.param((files / "DMI").read_bytes(), (files / "smbios_entry_point").read_bytes(), id="host")]
    return []


SHORT = SystemInformation(product="Anvil").to_bytes()


@pytest.mark.parametrize(
    ("table", "entry"), [pytest.param(SHORT, EntryPoint64(0, len(SHORT)).to_bytes(), id="made here"), *host_tables()]
)
def test_the_hosts_tables_have_the_same_bytes_again(table, entry):
    tables = SmbiosTables.decode(table, entry)
    assert tables.to_bytes() == table[: tables.size_bytes]
    assert tables.entry.to_bytes() == entry
    assert one(tables, SystemInformation).product


@needs_qemu
def test_a_cut_image_is_an_error_and_no_table(memory_of):
    memory = memory_of("pc")
    place = find_entry(reader(memory))
    middle = SmbiosTables.from_memory(reader(memory), place).entry.table_address + 200
    with pytest.raises(PlanError, match="offset 0x"):
        SmbiosTables.from_memory(reader(memory[:middle]), place)
