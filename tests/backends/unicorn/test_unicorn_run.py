"""What a guest does to its bus: ports, strings of them, MMIO, and memory beside it."""

import pytest
from emulated_guests import ABOVE_RAM, DATA, HALT, MMIO, RAM_BYTES

from anyvisor.bus import Bus
from anyvisor.exits import Halted, InternalError, Shutdown
from anyvisor.memory import MIB, Region
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.state import Regs, Sregs

ALL_ONES = (1 << 64) - 1


@pytest.mark.parametrize(
    ("out", "size_bytes", "value"), [("%al", 1, 0xEF), ("%ax", 2, 0xCDEF), ("%eax", 4, 0x89ABCDEF)]
)
def test_out_of_each_size_reaches_the_device(any_guest, out, size_bytes, value):
    made = any_guest(f"mov $0x89ABCDEF, %eax; out {out}, $PORT+1; {HALT}")
    assert made.run() == Halted()
    assert made.ports.writes == [(1, size_bytes, value)]


@pytest.mark.parametrize(
    ("into", "size_bytes", "rax"),
    [("%al", 1, 0x11223344556677EF), ("%ax", 2, 0x112233445566CDEF), ("%eax", 4, 0x89ABCDEF)],
)
def test_in_of_each_size_sets_that_part_of_the_register(any_guest, into, size_bytes, rax):
    made = any_guest(f"movabs $0x1122334455667788, %rax; in $PORT+2, {into}; {HALT}")
    made.ports.answers = [0x89ABCDEF]
    assert made.run() == Halted()
    assert made.ports.reads == [(2, size_bytes)]
    assert made.vcpu.get(Regs).rax == rax


@pytest.mark.parametrize(
    ("letter", "size_bytes", "items"), [("b", 1, 300), ("w", 2, 150), ("l", 4, 75)], ids=["outsb", "outsw", "outsl"]
)
def test_rep_outs_and_rep_ins_move_every_item_also_across_pages(any_guest, letter, size_bytes, items):
    source = f"""
        cld
        mov $DATA - 100, %rsi; mov ${items}, %ecx; mov $PORT, %edx
        rep outs{letter}
        mov $DATA + 0x1000 - 100, %rdi; mov ${items}, %ecx; mov $OTHER_PORT, %edx
        rep ins{letter}
        {HALT}"""
    made = any_guest(source)
    sent = bytes(i * 7 & 0xFF for i in range(300))
    made.memory.write(DATA - 100, sent)
    words = [int.from_bytes(sent[at : at + size_bytes], "little") for at in range(0, 300, size_bytes)]
    made.others.answers = [*reversed(words), 0]
    assert made.run() == Halted()
    assert made.ports.writes == [(0, size_bytes, word) for word in words]
    received = b"".join(word.to_bytes(size_bytes, "little") for word in reversed(words))
    assert made.memory.read(DATA + 0x1000 - 100, 300) == received
    regs = made.vcpu.get(Regs)
    assert (regs.rcx, regs.rsi, regs.rdi) == (0, DATA + 200, DATA + 0x1000 + 200)


def test_string_io_downwards(any_guest):
    made = any_guest(f"std; mov $DATA + 2, %rsi; mov $3, %ecx; mov $PORT, %edx; rep outsb; {HALT}")
    made.memory.write(DATA, b"abc")
    assert made.run() == Halted()
    assert bytes(made.ports.values) == b"cba"
    assert made.vcpu.get(Regs).rflags.df


@pytest.mark.parametrize(("register", "size_bytes"), [("%bl", 1), ("%bx", 2), ("%ebx", 4)])
def test_mmio_of_each_size_reaches_the_device(any_guest, register, size_bytes):
    value = 0x89ABCDEF & (1 << size_bytes * 8) - 1
    made = any_guest(f"mov $MMIO, %rdi; mov $0x89ABCDEF, %ebx; mov {register}, 0x124(%rdi); {HALT}")
    assert made.run() == Halted()
    assert made.mmio.writes == [(0x124, size_bytes, value)]


@pytest.mark.parametrize(
    ("load", "size_bytes", "rbx"),
    [("movzbl (%rdi), %ebx", 1, 0xEF), ("movzwl (%rdi), %ebx", 2, 0xCDEF), ("mov (%rdi), %ebx", 4, 0x89ABCDEF),
     ("movsbq (%rdi), %rbx", 1, ALL_ONES - 0x10)],
)  # fmt: skip
def test_mmio_loads_of_each_size(any_guest, load, size_bytes, rbx):
    made = any_guest(f"mov $MMIO + 0x40, %rdi; {load}; {HALT}")
    made.mmio.answers = [0x89ABCDEF]
    assert made.run() == Halted()
    assert made.mmio.reads == [(0x40, size_bytes)]
    assert made.vcpu.get(Regs).rbx == rbx


def test_mmio_of_eight_bytes_comes_as_two_of_four_the_lower_first(any_guest):
    made = any_guest(f"""
        mov $MMIO, %rdi; movabs $0x1122334455667788, %rax; mov %rax, 8(%rdi); mov 16(%rdi), %rbx; {HALT}""")
    made.mmio.answers = [0xAAAA5555, 0x12345678, 0]
    assert made.run() == Halted()
    assert made.mmio.writes == [(8, 4, 0x55667788), (12, 4, 0x11223344)]
    assert made.mmio.reads == [(16, 4), (20, 4)]
    assert made.vcpu.get(Regs).rbx == 0x12345678AAAA5555


def test_read_modify_write_of_a_device_register_is_one_load_and_one_store(any_guest):
    made = any_guest(f"mov $MMIO, %rdi; addl $5, (%rdi); {HALT}")
    made.mmio.answers = [37]
    assert made.run() == Halted()
    assert (made.mmio.reads, made.mmio.writes) == ([(0, 4)], [(0, 4, 42)])


def test_what_nobody_claims_reads_all_ones_and_swallows_stores(any_guest):
    made = any_guest(f"""
        mov $0x5555, %edx; out %eax, (%dx); in (%dx), %eax; mov %rax, %rbx
        mov $MMIO + 0x100000, %rdi; mov %rax, (%rdi); mov (%rdi), %rcx; {HALT}""")
    assert made.run() == Halted()
    regs = made.vcpu.get(Regs)
    assert (regs.rbx, regs.rcx) == (0xFFFFFFFF, ALL_ONES)
    assert {("port", 0x5555), ("mmio", MMIO + 0x100000)} <= made.bus.unclaimed.keys()


@pytest.mark.parametrize("address", [ABOVE_RAM, ABOVE_RAM + 0x1FF8, 1 << 36, (1 << 39) - 8])
def test_memory_above_ram_is_the_bus(any_guest, address):
    made = any_guest(f"movabs ${address}, %rdi; movl $7, (%rdi); mov (%rdi), %ebx; {HALT}")
    assert made.run() == Halted()
    assert made.vcpu.get(Regs).rbx == 0xFFFFFFFF
    assert ("mmio", address) in made.bus.unclaimed


def test_a_load_across_the_end_of_ram_has_both_parts(any_guest):
    made = any_guest(f"mov ${RAM_BYTES} - 4, %rdi; mov (%rdi), %rbx; {HALT}")
    made.memory.write(RAM_BYTES - 4, b"\x11\x22\x33\x44")
    assert made.run() == Halted()
    assert made.vcpu.get(Regs).rbx == 0xFFFFFFFF_44332211


def test_ram_lies_in_regions_with_gaps_between_and_need_not_begin_at_zero(any_guest):
    low, high = Region(0, MIB, "low"), Region(16 * MIB, MIB, "high")
    far = Region(1 << 32, MIB, "far")
    made = any_guest(f"""
        mov ${high.start}, %rdi; incq 8(%rdi)
        movabs ${far.start}, %rdi; incq {MIB - 8}(%rdi)
        mov ${MIB}, %rdi; mov (%rdi), %rbx
        mov ${high.end}, %rdi; mov (%rdi), %rcx
        mov ${high.start} - 8, %rdi; movq $5, (%rdi); mov (%rdi), %rbp
        {HALT}""", ram=[high, low, far])  # fmt: skip
    assert made.run() == Halted()
    assert (made.word(high.start + 8), made.word(far.end - 8)) == (1, 1)
    regs = made.vcpu.get(Regs)
    assert (regs.rbx, regs.rcx, regs.rbp) == (ALL_ONES,) * 3


def test_without_ram_everything_is_the_bus(unicorn):
    vm = unicorn.create_vm()
    vcpu = vm.create_vcpu(0)
    bus = Bus()
    sregs = vcpu.get(Sregs)
    vcpu.put(Regs(rip=0xFFF0))
    assert vcpu.get(Sregs) == sregs
    vm.close()
    assert bus.unclaimed == {}


def test_code_on_the_bus_is_an_internal_error_or_a_shutdown_and_the_state_stays_readable(any_guest):
    made = any_guest("mov $MMIO + 0x200000, %rax; jmp *%rax")
    assert isinstance(made.run(), InternalError | Shutdown)
    assert made.vcpu.get(Regs).rax == MMIO + 0x200000


def test_a_device_that_asks_for_a_kick_in_the_middle_of_rep_outs_loses_and_doubles_nothing(any_guest):
    made = any_guest(f"mov $DATA, %esi; mov $200, %ecx; mov $PORT, %edx; rep outsb; {HALT}")
    sent = bytes(range(200))
    made.memory.write(DATA, sent)
    made.ports.then = made.vcpu.kick
    runs = 0
    while made.vcpu.run(made.bus) != Halted():
        runs += 1
    assert bytes(made.ports.values) == sent
    assert runs >= 1


def test_the_zeroth_page_and_the_last_byte_of_ram_are_ram(any_guest):
    made = any_guest(f"movb $1, 0; movb $2, {RAM_BYTES - 1}; {HALT}")
    assert made.run() == Halted()
    assert made.memory.read(0, 1) + made.memory.read(RAM_BYTES - 1, 1) == b"\x01\x02"


def test_exits_are_counted(any_guest):
    made = any_guest(f"in $PORT, %al; out %al, $PORT; out %al, $PORT; mov MMIO, %eax; cpuid; syscall; {HALT}")
    made.vcpu.put(made.vcpu.get(Cpuid))
    made.run()
    exits = made.vcpu.exits
    assert {name: exits[name] for name in ("in", "out", "mmio", "cpuid", "syscall")} == {
        "in": 1, "out": 2, "mmio": 1, "cpuid": 1, "syscall": 1,
    }  # fmt: skip
