"""Each check of VM entry finds what breaks it, in a plan and in live states, and takes what nearly does."""

import pytest
from entry_cases import CASES
from entry_states import plan_of, states

from anyvisor.errors import GuestMemoryError
from anyvisor.finding import Severity
from anyvisor.memory import MIB, Region
from anyvisor.plan import Blob, BootPlan, VcpuPlan
from anyvisor.states import Change
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.entry_checks import CHECKS, check_plan, check_states
from anyvisor.x86_64.modes import LONG
from anyvisor.x86_64.msrs import Msr
from anyvisor.x86_64.state import Regs, Sregs, VcpuEvents

BY_NAME = {check.name: check for check in CHECKS}
PDPTES, TR = "pdptes-are-valid", "tr-is-busy"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}: {case.found}")
def test_a_plan_that_breaks_a_rule_breaks_no_other_and_the_near_miss_none(case):
    findings = check_plan(plan_of(states(**case.offence)))
    assert {each.check for each in findings} == {case.check}
    first = findings[0]
    assert (first.subject, first.vcpu, first.severity) == (f"vCPU 0 {case.register}", 0, Severity.ERROR)
    assert case.found in first.found
    assert first.problem and first.wanted and first.remedy
    assert check_plan(plan_of(states(**case.near))) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}: {case.found}")
@pytest.mark.parametrize("maker", ["intel", "amd"])
def test_live_states_break_the_rules_of_those_makers_that_look(case, maker):
    sees = maker in case.makers and not case.only_planned
    findings = check_states(states(**case.offence), vcpu=3, rules=maker)
    assert {each.check for each in findings} == ({case.check} if sees else set())
    assert {each.section for each in findings} <= {getattr(BY_NAME[case.check], maker)}
    assert all(each.subject.startswith("vCPU 3 ") for each in findings)
    assert check_states(states(**case.near), rules=maker) == []


def test_every_check_has_a_case_a_name_of_its_own_and_a_section():
    assert {case.check for case in CASES} | {PDPTES} == BY_NAME.keys()
    assert len(BY_NAME) == len(CHECKS)
    for check in CHECKS:
        assert check.intel.startswith("SDM Vol. ") or check.amd.startswith("APM Vol. ")
        assert check.intel[:3] in ("", "SDM") and check.amd[:3] in ("", "APM")
        assert check.wants.endswith(".") and check.name == check.name.lower() and " " not in check.name


def test_both_manuals_are_named_where_both_makers_look_and_the_finding_reads_as_a_line():
    (found,) = check_plan(plan_of(states(cr4=Cr4(0))))
    assert str(found) == (
        "vCPU 0 CR4: long mode without PAE [long-mode-needs-pae] "
        "(found CR4 0, EFER 0x500 (LME|LMA), wanted PAE set, SDM Vol. 3, 27.3.1.1; APM Vol. 2, 15.5.1)"
    )
    (live,) = check_states(states(cr4=Cr4(0)))
    assert (live.subject, live.vcpu) == ("CR4", None)


@pytest.mark.parametrize(("rules", "selector", "wanted"), [(None, 0, []), (None, 8, [TR]), ("intel", 0, [TR])])
def test_in_long_mode_the_task_of_init_is_fine_until_another_is_loaded(rules, selector, wanted):
    """As an AMD's has it in a processor that the first has started; seen while a Linux boots."""
    found = states(tr={"type": 3, "selector": selector, "limit": 0xFFFF, "g": False})
    assert [each.check for each in check_states(found, rules=rules)] == wanted
    assert [each.check for each in check_plan(plan_of(found))] == [TR]


def test_there_are_no_rules_of_other_makers():
    with pytest.raises(ValueError, match="there are no rules of 'via'; there are intel, amd"):
        check_states(states(), rules="via")


# -- in words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "subject", "problem"),
    [
        ({"cr0": Cr0(0x11)}, "EFER", "long mode is active without CR0.PG"),
        ({"efer": Efer(lma=True)}, "EFER", "long mode is active without EFER.LME"),
        ({"efer": Efer(lma=True), "cr0": Cr0(0x11)}, "EFER", "long mode is active without EFER.LME and CR0.PG"),
        ({"cs": {"type": 10}}, "CS", "holds code that is not marked accessed"),
        ({"cs": {"type": 7}}, "CS", "holds no code"),
        ({"regs": {"rip": 1 << 47}}, "RIP", "is not canonical"),
        ({"regs": {"rip": 1 << 47}, "mode": "protected"}, "RIP", "is beyond what code outside 64-bit mode reaches"),
    ],
)
def test_a_problem_is_told_in_its_own_words(changes, subject, problem):
    (found,) = check_plan(plan_of(states(**changes)))
    assert (found.subject, found.problem) == (f"vCPU 0 {subject}", problem)


def test_efer_is_told_of_once_where_both_states_say_the_same():
    bad = Efer(1 << 40 | 0x500)
    for msr, registers in ((bad, ["EFER"]), (1 << 41, ["EFER", "IA32_EFER"])):
        found = check_states(states(efer=bad, msrs={Msr.EFER: msr}))
        assert [each.subject for each in found] == registers


def test_amd_s_processors_look_at_lme_and_paging_where_intel_s_look_at_lma():
    found = states(efer=Efer(lme=True), cr4=Cr4(0), cs={"l": False})
    assert [each.check for each in check_states(found, rules="amd")] == ["long-mode-needs-pae"]


# -- the entries of PAE paging, which are in memory --------------------------------------------------------------------

PAE_PAGING = {"mode": "protected", "cr0": Cr0(0x80000011), "cr4": Cr4(pae=True), "cr3": 0x5018, "efer": Efer(0)}


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [(0x6001, 0), (0x6019, 0), (0x6002, 0), (0x6003, 0x2), (0x6101, 0x100), (1 << 52 | 0x6001, 1 << 52)],
)
def test_the_top_table_of_pae_paging_has_no_reserved_bits(entry, wrong):
    table = Blob("page tables", 0x5000, (0x6001).to_bytes(8, "little") * 2 + entry.to_bytes(8, "little"))
    findings = check_plan(plan_of(states(**PAE_PAGING), table))
    assert [(each.check, each.found) for each in findings] == [(PDPTES, f"PDPTE 2 {entry:#x}")] * bool(wrong)
    assert all(f"reserved bits {wrong:#x} " in each.problem for each in findings)
    assert check_states(states(**PAE_PAGING)) == []  # memory is not among the states
    live = check_states(states(**PAE_PAGING), read=plan_of({}, table).read)
    assert [(each.check, each.found) for each in live] == [(each.check, each.found) for each in findings]
    assert all("in memory, from where MOV to CR3 and VM entry load it" in each.problem for each in live)


def test_of_a_live_processor_a_table_that_is_in_no_ram_says_nothing():
    def read(address, size_bytes):
        raise GuestMemoryError("no RAM")

    assert check_states(states(**PAE_PAGING), read=read) == []


def test_other_paging_has_no_such_table():
    table = Blob("page tables", 0x5000, b"\xff" * 32)
    assert check_plan(plan_of(states(LONG, cr3=0x5000), table)) == []
    assert check_plan(plan_of(states(**PAE_PAGING | {"cr4": Cr4(0)}), table)) == []


# -- what a plan says, and what it leaves to the hypervisor ------------------------------------------------------------


def test_a_change_is_checked_by_the_fields_that_it_has():
    bad = states(tr={"type": 9}, cr4=Cr4(0))[Sregs]
    for fields, wanted in (
        ({"tr": bad.tr}, ["tr-is-busy"]),
        ({"cr4": bad.cr4}, []),  # the mode is the hypervisor's own
        ({"cr0": bad.cr0}, []),
        ({"efer": bad.efer}, []),
        ({"cs": bad.cs}, []),
        ({"cr4": Cr4(cet=True)}, []),
        ({"cr4": bad.cr4, "efer": bad.efer}, ["long-mode-needs-pae"]),
    ):
        plan = plan_of({Sregs: Change(Sregs, **fields)})
        assert [each.check for each in check_plan(plan)] == wanted


def test_what_else_a_value_depends_on_is_the_hypervisor_s_own():
    for change in (Change(Regs, rip=1 << 40), Change(VcpuEvents, exception_injected=True)):
        assert check_plan(plan_of({change.kind: change})) == []


def test_of_several_changes_the_last_counts():
    changes = (Change(Regs, rflags=0), Change(Regs, rip=0), Change(Regs, rflags=2))
    assert check_plan(BootPlan("x86_64", (Region(0, MIB),), vcpus=(VcpuPlan(0, changes),))) == []
    assert check_plan(BootPlan("x86_64", (Region(0, MIB),), vcpus=(VcpuPlan(0, changes[:2]),))) != []


def test_every_vcpu_is_checked_and_named():
    vcpus = tuple(VcpuPlan(index, tuple(states(cr4=Cr4(0x20 * (index != 1))).values())) for index in range(3))
    plan = BootPlan("x86_64", (Region(0, MIB),), vcpus=vcpus)
    (found,) = check_plan(plan)
    assert [bool(check_plan(plan, vcpu=each.index)) for each in vcpus] == [each.index == found.vcpu for each in vcpus]
    assert (found.subject, found.vcpu) == ("vCPU 1 CR4", 1)
