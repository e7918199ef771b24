"""What a guest does to its bus, and what its devices do to it."""

import pytest
from emulated_guests import ABOVE_RAM, CODE, DATA, HALT, MMIO, OTHER_PORT, PORT, RAM_BYTES, SPIN, STACK, assemble

from anyvisor.bus import Bus
from anyvisor.exits import Halted, InternalError, Shutdown
from anyvisor.memory import MIB, Region
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.state import DescriptorTable, Regs, Sregs
from anyvisor_unicorn.hypervisor import open_unicorn

ALL_ONES = (1 << 64) - 1
OSXSAVE = 1 << 27


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


# -- CPUID -------------------------------------------------------------------------------------------------------------

DUMP_CPUID = f"cpuid; mov %eax, DATA; mov %ebx, DATA+4; mov %ecx, DATA+8; mov %edx, DATA+12; {HALT}"


def asked(made, leaf, subleaf=0):
    assert made.run(rax=leaf | 0xABCD << 32, rcx=subleaf) == Halted()
    data = made.memory.read(DATA, 16)
    return tuple(int.from_bytes(data[i : i + 4], "little") for i in range(0, 16, 4))


def test_cpuid_answers_from_the_table_that_was_put(any_guest):
    made = any_guest(DUMP_CPUID)
    table = Cpuid((
        CpuidEntry(0, 0, 7, 1, 2, 3),
        CpuidEntry(7, 0, 1, 0xFFFFFFFF, 5, 6, indexed=True),
        CpuidEntry(7, 1, 11, 12, 13, 14, indexed=True),
        CpuidEntry(0x40000000, 0, 0x40000001, 0x564B4D4B, 0x564B4D56, 0x4D),
    ))  # fmt: skip
    made.vcpu.put(table)
    assert made.vcpu.get(Cpuid) == table
    assert asked(made, 0, 99) == (7, 1, 2, 3)
    assert asked(made, 7) == (1, 0xFFFFFFFF, 5, 6)
    assert asked(made, 7, 1) == (11, 12, 13, 14)
    assert asked(made, 0x40000000)[0] == 0x40000001
    made.vcpu.put(Cpuid((CpuidEntry(0, 0, 1, 1, 1, 1),)))
    assert asked(made, 0) == (1, 1, 1, 1), "what was answered before is forgotten"


def test_cpuid_shows_in_osxsave_what_cr4_says(any_guest):
    switch = "mov %cr4, %rbx; and $~(1<<18), %rbx; test %rsi, %rsi; jz 1f; or $1<<18, %rbx; 1: mov %rbx, %cr4;"
    made = any_guest(switch + DUMP_CPUID)
    for in_table in (0, 1 << 27):
        made.vcpu.put(Cpuid((CpuidEntry(1, 0, 0x800F12, 0, 1 << 26 | in_table, 0),)))
        for on in (0, 1):
            made.enter(rax=1, rsi=on)
            assert made.vcpu.run(made.bus) == Halted()
            assert made.word(DATA + 8) & 0xFFFFFFFF == 1 << 26 | on << 27


def test_without_a_table_the_engine_answers_for_itself(any_guest):
    made = any_guest(DUMP_CPUID)
    assert made.vcpu.get(Cpuid) == Cpuid()
    _, *vendor = asked(made, 0)
    assert b"".join(vendor[i].to_bytes(4, "little") for i in (0, 2, 1)) == b"AuthenticAMD"


def test_the_supported_table_is_the_engines_own_less_what_does_not_work(guest, unicorn):
    supported = unicorn.facts.supported_state(Cpuid)
    made = guest(DUMP_CPUID)
    missing = set()
    for entry in supported:
        told = CpuidEntry(entry.leaf, entry.subleaf, *asked(made, entry.leaf, entry.subleaf), indexed=entry.indexed)
        osxsave = OSXSAVE if entry.leaf == 1 else 0  # shows CR4, which is another one here
        claimed = entry.replace(ecx=entry.ecx & ~osxsave)
        assert claimed == told or entry.leaf in (1, 7, 0x80000001)
        assert all(ours & ~theirs == 0 for ours, theirs in zip(claimed.registers, told.registers, strict=True))
        missing |= Cpuid((told,)).features - Cpuid((claimed,)).features
    assert {Feature.APIC, Feature.SVM, Feature.MONITOR, Feature.RDRAND} <= missing


# -- endings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rest", ["", ".byte 0x0f, 0x0b", ".byte 0xff, 0xff, 0xff", "hlt; ud2", "1: hlt; jmp 1b", "jmp ."]
)
def test_hlt_with_interrupts_off_is_halted_and_rip_behind_it_whatever_follows(any_guest, rest):
    made = any_guest(f"nop; cli; hlt; {rest}")
    for _ in range(20):
        made.enter()
        assert made.vcpu.run(made.bus) == Halted()
        assert made.vcpu.get(Regs).rip == CODE + 3


def test_after_halted_the_next_run_goes_on_behind_the_hlt(any_guest):
    made = any_guest("cli; hlt; out %al, $PORT; hlt")
    assert made.run() == Halted()
    assert made.vcpu.run(made.bus) == Halted()
    assert made.ports.writes == [(0, 1, 0)]


def test_an_exception_without_a_handler_is_a_shutdown_and_the_state_stays_readable(any_guest):
    made = any_guest("mov $0x1234, %ebx; ud2")
    assert made.run() == Shutdown()
    regs = made.vcpu.get(Regs)
    assert (regs.rip, regs.rbx) == (CODE + 5, 0x1234)
    assert made.vcpu.get(Sregs).cr3 != 0


def test_a_stack_that_is_nowhere_leads_from_any_exception_to_a_shutdown(any_guest):
    made = any_guest("mov $0x100000000000, %rsp; int3", handlers={3: HALT, 8: HALT, 14: HALT})
    assert made.run() == Shutdown()


def test_after_a_shutdown_the_vcpu_can_be_set_up_again(any_guest):
    made = any_guest("ud2")
    assert made.run() == Shutdown()
    made.handle(6, HALT)
    made.enter()
    assert made.vcpu.run(made.bus) == Halted()


def test_code_that_the_host_changed_while_nobody_ran_is_run_as_it_is_now(any_guest):
    made = any_guest(f"mov $1, %ebx; {HALT}")
    for value in (1, 2, 3):
        made.load(f"mov ${value}, %ebx; {HALT}")
        assert made.run(rbx=0) == Halted()
        assert made.vcpu.get(Regs).rbx == value


def test_code_that_the_guest_changes_is_run_as_it_is_now(any_guest):
    made = any_guest(f"""
        mov $3, %ecx
    1:  call change; dec %ecx; jnz 1b
        {HALT}
    change:
        incb 2f + 1(%rip)
    2:  mov $0, %al
        out %al, $PORT
        ret""")
    assert made.run() == Halted()
    assert made.ports.values == [1, 2, 3]


# -- devices that fail -------------------------------------------------------------------------------------------------


class Broken(Exception):
    """What a device should not raise."""


def failing(number=0):
    def fail(*_):
        raise Broken(number)

    return fail


@pytest.mark.parametrize(
    "access", ["in $PORT, %al", "out %al, $PORT", "mov MMIO, %eax", "mov %eax, MMIO", "mov $PORT, %edx; outsb"]
)
def test_what_a_device_raises_comes_out_of_run(any_guest, access):
    made = any_guest(f"mov $0x5A, %eax; mov $DATA, %esi; {access}; incq DATA; {SPIN}")
    for device in (made.ports, made.mmio):
        device.then = failing()
    with pytest.raises(Broken):
        made.run()
    assert made.vcpu.get(Regs).rip >= CODE


def test_after_a_device_has_raised_the_access_reads_zero_and_the_guest_goes_on(any_guest):
    made = any_guest(f"mov $~0, %eax; in $PORT, %eax; {HALT}")
    made.ports.then = failing()
    with pytest.raises(Broken):
        made.run()
    assert made.vcpu.run(made.bus) == Halted()
    assert made.vcpu.get(Regs).rax == 0


def test_of_several_failures_the_first_is_told_and_none_is_told_later(any_guest):
    made = any_guest(f"out %al, $PORT; out %al, $PORT; out %al, $OTHER_PORT; {HALT}")
    made.ports.then, made.others.then = failing(1), failing(2)
    with pytest.raises(Broken, match="1"):
        made.run()
    made.ports.then = made.others.then = lambda: None
    assert made.vcpu.run(made.bus) == Halted()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_any_exception_of_a_device_comes_out(any_guest, error):
    def fail():
        raise error

    made = any_guest("out %al, $PORT; jmp .")
    made.ports.then = fail
    with pytest.raises(error):
        made.run()


@pytest.mark.parametrize("answer", [None, "7", -1, 1 << 80, 1.5])
def test_a_device_that_answers_nonsense_is_an_error_or_cut_to_size(any_guest, answer):
    made = any_guest(f"in $PORT, %eax; mov %eax, DATA; {HALT}")
    made.ports.answers = [answer]
    if isinstance(answer, int):
        assert made.run() == Halted()
        assert made.word() == answer & 0xFFFFFFFF
    else:
        with pytest.raises(TypeError):
            made.run()


# -- string I/O and a stop ---------------------------------------------------------------------------------------------


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
