"""The first cause names what is wrong, from evidence alone: no hypervisor is needed to see it."""

import attrs
import pytest
from dead_guests import (
    CODE,
    DIVIDE,
    INT3,
    LOAD_DS,
    NOP,
    OUT,
    PUSH,
    REGS,
    STACK,
    STORE,
    UD2,
    UNMAPPED,
    dead,
    first,
    plan,
)

from anyvisor.diagnosis import report
from anyvisor.exits import (
    FailEntry,
    GuestException,
    Halted,
    InternalError,
    MemoryFault,
    Shutdown,
    SystemEvent,
    UnknownExit,
)
from anyvisor.flight import NotedExit
from anyvisor.memory import GIB
from anyvisor.panics import find_panic
from anyvisor.plan import Blob
from anyvisor.x86_64.control import Cr4, Rflags
from anyvisor.x86_64.diagnosis.failed_checks import BootFindings
from anyvisor.x86_64.state import Activity, DescriptorTable, MpState

# fmt: off
MOVAPS = b"\x0f\x28\xc1"                    # movaps xmm0, xmm1
FXSAVE = b"\x0f\xae\x03"                    # fxsave [rbx]
# fmt: on
EMULATION = InternalError(1, cause="an instruction could not be emulated")
HUGE_IDT = DescriptorTable(UNMAPPED, 0xFFF)
HLT = b"\xf4\xeb\xfd"
UNPACKER = HLT + bytes(64) + b" -- System halted\0"
FAULTS = {
    "undefined-opcode": (UD2, {}),
    "undefined-opcode of another mode": (b"\x06", {}),
    "undefined-opcode for want of OSFXSR": (MOVAPS, {}),
    "undefined-opcode for want of OSXSAVE": (b"\xc5\xf8\x77", {}),
    "breakpoint": (INT3, {}),
    "divide-error": (DIVIDE, {}),
    "page-fault": (STORE, {"regs": {"rbx": UNMAPPED}}),
    "general-protection": (STORE, {"regs": {"rbx": 1 << 62}}),
    "stack-not-mapped": (PUSH, {"regs": {"rsp": UNMAPPED}}),
    "selector-beyond-gdt": (LOAD_DS, {"regs": {"rax": 0x58}}),
    "bad-selector": (LOAD_DS, {"regs": {"rax": 0x8}}),
    "code-not-mapped": (NOP, {"regs": {"rip": UNMAPPED}}),
    "jump-to-zero": (NOP, {"regs": {"rip": 0x10}}),
    "executing-zeros": (NOP, {"regs": {"rip": 0x200000}}),
    "executing-tables": (NOP, {"regs": {"rip": 0x9100}}),
    "cr3-outside-ram": (NOP, {"sregs": {"cr3": 1 << 40}}),
    "idt-bad": (INT3, {"sregs": {"idt": HUGE_IDT}}),
    "reset-by-triple-fault": (INT3, {"sregs": {"idt": DescriptorTable(0, 0)}}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_triple_fault_is_named_by_what_registers_and_memory_show(name):
    code, more = FAULTS[name]
    assert first(dead(code, **more)) == name.partition(" ")[0]


@pytest.mark.parametrize("name", ["undefined-opcode", "divide-error", "page-fault", "idt-bad"])
def test_what_the_processor_tells_of_the_exception_counts(name):
    code, more = FAULTS[name]
    vectors = {"undefined-opcode": 6, "divide-error": 0, "page-fault": 14, "idt-bad": 3}
    told = Shutdown((GuestException(vectors[name], rip=CODE), GuestException(8)))
    assert first(dead(code, exit_=told, **more)) == name


def test_an_exception_that_nobody_could_foresee_is_believed():
    found = report(dead(b"\x0f\x01\xf9", exit_=Shutdown((GuestException(13, 0, rip=CODE),)))).likely  # rdtscp
    assert found.name == "general-protection"
    assert "error code 0x0" in " ".join(found.because)


def test_without_a_clue_the_report_says_so_and_what_would_help():
    found = report(dead(NOP * 8)).likely
    assert (found.name, found.weight) == ("unknown-exception", 20)
    assert "--backend unicorn" in found.remedy


# -- exits -------------------------------------------------------------------------------------------------------------

EXITS = {
    "executing-outside-ram": (
        EMULATION,
        NOP,
        {"regs": {"rip": 0xD0000000}, "planned": plan(NOP, mapped_bytes=4 * GIB)},
    ),
    "instruction-not-emulated": (EMULATION, FXSAVE, {"regs": {"rbx": 0x300000}}),
    "idt-bad": (EMULATION, INT3, {"sregs": {"idt": HUGE_IDT}}),
    "event-not-delivered": (InternalError(3, cause="an event could not be delivered"), NOP, {}),
    "unhandled-exit": (UnknownExit(33, "bus-lock"), NOP, {}),
    "memory-not-mapped-by-host": (MemoryFault(0x1000, 4096), NOP, {}),
    "guest-asked-crash": (SystemEvent("crash"), NOP, {}),
    "entry-refused": (FailEntry(0x80000021, cause="invalid guest state"), NOP, {}),
    "rflags-fixed": (FailEntry(0x80000021, cause="invalid guest state"), NOP, {"regs": {"rflags": Rflags(0)}}),
    "long-mode-needs-pae": (FailEntry(0x80000021), NOP, {"sregs": {"cr4": Cr4(0)}}),
    "halted-interrupts-off": (Halted(), NOP, {}),
    "halted-waiting": (Halted(), NOP, {"regs": {"rflags": Rflags(fixed=True, interrupt_enable=True)}}),
}


@pytest.mark.parametrize("name", EXITS)
def test_an_exit_leads_to_its_cause(name):
    exit_, code, more = EXITS[name]
    assert first(dead(code, exit_=exit_, **more)) == name


def test_an_instruction_that_touches_what_nobody_claims_says_so():
    planned = plan(FXSAVE, mapped_bytes=4 * GIB)
    found = report(dead(FXSAVE, planned=planned, exit_=EMULATION, regs={"rbx": 0xD0000000})).likely
    assert found.name == "instruction-not-emulated"
    assert "it touches 0xd0000000, where no RAM and no device is" in " ".join(found.because)
    assert "0f ae 03" in " ".join(found.because)


def test_a_loop_at_an_address_that_nobody_answers_is_seen_in_the_last_exits():
    reads = tuple(NotedExit("read", 0xD0000000, 4, 0xFFFFFFFF, CODE) for _ in range(40))
    evidence = dead(NOP, last_exits=reads, exit_count=900, unclaimed={("mmio", 0xD0000000): 900})
    found = report(attrs.evolve(evidence, exit=None)).likely
    assert found.name == "polling-nobody"
    assert "0xd0000000" in found.summary


def test_a_processor_that_is_halted_in_the_hypervisor_is_seen_by_its_activity():
    evidence = attrs.evolve(dead(NOP), exit=None)
    now = {**evidence.now, MpState: MpState(Activity.HALTED)}
    assert first(attrs.evolve(evidence, now=now)) == "halted-interrupts-off"


def test_a_panic_on_the_console_comes_first():
    lines = ("Kernel panic - not syncing: VFS: Unable to mount root fs", "Kernel Offset: disabled")
    evidence = dead(NOP, exit_=Shutdown(), console={"com1": lines}, panic=find_panic(lines))
    found = report(evidence).likely
    assert found.name == "guest-panic"
    assert "Unable to mount root" in found.summary
    assert "initrd" in found.remedy


# -- checks ------------------------------------------------------------------------------------------------------------


def test_a_rule_that_the_plan_breaks_comes_before_what_it_led_to():
    wrong = plan(PUSH, regs=attrs.evolve(REGS, rsp=UNMAPPED))
    made = report(dead(PUSH, planned=wrong))
    assert [each.name for each in made.causes[:2]] == ["stack-mapped", "stack-not-mapped"]
    assert made.findings[0].check == "stack-mapped"


def test_once_the_guest_was_heard_of_its_first_state_is_of_no_interest():
    wrong = plan(UD2, regs=attrs.evolve(REGS, rflags=Rflags(0)))
    assert first(dead(UD2, planned=wrong)) == "rflags-fixed"
    assert first(dead(UD2, planned=wrong, last_exits=(OUT,))) == "undefined-opcode"


@pytest.mark.parametrize(("last_exits", "first_cause"), [((), "cr4-reserved"), ((OUT,), "undefined-opcode")])
def test_a_state_that_no_processor_lets_a_guest_have_is_a_rule_broken(last_exits, first_cause):
    """An emulated one does. What is early counts more than what has been so for long."""
    evidence = dead(UD2, sregs={"cr4": Cr4(0x80000020)}, last_exits=last_exits)
    assert first(evidence) == first_cause
    assert [each.check for each in report(evidence).findings] == ["cr4-reserved"]
    assert report(attrs.evolve(evidence, exit=None)).findings == ()


def test_a_sound_plan_fails_no_check():
    assert report(dead(UD2)).findings == ()


def test_the_strongest_cause_is_first():
    weights = [
        each.weight for each in report(dead(UD2, planned=plan(UD2, regs=attrs.evolve(REGS, rsp=UNMAPPED)))).causes
    ]
    assert weights == sorted(weights, reverse=True)
    assert len(weights) > 1


def test_another_pieces_bytes_are_named_by_the_piece():
    more = plan(NOP, Blob("trampoline", 0x300000, UD2))
    assert "0x300000 (trampoline)" in report(dead(NOP, planned=more, regs={"rip": 0x300000})).summary


def test_a_stack_that_is_mapped_is_not_blamed():
    assert first(dead(PUSH + UD2, regs={"rip": CODE + 1, "rsp": STACK})) == "undefined-opcode"


@pytest.mark.parametrize(
    ("code", "printed", "name"),
    [
        (UNPACKER, (), "kernel-not-unpacked"),
        (HLT + bytes(64), (), "halted-interrupts-off"),
        (UNPACKER, ("it is heard",), "halted-interrupts-off"),
    ],
    ids=["Linux's unpacker", "any other code", "one that has told why"],
)
def test_a_kernel_that_halts_unheard_in_its_unpacker_is_recognised(code, printed, name):
    console = {"serial0": printed}
    assert first(dead(code, exit_=Halted(), regs={"rip": CODE + 1}, console=console)) == name


def test_an_application_processor_is_said_to_wait():
    found = attrs.evolve(dead(NOP), exit=None)
    waiting = attrs.evolve(found, now={**found.now, MpState: MpState(Activity.UNINITIALIZED)})
    assert "is looked at, and waits to be started" in report(waiting).summary
    assert "waits" not in report(found).summary


def test_the_plan_of_a_machine_is_checked_once_for_all_its_processors():
    findings, broken = BootFindings(), plan(NOP, regs=attrs.evolve(REGS, rip=UNMAPPED))
    assert findings.of(broken) is findings.of(broken) != []
    assert findings.of(plan(NOP)) != findings.of(broken)
