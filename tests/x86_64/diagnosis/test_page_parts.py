"""The parts of the page: each shows what is there, and says what is wrong with it."""

import attrs
import pytest
from dead_guests import CODE, GDT, REGS, SREGS, STACK, UNMAPPED, dead, plan

from anyvisor.diagnosis import report
from anyvisor.exits import GuestException, Shutdown
from anyvisor.flight import NotedExit
from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec
from anyvisor.symbols import Symbols
from anyvisor.x86_64.control import Cr0, Efer
from anyvisor.x86_64.diagnosis.exceptions import gate
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.state import DescriptorTable, SegmentRegister

UD2 = b"\x0f\x0b"
IDT = 0x2000


def text(evidence, title):
    return report(evidence).section(title).text


def test_registers_have_their_flags_spelled_out():
    shown = text(dead(UD2), "Registers").splitlines()
    assert shown[0] == "rip  0x0000000000100000 (code)"
    assert "cr0    0x80000011 pe|et|pg" in shown
    assert "efer   0x500 lme|lma" in shown
    assert any("rsp  0x0000000000008ff0" in line for line in shown)


def test_segments_that_are_alike_share_a_line():
    lines = text(dead(UD2), "Segments").splitlines()
    assert lines[:3] == [
        "                sel   base  limit       dpl  holds",
        "cs              0x10  0x0   0xffffffff  0    code64 accessed|readable",
        "ss ds es fs gs  0x18  0x0   0xffffffff  0    data32 accessed|writable",
    ]


def test_columns_are_as_wide_as_they_must_be_and_a_kernel_s_fit():
    """Linux has a base in GS and TR, and its data segments are null."""
    null = SegmentRegister(selector=0, unusable=True)
    high = {"gs": attrs.evolve(null, base=0xFFFF888007C00000), "tr": attrs.evolve(SREGS.tr, base=0xFFFFFE0000003000)}
    evidence = dead(UD2, sregs={"ds": null, "es": null, "fs": null, **high})
    assert max(map(len, text(evidence, "Segments").splitlines())) <= 78


def test_a_selector_is_compared_with_the_gdt_in_memory():
    fine = text(dead(UD2), "Segments")
    assert "descriptor" not in fine
    short = dead(UD2, sregs={"gdt": DescriptorTable(GDT, 0x17)})
    assert "its selector 0x18 lies beyond the GDT's limit of 0x17" in text(short, "Segments")
    cut = dead(UD2, sregs={"gdt": DescriptorTable(GDT, 0x1E)})
    assert "its selector 0x18 lies beyond the GDT's limit of 0x1e" in text(cut, "Segments")
    overwritten = dead(UD2, written={GDT + 0x10: bytes.fromhex("ffff0000009bcf00")})
    assert "its descriptor in memory is another one: code32" in text(overwritten, "Segments")
    gone = dead(UD2, written={GDT + 0x18: bytes(8)})
    assert "selects a descriptor that is not present" in text(gone, "Segments")
    nowhere = dead(UD2, sregs={"gdt": DescriptorTable(UNMAPPED, 0x2F)})
    assert "no memory is mapped there" in text(nowhere, "Segments")


def test_a_segment_that_no_descriptor_can_say_is_shown_all_the_same():
    both = attrs.evolve(SREGS.cs, db=True)
    assert "codeL and D! accessed|readable" in text(dead(UD2, sregs={"cs": both}), "Segments")


def test_page_walks_are_those_of_rip_rsp_and_cr2():
    shown = text(dead(UD2, sregs={"cr2": UNMAPPED}), "Page walks")
    assert shown.startswith("4-level paging, CR3 0x9000\nRIP 0x100000\n  PML4 0x9000[0]")
    assert f"CR2 {UNMAPPED:#x}" in shown
    assert "leads nowhere: PML4 entry 1 is not present" in shown
    assert report(dead(UD2, sregs={"cr0": Cr0(pe=True), "efer": Efer(0)})).section("Page walks") is None


def test_code_is_shown_around_rip():
    shown = text(dead(b"\x90" * 4 + UD2, regs={"rip": CODE + 4}), "Code").splitlines()
    assert shown[0] == "around 0x100004 (code+0x4)"
    assert next(line for line in shown if line.startswith("->")).split()[:4] == ["->", "0x100004", "0f", "0b"]
    assert shown[1].startswith("   0x100000")  # nothing of what lies before the piece


def test_of_zeros_a_few_are_enough():
    shown = text(dead(UD2), "Code").splitlines()
    assert shown[-1] == "   ... and more zeros"
    assert len(shown) == 5
    assert "more zeros" not in text(dead(UD2, regs={"rip": CODE + 0x100}), "Code")


def test_code_that_is_not_there_is_said_so():
    assert text(dead(UD2, regs={"rip": UNMAPPED}), "Code") == f"no code can be read at {UNMAPPED:#x}"


def test_stack_words_have_symbols_and_runs_of_zeros_are_told_once():
    symbols = Symbols.of([(CODE, "T", "start"), (CODE + 0x100, "T", "main")])
    evidence = dead(UD2, written={STACK: (CODE + 0x123).to_bytes(8, "little")}, symbols=symbols)
    assert text(evidence, "Stack").splitlines()[:2] == [
        f"{STACK:#x}  0x0000000000100123 (main+0x23)",
        f"{STACK + 8:#x}  0x0000000000000000",
    ]
    assert "(16 times)" in text(dead(UD2, regs={"rsp": 0x300000}), "Stack")
    assert text(dead(UD2, regs={"rsp": UNMAPPED}), "Stack") == f"RSP {UNMAPPED:#x} leads to no memory"


def test_symbols_name_rip_everywhere():
    made = report(dead(UD2, symbols=Symbols.of([(CODE - 0x10, "T", "start_kernel")])))
    assert "0x100000 (start_kernel+0x10)" in made.summary
    assert "0x100000 (start_kernel+0x10)" in made.likely.summary


def test_last_exits_name_their_devices_and_tell_runs_once():
    serial = DeviceSpec("serial", "com1", ports=(Region(0x3F8, 8),))
    planned = attrs.evolve(plan(UD2), devices=(serial,))
    polls = (NotedExit("in", 0x3FD, 1, 0x60, CODE),) * 5
    noted = (*polls, NotedExit("read", 0xD0000000, 4, 0xFFFFFFFF), NotedExit("exit", exit=Shutdown()))
    evidence = dead(UD2, planned=planned, last_exits=noted, exit_count=100, unclaimed={("mmio", 0xD0000000): 1})
    shown = text(evidence, "Last exits").splitlines()
    assert shown[0] == "... and 93 before"
    assert shown[1].endswith("com1  (5 times)")
    assert shown[2].endswith("nobody answers")
    assert shown[3].startswith("exit: triple fault")


def test_a_long_exit_takes_several_lines():
    told = Shutdown((GuestException(6, rip=CODE, name="#UD"), GuestException(13, reason="IDT entry 6 is beyond it")))
    evidence = dead(UD2, exit_=told, last_exits=(NotedExit("exit", exit=told),), exit_count=1)
    shown = text(evidence, "Last exits").splitlines()
    assert len(shown) > 1 and max(map(len, shown)) <= 78
    assert " ".join(line.strip() for line in shown) == f"exit: {told.describe()}"


def test_the_console_and_its_last_lines_are_there():
    assert text(dead(UD2, console={"com1": ("one", "two")}), "Last lines of the console com1") == "one\ntwo"


# -- gates -------------------------------------------------------------------------------------------------------------


def long_gate(handler, selector=0x10, kind=0x8E):
    low = (handler & 0xFFFF).to_bytes(2, "little") + selector.to_bytes(2, "little") + bytes([0, kind])
    return low + (handler >> 16).to_bytes(6, "little") + bytes(4)


GATES = {
    "": long_gate(CODE),
    "its gate is empty": bytes(16),
    "its gate is not present": long_gate(CODE, kind=0x0E),
    "its gate has type 0x5, which is no interrupt or trap gate": long_gate(CODE, kind=0x85),
    "the selector of its gate 0x58 lies beyond the GDT's limit": long_gate(CODE, selector=0x58),
    "the selector of its gate is null": long_gate(CODE, selector=0),
    f"its handler {UNMAPPED:#x} is not mapped": long_gate(UNMAPPED),
}


@pytest.mark.parametrize("problem", GATES)
def test_a_gate_that_leads_to_no_handler_says_why(problem):
    evidence = dead(UD2, written={IDT + 6 * 16: GATES[problem]}, sregs={"idt": DescriptorTable(IDT, 0xFFF)})
    found = gate(Scene(evidence), 6)
    assert found.problem.startswith(problem)
    assert bool(found.problem) == bool(problem)
    assert found.handler == CODE if not problem else True


def test_a_gate_beyond_the_limit_says_how_many_there_are():
    assert gate(Scene(dead(UD2)), 6).problem == "the IDT's limit is 0x7: it has no whole gate"
    cut = dead(UD2, written={IDT + 6 * 16: long_gate(CODE)}, sregs={"idt": DescriptorTable(IDT, 0x6E)})
    assert gate(Scene(cut), 6).problem
    short = dead(UD2, sregs={"idt": DescriptorTable(IDT, 0x5F)})
    assert gate(Scene(short), 6).problem == "the IDT's limit is 0x5f: it has 6 whole gates"


def test_real_mode_has_far_pointers():
    real = {"cr0": Cr0(0), "efer": Efer(0), "cs": SegmentRegister(limit=0xFFFF), "idt": DescriptorTable(0, 0x3FF)}
    vector = (0x1234).to_bytes(2, "little") + (0x2000).to_bytes(2, "little")
    scene = Scene(dead(UD2, sregs=real, written={6 * 4: vector}))
    assert (gate(scene, 6).handler, gate(scene, 6).problem) == (0x21234, "")
    assert gate(scene, 0).problem == "its vector is 0000:0000"


def test_registers_that_are_missing_leave_a_report_all_the_same():
    bare = attrs.evolve(dead(UD2), now={})
    made = report(bare)
    assert not made.notes
    assert made.section("Registers").text == "none could be read"
    assert made.summary.startswith("vCPU 0 died: triple fault")
    only = attrs.evolve(dead(UD2), now={type(REGS): REGS})
    assert not report(only).notes
