"""QEMU's CPU and firmware as judges: they read our GDT and page tables, we read their MP table and APIC.

A multiboot kernel of some hundred bytes loads our GDT, enters long mode with our page tables, copies the
local APIC's page through them and halts. QEMU then says in its own words what its registers hold and where
addresses lead.
"""

import re
import shutil
import struct
import subprocess
import time

import pytest

from anyvisor.memory import GIB, MIB
from anyvisor.x86_64.gdt import BYTE, Gdt, Segment
from anyvisor.x86_64.lapic import LAPIC_BASE, Lapic, LocalVector, boot_lapic
from anyvisor.x86_64.mptable import Bus, MpTable, find_pointer
from anyvisor.x86_64.paging import PageTables, Translation, walk_memory
from qmp import ask

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = pytest.mark.skipif(QEMU is None, reason="install QEMU (Debian: qemu-system-x86) to have it judge")

LOAD = 0x100000
CODE64, GDT, GDTR, APIC_COPY, TABLES = LOAD + 0x80, LOAD + 0x200, LOAD + 0x300, LOAD + 0x400, LOAD + 0x1000

JUDGED = Gdt(
    Segment.null(),
    Segment.null(),
    Segment.code(bits=64),
    Segment.data(),
    Segment.tss(base=0x1234_5678_9000, limit_bytes=0x67, granularity=BYTE),
    Segment.code(bits=32),
    Segment.data(base=0x89ABCDEF, limit_bytes=0x1234FFF, privilege=0, available=True),
    Segment.data(bits=16, base=0x1000, limit_bytes=0xABCDE, granularity=BYTE, expand_down=True),
    Segment.ldt(base=0x7654_0000_1000, limit_bytes=0x3FF, granularity=BYTE),
)
FS, GS, LDT = JUDGED.selector(6), JUDGED.selector(7), JUDGED.selector(8)


def code32(root: int) -> bytes:
    return b"".join(
        [
            b"\x0f\x01\x15" + struct.pack("<I", GDTR),        # lgdt [GDTR]
            b"\xb8" + struct.pack("<I", FS) + b"\x8e\xe0",    # mov eax, FS; mov fs, eax
            b"\xb8" + struct.pack("<I", GS) + b"\x8e\xe8",    # mov eax, GS; mov gs, eax
            b"\x0f\x20\xe0\x83\xc8\x20\x0f\x22\xe0",          # cr4 |= PAE
            b"\xb8" + struct.pack("<I", root) + b"\x0f\x22\xd8",  # mov eax, root; mov cr3, eax
            b"\xb9\x80\x00\x00\xc0\x0f\x32\x0d\x00\x01\x00\x00\x0f\x30",  # EFER |= LME
            b"\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0",  # cr0 |= PG
            b"\xea" + struct.pack("<IH", CODE64, 0x10),       # jmp 0x10:CODE64
        ]
    )  # fmt: skip


CODE64_BYTES = bytes(
    [0xB8, 0x18, 0, 0, 0, 0x8E, 0xD8, 0x8E, 0xD0,   # mov eax, 0x18; mov ds, eax; mov ss, eax
     0xB8, 0x20, 0, 0, 0, 0x0F, 0x00, 0xD8,         # mov eax, 0x20; ltr ax
     0xB0, LDT, 0x0F, 0x00, 0xD0,                   # mov al, LDT; lldt ax
     0xBE, *struct.pack("<I", LAPIC_BASE),          # mov esi, LAPIC_BASE
     0xBF, *struct.pack("<I", APIC_COPY),           # mov edi, APIC_COPY
     0xB9, 0, 1, 0, 0, 0xF3, 0xA5,                  # mov ecx, 256; rep movsd
     0xF4, 0xEB, 0xFD]                              # hlt; jmp back to it
)  # fmt: skip
HALTED = CODE64 + len(CODE64_BYTES) - 3


def kernel(tables: PageTables) -> bytes:
    """A multiboot image whose header says where to load and enter it."""
    image = bytearray(TABLES - LOAD)
    magic, flags = 0x1BADB002, 1 << 16
    header = struct.pack("<8I", magic, flags, -(magic + flags) % 2**32, LOAD, LOAD, 0, 0, LOAD + 32)
    pieces = {LOAD: header + code32(tables.root), CODE64: CODE64_BYTES, GDT: JUDGED.to_bytes()}
    pieces[GDTR] = struct.pack("<HI", JUDGED.limit_bytes, GDT)
    for address, piece in pieces.items():
        image[address - LOAD : address - LOAD + len(piece)] = piece
    return bytes(image) + tables.to_bytes()


class Qemu:
    """An emulated PC with three CPUs, spoken to over QMP."""

    def __init__(self, image):
        machine = ["-M", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "3,sockets=3", "-m", "64"]
        silent = ["-nodefaults", "-display", "none", "-qmp", "stdio"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [QEMU, *machine, *silent, "-kernel", str(image)], stdin=pipe, stdout=pipe, text=True
        )
        self.command("qmp_capabilities")

    def command(self, name, **arguments):
        return ask(self.process, name, **arguments)

    def monitor(self, text):
        return self.command("human-monitor-command", **{"command-line": text})

    def wait_until_halted(self):
        for _ in range(300):
            registers = self.monitor("info registers")
            if f"RIP={HALTED + 1:016x}" in registers and "HLT=1" in registers:
                return registers
            time.sleep(0.1)
        raise AssertionError(f"the kernel did not get to its HLT:\n{registers}")


@pytest.fixture(scope="module", params=[2 * MIB, GIB], ids=["2M-pages", "1G-pages"])
def judged(request, tmp_path_factory):
    """(tables, registers as QEMU prints them, lowest 2 MiB of its memory, function to ask its monitor)."""
    folder = tmp_path_factory.mktemp("qemu")
    tables = PageTables.identity(5 * GIB + 1, page_bytes=request.param, root=TABLES)
    (folder / "kernel").write_bytes(kernel(tables))
    qemu = Qemu(folder / "kernel")
    try:
        registers = qemu.wait_until_halted()
        qemu.command("pmemsave", val=0, size=2 * MIB, filename=str(folder / "memory"))
        yield tables, registers, (folder / "memory").read_bytes(), qemu.monitor
    finally:
        qemu.process.kill()
        qemu.process.communicate()


def reader(memory):
    return lambda address, size: memory[address : address + size]


@pytest.mark.parametrize(
    ("name", "index", "kind"),
    [("CS", 2, "CS64 [-RA]"), ("DS", 3, "DS   [-WA]"), ("SS", 3, "DS   [-WA]"), ("TR", 4, "TSS64-avl"),
     ("FS", 6, "DS   [-WA]"), ("GS", 7, "DS   [EWA]"), ("LDT", 8, "LDT")],
)  # fmt: skip
def test_the_processor_loads_from_our_gdt_what_we_say_it_does(judged, name, index, kind):
    _, registers, _, _ = judged
    ours = JUDGED.register(JUDGED.selector(index))  # of TR, QEMU shows the descriptor as it was before LTR
    found = re.search(rf"^{name} *=([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) DPL=(\d) (.*)$", registers, re.M)
    selector, base, limit, flags, dpl = (int(found[i], 16) for i in range(1, 6))
    assert (ours.selector, ours.base, ours.limit, ours.dpl) == (selector, base, limit, dpl)
    assert Segment.from_register(ours).flags == flags >> 8 & 0xF0FF
    assert found[6].strip() == kind


def test_the_processor_sets_the_busy_bit_where_we_look_for_it(judged):
    _, _, memory, _ = judged
    table = Gdt.from_bytes(memory[GDT : GDT + JUDGED.limit_bytes + 1])
    assert (JUDGED[4].words, table[4].words) == ("tss64", "tss64 busy")
    assert [table[i] for i in range(9) if i != 4] == [JUDGED[i] for i in range(9) if i != 4]


def test_the_local_apic_is_reached_in_the_mmio_gap_and_reads_as_qemu_says(judged):
    _, _, memory, monitor = judged
    ours = Lapic.from_bytes(memory[APIC_COPY : APIC_COPY + 1024])
    theirs = monitor("info lapic")
    names = {
        "LVT0": "lint0", "LVT1": "lint1", "LVTPC": "performance", "LVTERR": "error", "LVTTHMR": "thermal",
        "LVTT": "timer", "SPIV": "spurious_vector", "ESR": "error_status",
    }  # fmt: skip
    for name, register in names.items():
        assert int(re.search(rf"^{name}\s+(0x[0-9a-f]+)", theirs, re.M)[1], 16) == getattr(ours, register), name
    assert ours.version == 0x50014
    assert ours.destination_format == 0xFFFFFFFF


def test_our_lint_pins_are_as_the_firmware_leaves_them(judged):
    _, _, memory, _ = judged
    theirs = Lapic.from_bytes(memory[APIC_COPY : APIC_COPY + 1024])
    ours = boot_lapic(boot_processor=True).apply(Lapic())
    trigger = LocalVector(level_triggered=True)  # means nothing to ExtINT and NMI; SeaBIOS sets it all the same
    assert (ours.lint0, ours.lint1) == (theirs.lint0 & ~trigger, theirs.lint1 & ~trigger)


def test_the_processor_translates_addresses_as_our_tables_and_our_walk_do(judged):
    tables, _, memory, monitor = judged
    edge = tables.end_address
    for address in (0, 0x1234, LOAD, 2 * MIB, 0xB8000, 0xFEE00030, 4 * GIB, 5 * GIB, edge - 1, edge, 1 << 46):
        answer = re.search(r"gpa: ([0-9a-fx]+)", monitor(f"gva2gpa {address:#x}"))
        theirs = int(answer[1], 16) if answer else None
        walked = walk_memory(reader(memory), tables.root, address)
        assert walked == tables.walk(address)
        assert walked == (None if theirs is None else Translation(theirs, tables.page_bytes))


def test_the_firmwares_mp_table_is_found_and_read_and_written_again_to_the_byte(judged):
    _, _, memory, _ = judged
    pointer = find_pointer(reader(memory))
    table = MpTable.from_memory(reader(memory), pointer)
    address = int.from_bytes(memory[pointer + 4 : pointer + 8], "little")
    assert table.oem == "BOCHSCPU"
    assert [cpu.apic_id for cpu in table.processors] == [0, 1, 2]
    assert [cpu.bootstrap for cpu in table.processors] == [True, False, False]
    assert "ISA" in [entry.type for entry in table.entries if isinstance(entry, Bus)]
    assert table.to_bytes() == memory[address : address + table.size_bytes]
    assert table.pointer_bytes(address) == memory[pointer : pointer + 16]
