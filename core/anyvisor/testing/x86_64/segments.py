"""Segment registers: each keeps the selector and the base that were put, and loads what the guest loads."""

from __future__ import annotations

import struct

import attrs
import pytest

from anyvisor.exits import Exit, Halted
from anyvisor.testing.bench import CODE, DATA, STACK, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.entry import pushed
from anyvisor.testing.x86_64.guests import by_width, in_every_mode
from anyvisor.x86_64.gdt import BYTE, Gdt, Segment
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.state import DescriptorTable, Regs, SegmentRegister, Sregs

NAMES = ("cs", "ss", "ds", "es", "fs", "gs")
SELECTORS = {
    REAL: dict(zip(NAMES, (0x0080, 0x0700, 0x0410, 0x0420, 0x0430, 0x0440), strict=True)),
    PROTECTED: dict(zip(NAMES, (0x08, 0x10, 0x18, 0x20, 0x28, 0x30), strict=True)),
    LONG: dict(zip(NAMES, (0x08, 0x10, 0x18, 0x20, 0x28, 0x30), strict=True)),
}
BASES = {name: selector << 4 for name, selector in SELECTORS[REAL].items()}
"""In real mode they are sixteen times the selectors; elsewhere they can be anything, and are the same here."""
OFFSET = 0x40
GDT_AT, TARGET, FIELD = 0x5000, 0x4300, 3
WIDE_BASE = 0xFFFF_8000_1234_5000
TO_TARGET = TARGET - WIDE_BASE & (1 << 64) - 1
"""The offset from there that leads round to TARGET."""
DATA_SELECTOR = 0x28
GDT = Gdt(*[Segment.null()] * 5, Segment.data(base=TARGET, granularity=BYTE, limit_bytes=0xFFF))
FS_BASE = int(Msr.FS_BASE)

# fmt: off
STORE_SELECTORS = by_width(
    bytes([0x8C, 0xC8, 0xAB,  # mov ax, cs; stosw
           0x8C, 0xD0, 0xAB,  # mov ax, ss; stosw
           0x8C, 0xD8, 0xAB,  # mov ax, ds; stosw
           0x8C, 0xC0, 0xAB,  # mov ax, es; stosw
           0x8C, 0xE0, 0xAB,  # mov ax, fs; stosw
           0x8C, 0xE8, 0xAB,  # mov ax, gs; stosw
           0xF4]),            # hlt
    bytes([0x66, 0x8C, 0xC8, 0x66, 0xAB,  # mov ax, cs; stosw
           0x66, 0x8C, 0xD0, 0x66, 0xAB,  # mov ax, ss; stosw
           0x66, 0x8C, 0xD8, 0x66, 0xAB,  # mov ax, ds; stosw
           0x66, 0x8C, 0xC0, 0x66, 0xAB,  # mov ax, es; stosw
           0x66, 0x8C, 0xE0, 0x66, 0xAB,  # mov ax, fs; stosw
           0x66, 0x8C, 0xE8, 0x66, 0xAB,  # mov ax, gs; stosw
           0xF4]))                        # hlt

STORE_THROUGH_ALL = TinyGuest({
    REAL: bytes([0xC6, 0x05, 0x01,        # mov byte ptr ds:[xdi], 1
                 0x26, 0xC6, 0x05, 0x02,  # mov byte ptr es:[xdi], 2
                 0x64, 0xC6, 0x05, 0x03,  # mov byte ptr fs:[xdi], 3
                 0x65, 0xC6, 0x05, 0x04,  # mov byte ptr gs:[xdi], 4
                 0x36, 0xC6, 0x05, 0x05,  # mov byte ptr ss:[xdi], 5
                 0x2E, 0x8A, 0x04,        # mov al, cs:[xsi]
                 0x88, 0x45, 0x01,        # mov [xdi + 1], al
                 0x50,                    # push xax
                 0xF4]),                  # hlt
    PROTECTED: bytes([0xC6, 0x07, 0x01,        # mov byte ptr ds:[xdi], 1
                      0x26, 0xC6, 0x07, 0x02,  # mov byte ptr es:[xdi], 2
                      0x64, 0xC6, 0x07, 0x03,  # mov byte ptr fs:[xdi], 3
                      0x65, 0xC6, 0x07, 0x04,  # mov byte ptr gs:[xdi], 4
                      0x36, 0xC6, 0x07, 0x05,  # mov byte ptr ss:[xdi], 5
                      0x2E, 0x8A, 0x06,        # mov al, cs:[xsi]
                      0x88, 0x47, 0x01,        # mov [xdi + 1], al
                      0x50,                    # push xax
                      0xF4]),                  # hlt
    LONG: bytes([0x64, 0xC6, 0x07, 0x03,  # mov byte ptr fs:[xdi], 3
                 0x65, 0xC6, 0x07, 0x04,  # mov byte ptr gs:[xdi], 4
                 0xF4])})                 # hlt

LOAD_IN_REAL_MODE = TinyGuest({
    REAL: bytes([0xEA, 0x05, 0x00, 0x00, 0x01,  # jmp 0x100:5
                 0x8C, 0xC8, 0xAB,              # mov ax, cs; stosw
                 0xB8, 0x30, 0x04,              # mov ax, 0x430
                 0x8E, 0xD8,                    # mov ds, ax
                 0xA0, 0x03, 0x00,              # mov al, [FIELD]
                 0xAA,                          # stosb
                 0xF4])})                       # hlt

LOAD_FROM_GDT = TinyGuest(dict.fromkeys((PROTECTED, LONG),
    bytes([0xB8, 0x28, 0x00, 0x00, 0x00,  # mov eax, DATA_SELECTOR
           0x8E, 0xE0,                    # mov fs, eax
           0xB8, 0x03, 0x00, 0x00, 0x00,  # mov eax, FIELD
           0x64, 0x8A, 0x00,              # mov al, fs:[xax]
           0xAA,                          # stosb
           0xF4])))                       # hlt

WRITE_FS_BASE = TinyGuest({
    LONG: bytes([0xB9, 0x00, 0x01, 0x00, 0xC0,  # mov ecx, FS_BASE
                 0x0F, 0x30,                    # wrmsr
                 0x64, 0x8A, 0x06,              # mov al, fs:[rsi]
                 0xAA,                          # stosb
                 0xF4])})                       # hlt

LOAD_THROUGH_GS = TinyGuest({
    LONG: bytes([0x65, 0x8A, 0x06,  # mov al, gs:[rsi]
                 0xAA,              # stosb
                 0xF4])})           # hlt

STORE_TASK = TinyGuest(dict.fromkeys((PROTECTED, LONG),
    bytes([0x66, 0x0F, 0x00, 0xC8, 0x66, 0xAB,  # str ax; stosw
           0x66, 0x0F, 0x00, 0xC0, 0x66, 0xAB,  # sldt ax; stosw
           0xF4])))                             # hlt
# fmt: on


def bases_in(mode: str, *, bases: bool = True) -> dict[str, int]:
    """The bases that the segments are given: those of FS and GS alone in long mode, which has no others."""
    have = (NAMES if mode != LONG else ("fs", "gs")) if bases else ()
    return {name: BASES[name] if name in have else 0 for name in NAMES}


def put_segments(made: Bench, mode: str, *, bases: bool = True) -> None:
    """Give each of the vCPU's segment registers its own selector, and its own base; RIP and RSP follow."""
    sregs, regs, base = made.vcpu.get(Sregs), made.vcpu.get(Regs), bases_in(mode, bases=bases)
    own = {name: attrs.evolve(getattr(sregs, name), selector=SELECTORS[mode][name], base=base[name]) for name in NAMES}
    made.vcpu.put(attrs.evolve(sregs, **own))
    made.vcpu.put(attrs.evolve(regs, rip=CODE - base["cs"], rsp=STACK - base["ss"]))


def check_halted(found: Exit, sregs: Sregs) -> None:
    """The guest has run to its end."""
    __tracebackhide__ = True
    has = ", ".join(f"{name} {getattr(sregs, name).selector:#x}" for name in NAMES)
    if found != Halted():
        pytest.fail(f"{found}: did each segment register get its own selector, base and type? it has {has}")


@needs(architecture="x86_64")
class SegmentsContract(Contract):
    """What a segment register holds after `put(Sregs)`, and `get(Sregs)` after the guest has loaded one."""

    @pytest.mark.parametrize(
        ("mode", "bases"), [(REAL, True), (PROTECTED, False), (PROTECTED, True), (LONG, False), (LONG, True)]
    )
    def test_the_guest_has_the_selectors_that_were_put(self, bench: MakeBench, mode: str, bases: bool) -> None:
        """CS, SS, DS, ES, FS and GS hold each its own selector."""
        made = bench()
        made.enter(STORE_SELECTORS, mode, rdi=BASES["es"] - bases_in(mode, bases=bases)["es"])
        put_segments(made, mode, bases=bases)
        check_halted(made.run(), made.vcpu.get(Sregs))
        words = struct.unpack("<6H", made.memory.read(BASES["es"], 12))
        found = {name: hex(each) for name, each in zip(NAMES, words, strict=True)}
        assert found == {name: hex(each) for name, each in SELECTORS[mode].items()}, (
            "the selectors that the guest stored"
        )

    @in_every_mode
    def test_the_guest_has_the_bases_that_were_put(self, bench: MakeBench, mode: str) -> None:
        """An access through a segment goes to its base plus the offset; in long mode only FS and GS have one."""
        made = bench()
        made.enter(STORE_THROUGH_ALL, mode, rdi=OFFSET, rsi=OFFSET)
        made.memory.write(BASES["cs"] + OFFSET, b"\x66")
        put_segments(made, mode)
        check_halted(made.run(), made.vcpu.get(Sregs))
        names = ("fs", "gs") if mode == LONG else ("ds", "es", "fs", "gs", "ss")
        marks = {"ds": 1, "es": 2, "fs": 3, "gs": 4, "ss": 5}
        found = {name: made.memory.read(BASES[name] + OFFSET, 1)[0] for name in names}
        assert found == {name: marks[name] for name in names}, "a store through each segment"
        if mode != LONG:
            assert made.memory.read(BASES["ds"] + OFFSET + 1, 1) == b"\x66", "a load through CS"
            assert pushed(made, mode, 1)[0] & 0xFF == 0x66, "a push through SS"

    @in_every_mode
    def test_get_gives_the_segments_that_were_put(self, bench: MakeBench, mode: str) -> None:
        """Selector, base and limit of each come back from `get(Sregs)`, also when the guest has run."""
        made = bench()
        made.enter(made.guests.HALT, mode)
        put_segments(made, mode)
        before = made.vcpu.get(Sregs)
        check_halted(made.run(), before)
        for sregs in (before, made.vcpu.get(Sregs)):
            got = {name: getattr(sregs, name) for name in NAMES}
            assert {name: each.selector for name, each in got.items()} == SELECTORS[mode]
            assert {name: each.base for name, each in got.items()} == bases_in(mode)

    def test_a_segment_loaded_in_real_mode_begins_at_16_times_its_selector(self, bench: MakeBench) -> None:
        """By a far jump and by MOV to DS; `get(Sregs)` shows both bases."""
        made = bench()
        made.enter(LOAD_IN_REAL_MODE, REAL, rdi=DATA)
        made.memory.write(TARGET + FIELD, b"\x5a")
        assert made.run() == Halted()
        assert made.memory.read(DATA, 3) == b"\x00\x01\x5a", "CS after the far jump, and a byte through DS"
        sregs = made.vcpu.get(Sregs)
        assert (sregs.cs.selector, sregs.cs.base) == (0x100, 0x1000)
        assert (sregs.ds.selector, sregs.ds.base) == (0x430, TARGET)

    @pytest.mark.parametrize("mode", [PROTECTED, LONG])
    def test_a_segment_is_loaded_from_the_table_that_was_put(self, bench: MakeBench, mode: str) -> None:
        """MOV to FS reads the descriptor from the GDT that `put(Sregs)` named; `get(Sregs)` has all of it."""
        made = bench()
        made.memory.write(GDT_AT, GDT.to_bytes())
        made.memory.write(TARGET + FIELD, b"\x5a")
        made.enter(LOAD_FROM_GDT, mode, rdi=DATA)
        table = DescriptorTable(GDT_AT, GDT.limit_bytes)
        made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), gdt=table))
        assert made.run() == Halted()
        assert made.memory.read(DATA, 1) == b"\x5a"
        fs = made.vcpu.get(Sregs).fs
        assert (fs.selector, hex(fs.base), hex(fs.limit)) == (DATA_SELECTOR, hex(TARGET), "0xfff")

    def test_the_base_of_fs_is_its_msr_in_long_mode(self, bench: MakeBench) -> None:
        """WRMSR to IA32_FS_BASE moves the segment, and `get(Sregs)` shows all 64 bits."""
        made = bench()
        made.memory.write(TARGET, b"\x5a")
        low, high = WIDE_BASE & 0xFFFFFFFF, WIDE_BASE >> 32
        made.enter(WRITE_FS_BASE, LONG, rax=low, rdx=high, rsi=TO_TARGET, rdi=DATA)
        assert made.run() == Halted()
        assert made.memory.read(DATA, 1) == b"\x5a"
        assert hex(made.vcpu.get(Sregs).fs.base) == hex(WIDE_BASE)

    def test_the_base_of_gs_has_64_bits(self, bench: MakeBench) -> None:
        """`put(Sregs)` sets all of them in long mode."""
        made = bench()
        made.memory.write(TARGET, b"\x5a")
        made.enter(LOAD_THROUGH_GS, LONG, rsi=TO_TARGET, rdi=DATA)
        sregs = made.vcpu.get(Sregs)
        made.vcpu.put(attrs.evolve(sregs, gs=attrs.evolve(sregs.gs, base=WIDE_BASE)))
        assert made.run() == Halted()
        assert made.memory.read(DATA, 1) == b"\x5a"

    @pytest.mark.parametrize("mode", [PROTECTED, LONG])
    def test_the_guest_has_the_task_and_the_local_table_that_were_put(self, bench: MakeBench, mode: str) -> None:
        """STR and SLDT store the selectors of TR and LDTR."""
        made = bench()
        made.enter(STORE_TASK, mode, rdi=DATA)
        sregs = made.vcpu.get(Sregs)
        task = SegmentRegister(base=TARGET, limit=0x67, selector=0x48, type=0xB, present=True)
        local = SegmentRegister(base=TARGET + 0x100, limit=0x17, selector=0x58, type=2, present=True)
        made.vcpu.put(attrs.evolve(sregs, tr=task, ldt=local))
        assert made.run() == Halted()
        assert made.memory.read(DATA, 4).hex() == "48005800", "TR and LDTR as the guest stored them"
