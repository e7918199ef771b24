"""A trace is a value: it goes to text and back, and nothing but a trace is read as one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor import errors, exits
from anyvisor.acts import MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.codec import to_data
from anyvisor.errors import AnyvisorError, GuestError, HypervisorError, HypervisorUnavailable, PlanError, Unsupported
from anyvisor.exits import (
    Exit,
    FailEntry,
    GuestException,
    Halted,
    InternalError,
    Kicked,
    MemoryFault,
    Shutdown,
    UnknownExit,
)
from anyvisor.memory import Region
from anyvisor.recording.failure import KINDS, Failure
from anyvisor.recording.trace import (
    Acted,
    Call,
    ClockRead,
    DeviceRaised,
    InterruptTaken,
    Run,
    RunBegan,
    RunEnded,
    TimerCalled,
    Trace,
)  # fmt: skip
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.state import Regs

BROKEN = Failure.of(HypervisorError("KVM_SET_SREGS", 22, "vCPU 0"))
MADE = (Call(0, "create_vm", (False,), 1), Call(1, "create_vcpu", (0, None), 2), Call(1, "create_vcpu", (1, 7), 3))
EVENTS = (
    *MADE,
    Call(1, "map_memory", (Region(0, 4096, "RAM"), False)),
    Call(1, "put", (Irqchip(),)),
    Call(1, "get", ("x86_64.Irqchip",), Irqchip()),
    Call(1, "set_irq", (4, True)),
    Call(1, "add_irqfd", (4, True)),
    Call(1, "add_ioeventfd", (Region(0x10, 4), True, 1 << 40)),
    Call(1, "coalesce", (Region(0x10, 4), False)),
    Call(1, "create_vcpu", (1, None), None, BROKEN),
    Call(2, "put", (Regs(rip=1 << 63),)),
    Call(2, "get", ("x86_64.Regs",), Regs(rip=5)),
    Call(2, "get", ("x86_64.Msrs",), None, Failure.of(Unsupported("no Msrs"))),
    Call(2, "take_interrupts_from"),
    ClockRead(1, "now", 17),
    ClockRead(1, "wall", 1.5),
    RunBegan(2),
    Acted(2, PortIn(0xFFFF, 1, 0)),
    RunBegan(3),
    Acted(3, PortOut(0, 4, 0xFFFFFFFF)),
    TimerCalled(1, 3),
    Acted(2, MmioRead((1 << 64) - 1, 1, 255)),
    Acted(2, MmioRead(0xD0000000, 8, None)),
    DeviceRaised(2, Failure.of(ValueError("a broken device"))),
    Acted(3, MmioWrite(0xD0000000, 8, (1 << 64) - 1)),
    Acted(2, InterruptTaken(0x24)),
    Call(2, "kick"),
    Call(2, "run", (), None, BROKEN),
    RunEnded(2, Kicked()),
    RunEnded(3, None, BROKEN),
    Call(2, "close"),
    Call(0, "close"),
)
TRACE = Trace(FACTS, EVENTS)


def lines(trace=TRACE):
    return trace.to_json().splitlines(keepends=True)


def with_line(*data):
    """The text of a trace with these lines, after those that make VM 1 and vCPUs 2 and 3."""
    return "".join([*lines(Trace(FACTS, MADE)), *(json.dumps(each) + "\n" for each in data)])


# -- text and back -----------------------------------------------------------------------------------------------------


def test_a_trace_with_a_bit_of_everything_goes_to_text_and_back():
    again = Trace.from_json(TRACE.to_json())
    assert again == TRACE
    assert list(map(type, again.events)) == list(map(type, EVENTS))


def test_a_trace_goes_to_a_file_and_back(tmp_path):
    TRACE.save(tmp_path / "it.trace")
    assert Trace.load(tmp_path / "it.trace") == TRACE


def test_an_access_is_one_short_line_in_the_order_of_the_trace():
    text = lines()
    assert len(text) == 1 + len(EVENTS)
    assert text[1 + EVENTS.index(Acted(3, PortOut(0, 4, 0xFFFFFFFF)))] == '[3,"out",0,4,4294967295]\n'
    assert text[1 + EVENTS.index(Call(2, "kick"))] == '[2,"kick",[]]\n'


FILLED = {
    "data": (1, 1 << 63),
    "kind": "reset",
    "name": "IO",
    "cause": "why",
    "exceptions": (GuestException(14, 2, 1 << 63, 0, "why"), GuestException(6)),
    "state_is_lost": True,
    "instruction": b"\xd9\x00",
    "details": (("flags", 1), ("word_1", 1 << 63)),
    "fields": (("index", 0),),
}
NEWER = {"exceptions", "state_is_lost", "instruction", "details", "fields", "cause"}
"""Fields of exits that there have not always been."""


@pytest.mark.parametrize("kind", [each for each in vars(exits).values() if isinstance(each, type) and each is not Exit and issubclass(each, Exit)])  # fmt: skip  # noqa: E501
def test_every_exit_comes_back_as_itself(kind):
    exit_ = kind(**{name: FILLED.get(name, 7) for name in kind.__annotations__})
    trace = Trace(FACTS, (*MADE, RunBegan(2), RunEnded(2, exit_)))
    assert Trace.from_json(trace.to_json()).events[-1].exit == exit_


@pytest.mark.parametrize(
    "exit_", [Shutdown(), FailEntry(7, 1), InternalError(1, (2, 3)), MemoryFault(1, 2), UnknownExit(99, "?", (1,))]
)
def test_an_exit_from_before_it_had_all_its_fields_is_read_as_one_without_them(exit_):
    old = {name: value for name, value in to_data(exit_).items() if name not in NEWER}
    assert old.keys() < to_data(exit_).keys()
    text = with_line([2, "began"], [2, "ended", type(exit_).__name__, old])
    assert Trace.from_json(text).events[-1] == RunEnded(2, exit_)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Shutdown", {"exceptions": [{"vector": "6"}]}),
        ("Shutdown", {"exceptions": [6]}),
        ("InternalError", {"suberror": 1, "details": [["flags"]]}),
        ("InternalError", {"suberror": 1, "details": [["flags", 1, 2]]}),
        ("InternalError", {"suberror": 1, "details": [[1, "flags"]]}),
        ("InternalError", {"suberror": 1, "instruction": "no base64!"}),
        ("UnknownExit", {"number": 1, "fields": {"index": 1}}),
    ],
)
def test_what_is_no_exit_is_refused(name, fields):
    with pytest.raises(PlanError, match=rf"line \d+ .*{name}"):
        Trace.from_json(with_line([2, "began"], [2, "ended", name, fields]))


def test_an_exit_of_a_strangers_class_is_kept_by_its_name():
    class Strange(Exit):
        pass

    trace = Trace(FACTS, (*MADE, RunBegan(2), RunEnded(2, Strange())))
    assert Trace.from_json(trace.to_json()).events[-1].exit == UnknownExit(-1, "Strange")


# -- looking into it ---------------------------------------------------------------------------------------------------


def test_a_trace_tells_who_is_who():
    assert TRACE.vms == {1: 0}
    assert TRACE.vcpus == {2: (1, 0), 3: (1, 1)}
    assert [TRACE.name(subject) for subject in range(4)] == ["hypervisor", "VM 0", "vCPU 0", "vCPU 1"]


def test_runs_are_acts_with_their_numbers_and_an_end():
    (run,) = TRACE.runs(3)
    assert run.acts == (PortOut(0, 4, 0xFFFFFFFF), MmioWrite(0xD0000000, 8, (1 << 64) - 1))
    assert [EVENTS[number].act for number in run.numbers] == list(run.acts)
    assert (run.exit, run.failure) == (None, BROKEN)
    assert [run.exit for run in TRACE.runs(2)] == [Kicked()]


def test_a_run_that_was_not_over_has_acts_and_no_end():
    trace = Trace(FACTS, (*MADE, RunBegan(2), RunEnded(2, Halted()), RunBegan(2), Acted(2, PortIn(1, 1, 1))))
    assert trace.runs(2) == (Run((), (), Halted()), Run((PortIn(1, 1, 1),), (6,)))


def test_calls_of_one_subject_are_in_order_and_without_runs():
    assert [call.operation for call in TRACE.calls(2)] == ["put", "get", "get", "take_interrupts_from", "kick", "run", "close"]  # fmt: skip  # noqa: E501


# -- errors as values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        HypervisorError("KVM_RUN", 5, "vCPU 1"), HypervisorUnavailable("absent"), Unsupported("no"), GuestError("died"),
        PlanError("overlap"), OSError(28, "full"), ValueError("wrong"), RuntimeError("broken"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_error_comes_back_as_the_same_class_with_the_same_words(error):
    again = Failure.of(error).error()
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert getattr(again, "errno", None) == getattr(error, "errno", None)


def test_a_hypervisor_error_keeps_its_parts():
    again = Failure.of(HypervisorError("KVM_RUN", 5, "vCPU 1")).error()
    assert (again.operation, again.errno, again.detail) == ("KVM_RUN", 5, "vCPU 1")


def test_an_error_of_another_class_comes_back_as_the_nearest_above_it():
    class Mine(Unsupported):
        pass

    assert type(Failure.of(Mine("no")).error()) is Unsupported
    assert type(Failure.of(KeyboardInterrupt()).error()) is Exception


def test_every_error_of_anyvisor_can_be_kept():
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, AnyvisorError)]
    for kind in kinds:
        assert type(Failure(kind.__name__, "text", 1 if kind is HypervisorError else None).error()) is kind
    assert len(kinds) < len(KINDS)


# -- what is no trace --------------------------------------------------------------------------------------------------

BAD = {
    "no list": ({}, "an event is a list"),
    "no word": ([2], "an event is a list"),
    "an unknown subject": ([9, "began"], "subject 9"),
    "a subject that is no number": ([True, "began"], "an event is a list"),
    "an unknown word": ([2, "sing", []], "'sing' does not happen to a vcpu"),
    "a VM's call on a vCPU": ([2, "map_memory", [{"start": 0, "size_bytes": 1}, False]], "does not happen to a vcpu"),
    "a number as text": ([1, "set_irq", ["4", True]], "not a whole number"),
    "too many arguments": ([1, "set_irq", [4, True, 1]], "2 items"),
    "no arguments": ([2, "kick"], "a call has arguments"),
    "a state of no known kind": ([2, "put", [{"type": "x86_64.Soul"}]], "x86_64.Soul"),
    "a state of a VM for a vCPU": ([2, "put", [{"type": "x86_64.Irqchip"}]], "is not a VcpuState"),
    "a get without an answer": ([2, "get", ["x86_64.Regs"]], "get has a result"),
    "a get answered by another state": ([2, "get", ["x86_64.Sregs"], {"type": "x86_64.Regs"}], "x86_64.Regs"),
    "a put with an answer": ([2, "kick", [], 1], "kick has a result"),
    "a vCPU made twice": ([1, "create_vcpu", [3, None], 2], "no new number"),
    "an act outside of run": ([2, "in", 1, 1, 1], "not in run"),
    "an end outside of run": ([2, "ended", "Halted", {}], "not in run"),
    "an act of a VM": ([1, "in", 1, 1, 1], "that does not happen to it"),
    "a vCPU's clock": ([2, "now", 1], "that does not happen to it"),
    "a timer without a number": ([1, "timer", None], "number"),
    "no time": ([1, "now", "noon"], "no time"),
    "a failure of no known class": ([2, "kick", [], None, {"kind": "SystemExit"}], "kind"),
}  # fmt: skip
BAD_IN_RUN = {
    "a port too high": ([2, "in", 0x10000, 1, 1], "no access"),
    "three bytes": ([2, "in", 1, 3, 1], "no access"),
    "a value too wide": ([2, "in", 1, 1, 256], "does not fit"),
    "a negative value": ([2, "out", 1, 1, -1], "does not fit"),
    "nothing written": ([2, "write", 1, 1, None], "missing"),
    "true for a number": ([2, "out", 1, 1, True], "whole number"),
    "an unknown exit": ([2, "ended", "Bored", {}], "no exit"),
    "an exit with a wrong field": ([2, "ended", "Halted", {"why": 1}], "why"),
    "run in run": ([2, "began"], "in run already"),
}


@pytest.mark.parametrize("name", [*BAD, *BAD_IN_RUN])
def test_what_cannot_be_an_event_is_refused_by_its_line(name):
    data, cause = {**BAD, **BAD_IN_RUN}[name]
    before = [[2, "began"]] if name in BAD_IN_RUN else []
    with pytest.raises(PlanError, match=cause) as error:
        Trace.from_json(with_line(*before, data))
    assert f"line {1 + len(MADE) + len(before) + 1} of the trace" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "\n", "null\n", "[]\n", "hello\n", "[" * 100000 + "\n", '{"anyvisor_trace": 1}\n']
)
def test_what_is_no_trace_is_said_to_be_none(text):
    with pytest.raises(PlanError, match="no trace of anyvisor"):
        Trace.from_json(text)


def test_a_trace_of_another_version_is_refused():
    with pytest.raises(PlanError, match="of version 2, this anyvisor reads version 1"):
        Trace.from_json(TRACE.to_json().replace('"anyvisor_trace":1', '"anyvisor_trace":2'))


def test_a_file_of_bytes_is_no_trace(tmp_path):
    (tmp_path / "it").write_bytes(bytes(range(256)))
    with pytest.raises(PlanError, match="no trace of anyvisor"):
        Trace.load(tmp_path / "it")


def test_a_last_line_that_was_cut_is_left_out():
    text = with_line([2, "began"], [2, "in", 1, 1, 1])
    assert Trace.from_json(text[:-1]).events == (*MADE, RunBegan(2))
    assert Trace.from_json(text[:-5]).events == (*MADE, RunBegan(2))


def mangled(text):
    """Texts near `text`: some character replaced, dropped or doubled."""
    at = st.integers(0, len(text) - 1)
    characters = st.sampled_from('[]{}",:0123456789-.eE \n\0abtrue\ud800') | st.characters()
    return st.builds(lambda at, new, drop: text[:at] + new + text[at + drop :], at, characters, st.integers(0, 3))


@given(mangled("".join(lines()[1:])))
def test_a_mangled_trace_is_read_or_refused_and_nothing_else(text):
    try:
        trace = Trace.from_json(lines()[0] + text)
    except PlanError:
        return
    assert Trace.from_json(trace.to_json()) == trace
