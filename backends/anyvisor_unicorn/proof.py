"""The self-test at start-up: is this Unicorn the one that we know, and can it be stopped without harm?

Three things are asked of an engine, never assumed. Where the parts of the processor's state lie: values written by
name must turn up where `layout` has them; no proof, no backend. Where the engine keeps its count of instructions: runs
of known length must turn up there; without it there is no counted mode. And whether the private flag
`no_exit_request`, set, makes `Engine.stop` exact: it is found by its neighbours, and then a guest that increments
memory is stopped as often as can be, in the middle of accesses, too; a single increment too many and the engine is only
run by count.

Nothing is written to the engine's own structure but that one byte.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
import time

import attrs
from unicorn import x86_const as x86

from anyvisor.x86_64.msr_index import Msr
from anyvisor_unicorn import layout
from anyvisor_unicorn.engine import CONTEXT_HEADER_BYTES, STRUCTURE_BYTES, Engine, registers
from anyvisor_unicorn.guests import CODE, DATA, MMIO, Disproof, guest
from anyvisor_unicorn.halt_flag import HaltFlag, find_halt_flag

UNMAPPED = 0xC00000
INCREMENTS = 400_000
GENERAL = registers(
    ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
)
# fmt: off
STORE_UNMAPPED = bytes([0x48, 0x89, 0x04, 0x25, 0x00, 0x00, 0xC0, 0x00])   # mov [UNMAPPED], rax
LOAD_UNMAPPED = bytes([0x48, 0x8B, 0x04, 0x25, 0x00, 0x00, 0xC0, 0x00])    # mov rax, [UNMAPPED]
SOFTWARE_INTERRUPT = bytes([0xCD, 0x30])                                    # int 0x30
INCREMENT_LOOP = bytes([0x48, 0x83, 0x03, 0x01,                            # again: add qword [rbx], 1
                        0x48, 0xFF, 0xC9,                                  # dec rcx
                        0x75, 0xF7,                                        # jnz again
                        0xF4])                                             # hlt
STORES = bytes([0x88, 0x07,                                                # mov [rdi], al
                0x48, 0x83, 0x03, 0x01,                                    # add qword [rbx], 1
                0xF4])                                                     # hlt
RDTSC_HLT = bytes([0x0F, 0x31, 0xF4])
# fmt: on


@attrs.frozen
class Proof:
    """What the self-test found. `exit_flag_offset` is None where stopping is not exact, `problem` then says why.

    `halt_flag` is then None, too. `tsc_khz` is how fast the guest's time stamp counter counts.
    """

    counter_offset: int | None
    exit_flag_offset: int | None
    halt_flag: HaltFlag | None = None
    problem: str = ""
    tsc_khz: int = 0

    def prepare(self, engine: Engine, *, counted: bool) -> None:
        """Make a new engine one that can be stopped, unless it will only be run by count."""
        if not counted and self.exit_flag_offset is not None:
            set_exit_flag(engine, self.exit_flag_offset)


@functools.cache
def prove() -> Proof:
    """Ask the engine; Disproof when its state does not lie where we know it. Takes some hundredths of a second."""
    with guest(RDTSC_HLT) as (engine, _):
        began = _clocks(engine)
        prove_layout()
        proof = _prove_running()
        ended = _clocks(engine)
    nanoseconds, ticks = (end - begin for begin, end in zip(began, ended, strict=True))
    return attrs.evolve(proof, tsc_khz=round(ticks * 1_000_000 / nanoseconds))


def _prove_running() -> Proof:
    """How the engine can be run: by count, freely, or both."""
    try:
        counter_offset = find_counter()
    except Disproof:
        counter_offset = None
    try:
        with guest(INCREMENT_LOOP) as (engine, _):
            exit_flag_offset = find_exit_flag(engine)
        prove_stops_are_exact(exit_flag_offset)
        halt_flag = find_halt_flag(lambda engine: set_exit_flag(engine, exit_flag_offset))
    except Disproof as disproof:
        return Proof(counter_offset, None, problem=str(disproof))
    return Proof(counter_offset, exit_flag_offset, halt_flag)


def _clocks(engine: Engine) -> tuple[int, int]:
    """The host's time in nanoseconds, and the guest's time stamp counter."""
    engine.start(CODE)
    low, high = (engine.read(each) & 0xFFFFFFFF for each in (x86.UC_X86_REG_RAX, x86.UC_X86_REG_RDX))
    return time.monotonic_ns(), high << 32 | low


# -- the layout of the state -------------------------------------------------------------------------------------------


def prove_layout() -> None:
    """Disproof unless everything in `layout` is where it should be."""
    with guest(STORE_UNMAPPED + LOAD_UNMAPPED + SOFTWARE_INTERRUPT) as (engine, _):
        words = engine.state.cast("Q")
        halves = engine.state.cast("I")
        try:
            _prove_registers(engine, words)
            _prove_segments(engine, halves, words)
            _prove_faults(engine, words, halves)
        finally:
            words.release()
            halves.release()


def _expect(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise Disproof(f"{what} is not where it is in the Unicorn that is known: {found:#x} instead of {wanted:#x}")


def _prove_registers(engine: Engine, words: memoryview) -> None:
    for i, number in enumerate(GENERAL):
        engine.write(number, 0x1122334455660000 + i)
    msrs = {Msr.STAR: layout.STAR, Msr.LSTAR: layout.LSTAR, Msr.CSTAR: layout.CSTAR}
    for i, msr in enumerate(msrs):
        engine.write_msr(msr, 0x2233445566770000 + i)
    engine.write_msr(Msr.FMASK, 0x47700)
    engine.write(x86.UC_X86_REG_RFLAGS, 0x2 | 1 << 9 | 1 << 10 | 0x41)
    engine.write(x86.UC_X86_REG_RIP, CODE)
    engine.save()
    for i in range(16):
        _expect(f"general register {i}", words[i], 0x1122334455660000 + i)
    for i, word in enumerate(msrs.values()):
        _expect(f"system call MSR {i}", words[word], 0x2233445566770000 + i)
    _expect("FMASK", words[layout.FMASK], 0x47700)
    _expect("RIP", words[layout.RIP], CODE)
    _expect("RFLAGS", words[layout.RFLAGS] & 0x202, 0x202)
    _expect("the arithmetic flags", words[layout.CC_SRC], 0x41)
    for name, word, number in (
        ("CR0", layout.CR0, x86.UC_X86_REG_CR0),
        ("CR3", layout.CR3, x86.UC_X86_REG_CR3),
        ("CR4", layout.CR4, x86.UC_X86_REG_CR4),
    ):
        _expect(name, words[word], engine.read(number))
    _expect("EFER", words[layout.EFER], engine.read_msr(Msr.EFER))


def _prove_segments(engine: Engine, halves: memoryview, words: memoryview) -> None:
    """What is written into the state must be what the engine then has by name."""
    _expect("DF", halves[layout.DF], 0xFFFFFFFF)
    _expect("the flags' form", halves[layout.CC_OP], layout.CC_OP_FLAGS)
    words[layout.base_word(layout.FS)] = 0x123456789000
    halves[layout.selector_word(layout.DS)] = 0x18
    for table, base in ((layout.GDT, 0x5000), (layout.IDT, 0x6000)):
        words[layout.base_word(table)] = base
        halves[layout.limit_word(table)] = 0x7F
    halves[layout.DF] = 1
    engine.restore()
    _expect("FS base", engine.read(x86.UC_X86_REG_FS_BASE), 0x123456789000)
    _expect("DS", engine.read(x86.UC_X86_REG_DS), 0x18)
    _expect("DF, cleared", engine.read(x86.UC_X86_REG_RFLAGS) & 1 << 10, 0)
    for name, number, base in (("GDTR", x86.UC_X86_REG_GDTR, 0x5000), ("IDTR", x86.UC_X86_REG_IDTR, 0x6000)):
        _, found_base, found_limit, _ = struct.unpack("<HxxxxxxQII", engine.read_bytes(number, 24))
        _expect(f"{name} base", found_base, base)
        _expect(f"{name} limit", found_limit, 0x7F)
    _expect("the mode", halves[layout.HFLAGS] & layout.H_MODE, layout.H_PE | layout.H_LMA | layout.H_CS64)


def _prove_faults(engine: Engine, words: memoryview, halves: memoryview) -> None:
    """A store and a load of memory that is not mapped, and a software interrupt, as the hook sees them."""
    seen: list[tuple[int, ...]] = []

    def fault(_: int, vector: int, __: int) -> None:
        engine.save()
        which = (layout.ERROR_CODE, layout.OLD_EXCEPTION, layout.IS_SOFTWARE)
        seen.append((vector, words[layout.CR2], *(halves[each] for each in which)))
        halves[layout.OLD_EXCEPTION] = layout.NO_EXCEPTION
        engine.restore()
        engine.stop()

    engine.hook_interrupts(fault)
    rip = CODE
    for instruction in (STORE_UNMAPPED, LOAD_UNMAPPED, SOFTWARE_INTERRUPT):
        engine.start(rip, 1)
        rip += len(instruction)
    wanted = [(14, UNMAPPED, 2, 14, 0), (14, UNMAPPED, 0, 14, 0), (0x30, UNMAPPED, 0, layout.NO_EXCEPTION, 1)]
    if seen != wanted:
        raise Disproof(f"two page faults and an interrupt look otherwise than in the Unicorn that is known: {seen}")


# -- the count of instructions -----------------------------------------------------------------------------------------


def find_counter() -> int:
    """Where the engine counts; Disproof when not exactly one place holds the length of every run."""
    places: set[int] | None = None
    for length, count in ((101, 777), (37, 1000), (211, 5000)):
        with guest(bytes([0x90] * (length - 1) + [0xF4])) as (engine, _):
            engine.start(CODE, count)
            structure = ctypes.string_at(engine.address, STRUCTURE_BYTES)
            found = {
                i
                for i in range(0, STRUCTURE_BYTES - 16, 8)
                if struct.unpack_from("<QQ", structure, i) == (length, count)
            }
        places = found if places is None else places & found
    if not places or len(places) > 1:
        raise Disproof("the engine's count of instructions is not to be found")
    return places.pop()


# -- stopping ----------------------------------------------------------------------------------------------------------


def find_exit_flag(engine: Engine) -> int:
    """Where `no_exit_request` lies, by what its neighbours hold in a new engine; Disproof when it is not to be found.

    They are: what a context holds (1: the processor) and its size, then a pointer, and four flags of which only the
    last is set.
    """
    structure = ctypes.string_at(engine.address, STRUCTURE_BYTES)
    pattern = struct.pack("<II", 1, engine.context_bytes - CONTEXT_HEADER_BYTES)
    at = structure.find(pattern)
    if at < 0 or structure.find(pattern, at + 1) >= 0:
        raise Disproof("the engine's flags are not where they are in the Unicorn that is known")
    flags = (at + len(pattern) + 7 & ~7) + 8
    hooked, _, no_exit_request, ready = structure[flags : flags + 4]
    if (hooked, no_exit_request, ready) != (0, 0, 1):
        raise Disproof("the engine's flags have other values than in the Unicorn that is known")
    return flags + 2


def set_exit_flag(engine: Engine, offset: int) -> None:
    """Let the engine look for stops between instructions only; before it has run for the first time."""
    ctypes.c_uint8.from_address(engine.address + offset).value = 1


def prove_stops_are_exact(exit_flag_offset: int) -> None:
    """Disproof when a guest that is stopped has done an access twice."""
    _prove_stop_in_an_access(exit_flag_offset)
    with guest(INCREMENT_LOOP) as (engine, ram):
        set_exit_flag(engine, exit_flag_offset)
        engine.write(x86.UC_X86_REG_RBX, DATA)
        engine.write(x86.UC_X86_REG_RCX, INCREMENTS)
        stops = _run_stopping(engine)
        count = int.from_bytes(ram[DATA : DATA + 8], "little")
    if count != INCREMENTS:
        raise Disproof(f"stopped {stops} times, the engine counted {count} instead of {INCREMENTS}")


def _prove_stop_in_an_access(exit_flag_offset: int) -> None:
    """A store to a device that stops the engine must be done once, and so must the increment that follows."""
    with guest(STORES) as (engine, ram):
        set_exit_flag(engine, exit_flag_offset)
        stores: list[int] = []

        def store(_: int, offset: int, size: int, value: int, __: int) -> None:  # noqa: ARG001
            stores.append(value)
            engine.stop()

        engine.map_mmio(MMIO, 0x1000, lambda *_: 0, store)
        engine.write(x86.UC_X86_REG_RDI, MMIO)
        engine.write(x86.UC_X86_REG_RBX, DATA)
        rip = CODE
        for _ in range(4):
            if rip < CODE + len(STORES):
                engine.start(rip)
                rip = engine.read(x86.UC_X86_REG_RIP)
        count = int.from_bytes(ram[DATA : DATA + 8], "little")
    if len(stores) != 1 or count != 1:
        raise Disproof(
            f"stopped by a device, the engine did a store {len(stores)} times and an increment {count} times"
        )


def _run_stopping(engine: Engine) -> int:
    """Run the guest to its HLT, stopping it all the time; how often it was stopped."""
    stops, over = 0, threading.Event()

    def keep_stopping() -> None:
        nonlocal stops
        while not over.is_set():
            engine.stop()
            stops += 1

    thread = threading.Thread(target=keep_stopping, daemon=True)
    thread.start()
    try:
        rip = CODE
        while rip < CODE + len(INCREMENT_LOOP):
            engine.start(rip)
            rip = engine.read(x86.UC_X86_REG_RIP)
    finally:
        over.set()
        thread.join()
    return stops
