"""CPUID answers from the vCPU's own table."""

from emulated_guests import DATA, HALT

from anyvisor.exits import Halted
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature

OSXSAVE = 1 << 27


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
    assert asked(made, 0) == asked(made, 0, 99) == (7, 1, 2, 3)
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
