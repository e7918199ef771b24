"""How far a kernel has moved, as its registers and memory tell: machines made by hand, and a real kernel's plan."""

import os
import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.errors import GuestMemoryError, HypervisorUnavailable
from anyvisor.memory import GIB, MIB
from anyvisor.symbols import Symbols
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.kaslr import kernel_name, slide
from anyvisor.x86_64.modes import LONG, PROTECTED, enter
from anyvisor.x86_64.msrs import Msr, Msrs
from anyvisor.x86_64.read_back import boot_fields
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import DescriptorTable, Sregs
from guests.debian import cloud_kernel

KERNEL, KERNEL_32 = 0xFFFFFFFF81000000, 0xC1000000
LSTAR, IDT, TOP = 0xC0000082, 0x200000, 0x1000
HANDLERS = {0: "divide_error", 6: "invalid_op", 13: "general_protection", 14: "page_fault"}
RESET = next(state for state in reset_states() if isinstance(state, Sregs))


def symbols(base=KERNEL, prefix="asm_exc_"):
    handlers = [(base + 0xC00000 + 0x20 * vector, "T", prefix + name) for vector, name in HANDLERS.items()]
    more = [("T", "startup_64", 0), ("T", "entry_SYSCALL_64", 0xC00800), ("D", "linux_banner", 0x1100000)]
    return Symbols.of([*handlers, *((base + offset, kind, name) for kind, name, offset in more), (0x1000, "A", "x")])


class Guest:
    """64 MiB of RAM with page tables of long mode, and what the tests put there."""

    def __init__(self):
        self.ram = bytearray(64 * MIB)
        self.free = TOP + 0x1000

    def read(self, address, size_bytes):
        if not 0 <= address <= len(self.ram) - size_bytes:
            raise GuestMemoryError(f"{address:#x}")
        return bytes(self.ram[address : address + size_bytes])

    def put(self, address, content):
        self.ram[address : address + len(content)] = content

    def map(self, virtual, physical):
        """A page of 2 MiB."""
        table = TOP
        for shift in (39, 30):
            at = table + 8 * (virtual >> shift & 511)
            (entry,) = struct.unpack("<Q", self.read(at, 8))
            if not entry:
                entry, self.free = self.free | 3, self.free + 0x1000
                self.put(at, struct.pack("<Q", entry))
            table = entry & ~0xFFF
        self.put(table + 8 * (virtual >> 21 & 511), struct.pack("<Q", physical | 0x83))

    def gate(self, vector, handler, base=IDT):
        low, middle, high = handler & 0xFFFF, handler >> 16 & 0xFFFF, handler >> 32
        self.put(base + 16 * vector, struct.pack("<HHHHII", low, 0x10, 0x8E00, middle, high, 0))


def long_mode(idt_limit=0xFFF, lstar=0, idt=0xFFFFFE0000000000):
    sregs = attrs.evolve(enter(LONG, RESET, page_table=TOP), idt=DescriptorTable(idt, idt_limit))
    return {Sregs: sregs, Msrs: Msrs.of({LSTAR: lstar})}


@pytest.fixture
def guest():
    made = Guest()
    made.map(0xFFFFFE0000000000, IDT)
    return made


@pytest.fixture
def set_up(guest):
    """A function that fills the IDT with the handlers of a kernel."""

    def set_up(known, moved):
        for vector in range(32):
            guest.gate(vector, KERNEL + 0x123456 + moved)
        for vector, name in HANDLERS.items():
            guest.gate(
                vector, next(known.address(p + name) for p in ("asm_exc_", "") if known.address(p + name)) + moved
            )

    return set_up


@pytest.mark.parametrize("moved", [0, 2 * MIB, 0x0F200000, GIB - 2 * MIB])
def test_the_entry_of_system_calls_tells_it(moved, guest):
    assert slide(symbols(), long_mode(lstar=KERNEL + 0xC00800 + moved), guest.read) == moved


@pytest.mark.parametrize("lstar", [0, 0x401000, KERNEL, KERNEL + 0xC00801, KERNEL + 0xC00800 + GIB, 1 << 63])
def test_an_entry_that_no_move_explains_tells_nothing(lstar, guest, set_up):
    set_up(symbols(), 6 * MIB)
    assert slide(symbols(), long_mode(lstar=lstar), guest.read) == 6 * MIB
    assert slide(symbols(), long_mode(lstar=lstar, idt_limit=0), guest.read) == 0


@pytest.mark.parametrize("prefix", ["asm_exc_", ""], ids=["from 5.8 on", "before"])
@pytest.mark.parametrize("moved", [0, 0x0F200000])
def test_the_handlers_of_exceptions_tell_it(moved, prefix, guest, set_up):
    set_up(symbols(prefix=prefix), moved)
    assert slide(symbols(prefix=prefix), long_mode(), guest.read) == moved


def test_the_handlers_outvote_one_that_was_replaced(guest, set_up):
    set_up(symbols(), 4 * MIB)
    guest.gate(14, symbols().address("asm_exc_page_fault") + 8 * MIB)
    assert slide(symbols(), long_mode(), guest.read) == 4 * MIB


def test_an_idt_is_read_no_further_than_its_limit(guest, set_up):
    set_up(symbols(), 4 * MIB)
    assert slide(symbols(), long_mode(idt_limit=16 * 14 - 2), guest.read) == 0


def test_the_banner_tells_it_before_there_is_an_idt(guest):
    banner = symbols().address("linux_banner") + 30 * MIB
    guest.map(banner, 0x1400000)
    guest.put(0x1400000 + banner % (2 * MIB), b"Linux version 6.1.0")
    assert slide(symbols(), long_mode(idt_limit=0), guest.read) == 30 * MIB


@pytest.mark.parametrize("states", [{}, long_mode(idt_limit=0), {Sregs: RESET}], ids=["none", "no IDT", "reset"])
def test_a_kernel_of_which_nothing_is_known_has_not_moved(states, guest):
    assert slide(symbols(), states, guest.read) == 0
    assert slide(Symbols.of([]), states, guest.read) == 0


def test_symbols_that_have_been_moved_are_right(guest):
    states = long_mode(lstar=KERNEL + 0xC00800 + 4 * MIB)
    assert slide(symbols().moved(4 * MIB), states, guest.read) == 0
    assert slide(symbols().moved(2 * MIB), states, guest.read) == 2 * MIB


@pytest.mark.parametrize("pae", [False, True])
def test_an_i386_kernel_tells_it_by_its_idt(pae, guest):
    """Its kernel map, in a table of a page of 4 or 2 MiB, has the IDT right behind the tables."""
    known = Symbols.of([(KERNEL_32 + 0x20 * vector, "t", "asm_exc_" + name) for vector, name in HANDLERS.items()])
    sregs = attrs.evolve(
        enter(PROTECTED, RESET),
        cr0=Cr0(pe=True, pg=True),
        cr3=0x1020 if pae else 0x1000,
        cr4=Cr4(pae=pae, pse=True),
        idt=DescriptorTable(0xC0002000, 0x7FF),
    )
    if pae:
        guest.put(0x1020 + 8 * 3, struct.pack("<Q", 0x3001))
        guest.put(0x3000, struct.pack("<Q", 0x83))
    else:
        guest.put(0x1000 + 4 * 768, struct.pack("<I", 0x83))
    for vector, name in HANDLERS.items():
        handler = known.address("asm_exc_" + name) + 0xB000000
        guest.put(0x2000 + 8 * vector, struct.pack("<HHHH", handler & 0xFFFF, 0x60, 0x8E00, handler >> 16))
    assert slide(known, {Sregs: sregs}, guest.read) == 0xB000000


@given(
    st.builds(DescriptorTable, st.integers(0, 2**64 - 1), st.integers(0, 0xFFFF)),
    st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.booleans(), st.booleans(),
)  # fmt: skip
def test_whatever_a_guest_has_in_its_registers_there_is_an_answer(idt, cr3, lstar, lma, la57):
    sregs = attrs.evolve(RESET, idt=idt, cr0=Cr0(pe=True, pg=True), cr3=cr3, cr4=Cr4(la57=la57), efer=Efer(lma=lma))
    states = {Sregs: sregs, Msrs: Msrs.of({Msr.LSTAR: lstar})}
    assert 0 <= slide(symbols(), states, Guest.read.__get__(EMPTY)) < GIB
    assert kernel_name(symbols(), cr3, states, EMPTY.read) in (symbols().name(cr3), None)


EMPTY = Guest()


# -- names before the kernel is where it belongs -------------------------------------------------------------


def identity(guest, moved):
    """A kernel that lies `moved` bytes from its physical place; its code is mapped to itself."""
    guest.put(0x1000000 + 0x1100000 + moved, b"Linux version 6.1.0")
    guest.map(0x1000000 + moved, 0x1000000 + moved)
    guest.map(0x1C00000, 0x1000000 + moved)
    return long_mode(idt_limit=0)


@pytest.mark.parametrize("moved", [0, 10 * MIB])
def test_code_in_the_identity_map_is_named_and_it_is_said(moved, guest):
    states = identity(guest, moved)
    assert kernel_name(symbols(), 0x1000012 + moved, states, guest.read) == "startup_64+0x12 (at its physical address)"
    assert kernel_name(symbols().moved(2 * MIB), 0x1000000 + moved, states, guest.read).startswith("startup_64 (at")
    assert kernel_name(symbols(), KERNEL + 0x12, states, guest.read) == "startup_64+0x12"


def test_an_address_of_a_program_is_not_named_after_the_kernel(guest):
    """It leads elsewhere in memory than to where the kernel has its handlers."""
    states = identity(guest, 0)
    assert kernel_name(symbols(), 0x1C00012, states, guest.read) is None
    guest.map(0x1C00000, 0x1C00000)
    assert kernel_name(symbols(), 0x1C00012, states, guest.read).startswith("asm_exc_divide_error+0x12 (at")


def test_without_the_kernels_banner_nothing_is_named_by_its_physical_address(guest):
    states = identity(guest, 0)
    guest.put(0x2100000, b"Linus version")
    assert kernel_name(symbols(), 0x1000012, states, guest.read) is None


@pytest.mark.parametrize("end", [None, "_end"])
def test_a_name_is_looked_for_no_further_than_the_kernel_is_big(end, guest):
    """A report has names by the dozen, and a machine has processors by the hundred."""
    states, looked_at = identity(guest, 10 * MIB), []
    known = symbols()
    if end:
        more = [(KERNEL + 0x1200000, "B", end), (0xFFFFFFFFC0000000, "t", "function [module]")]
        known = Symbols.of([*((address, "T", name) for address, name in known), *more])

    def read(address, size_bytes):
        looked_at.append(address)
        return guest.read(address, size_bytes)

    assert kernel_name(known, 0x1000012 + 10 * MIB, states, read) == "startup_64+0x12 (at its physical address)"
    guest.put(0x2100000 + 10 * MIB, b"Linus version")
    assert kernel_name(known, 0x1000012 + 10 * MIB, states, read) is None
    guest.map(3 * GIB, 3 * GIB)
    assert kernel_name(known, 3 * GIB, states, read) is None
    assert slide(known, states, read) == 0
    assert len(looked_at) < 60


def test_the_banner_is_found_behind_a_hole_in_the_tables(guest):
    """The kernel map is 2 GiB: two tables of 1 GiB, of which there may be only the upper one."""
    known = symbols(KERNEL + GIB - 64 * MIB)
    banner = known.address("linux_banner") + 32 * MIB
    guest.map(banner, 0x1400000)
    guest.put(0x1400000 + banner % (2 * MIB), b"Linux version 6.1.0")
    assert slide(known, long_mode(idt_limit=0), guest.read) == 32 * MIB


@pytest.fixture(scope="module")
def kernel():
    try:
        return cloud_kernel().vmlinuz
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        return pytest.skip(str(error))


@pytest.mark.parametrize(("unpack", "name"), [(True, "startup_64 (at its physical address)"), (False, None)])
def test_the_entry_of_a_real_kernel_has_its_name_and_that_of_an_unpacker_has_none(unpack, name, kernel):
    plan = anyvisor.assemble(MachineConfig(kernel=kernel, memory="128M", unpack=unpack), FACTS)
    known, states = Symbols.load(kernel), {Sregs: attrs.evolve(RESET, **boot_fields(plan, Sregs))}
    assert slide(known, states, plan.read) == 0
    assert kernel_name(known, 0x1000000 if unpack else 0x1000200, states, plan.read) == name
