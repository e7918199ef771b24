"""A report is made whatever happens; its page can be read, its data can be written down."""

import json

import attrs
import pytest

from anyvisor import diagnosis
from anyvisor.diagnosis import Cause, Evidence, Report, report
from anyvisor.errors import GuestError, GuestMemoryError
from anyvisor.exits import Shutdown, UnknownExit
from anyvisor.finding import Finding, Severity
from anyvisor.memory import MIB, Region
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.section import Section
from anyvisor.x86_64 import diagnosis as x86

FULL = Report(
    summary="vCPU 0 died: triple fault, at RIP 0x100000",
    vcpu=0,
    causes=(
        Cause("page-fault", "the guest raised a page fault", ("it names 0x8000", "no handler"), "map it", "SDM 1", 88),
        Cause("other", "something else", weight=3),
    ),
    findings=(
        Finding("tr-busy", "vCPU 0", "TR holds no busy TSS", "type 9", "type 11", "SDM 2", "use busy=True", vcpu=0),
        Finding("console", "command line", "it names no console", severity=Severity.HINT),
    ),
    sections=(Section("Registers", "rip 0x100000\nrax 0x0"),),
    notes=("stack: GuestMemoryError: gone",),
)
PAGE = """\
vCPU 0 died: triple fault, at RIP 0x100000

The report is not complete: stack: GuestMemoryError: gone

Likely cause: page-fault
  The guest raised a page fault
    - It names 0x8000
    - No handler
    What to do: map it
    See: SDM 1

Other causes, less likely
  other: something else

Checks that fail
  tr-busy: vCPU 0: TR holds no busy TSS
    Found type 9, wanted type 11, SDM 2
    What to do: use busy=True
  console: a hint: command line: it names no console

Registers
  rip 0x100000
  rax 0x0"""


def nothing(address, size_bytes):
    raise GuestMemoryError("there is no memory")


def bare(exit_=None):
    """Of a machine with no memory and no registers, nothing is known."""
    plan = BootPlan("x86_64", (Region(0, 2 * MIB),), vcpus=(VcpuPlan(0, ()),))
    return Evidence(plan=plan, vcpu=0, read=nothing, exit=exit_ or Shutdown())


def test_the_page_says_what_happened_why_and_what_to_do():
    assert str(FULL) == PAGE


def test_a_check_that_is_a_cause_is_told_once():
    named = attrs.evolve(FULL, causes=(*FULL.causes, Cause("tr-busy", "vCPU 0: TR holds no busy TSS")))
    assert str(named).count("TR holds no busy TSS") == 1


def test_a_report_without_a_cause_says_so():
    assert "none known" in str(Report("vCPU 0 died", exit=Shutdown()))


def test_a_look_at_a_guest_that_is_well_speaks_of_no_cause():
    assert str(Report("vCPU 0 is looked at")) == "vCPU 0 is looked at"


def test_prose_fits_in_100_columns_and_what_no_terminal_should_obey_is_escaped():
    made = Report("word " * 60, causes=(Cause("x", "long " * 60, ("because " * 40,), "do " * 60),))
    assert max(map(len, str(made).splitlines())) <= 102
    assert "\x1b" not in str(Report("a \x1b[2J", sections=(Section("console", "\x1b[31m"),)))


def test_the_data_is_json():
    data = json.loads(json.dumps(FULL.to_data()))
    assert data["causes"][0]["name"] == "page-fault"
    assert data["findings"][0]["severity"] == "ERROR"
    assert data["sections"][0] == {"title": "Registers", "text": ["rip 0x100000", "rax 0x0"], "value": None}
    assert data["notes"] == ["stack: GuestMemoryError: gone"]


def test_of_a_guest_of_which_nothing_is_known_there_is_a_report():
    made = report(bare())
    assert made.notes == ()
    assert json.dumps(made.to_data())
    assert "triple fault" in str(made)


@pytest.mark.parametrize("part", ["findings", "causes", "sections", "summary"])
def test_what_fails_is_a_note_and_hides_nothing(part, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(x86, part, fail)
    made = report(bare(UnknownExit(33, "bus-lock")))
    assert [note for note in made.notes if "ZeroDivisionError: a bug of ours" in note]
    assert ("bus-lock" in made.summary) or part == "summary"
    assert str(made)


def test_what_could_not_be_read_is_a_note():
    made = report(attrs.evolve(bare(), unreadable={"x86_64.Regs": "HypervisorError: KVM_GET_REGS: EIO"}))
    assert made.notes == ("x86_64.Regs: HypervisorError: KVM_GET_REGS: EIO",)


def test_an_error_has_its_causes_or_none():
    assert GuestError("died", report=FULL).likely is FULL.causes[0]
    assert GuestError("died", report=FULL).causes == FULL.causes
    assert (GuestError("a device failed").likely, GuestError("a device failed").causes) == (None, ())


def test_the_package_has_what_programs_need():
    assert diagnosis.report is report
    assert {"collect", "report", "Evidence", "Report", "Cause"} <= set(diagnosis.__all__)
