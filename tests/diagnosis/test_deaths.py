"""Guests of a few bytes that die for real: the error names what was planted, on every processor that runs them."""

import json
import re

import attrs
import pytest

from anyvisor import BootPlan, HypervisorUnavailable, assemble, launch, open_hypervisor
from anyvisor.config import MachineConfig, Raw
from anyvisor.diagnosis import collect, report
from anyvisor.errors import GuestError, HypervisorError
from anyvisor.exits import Shutdown
from anyvisor.states import Change
from anyvisor.x86_64.control import Cr4
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.state import DescriptorTable, Regs, Sregs
from anyvisor_mock import FailCall, MockHypervisor

ADDRESS = 0x100000
UNMAPPED = 1 << 39
# fmt: off
UD2 = b"\x90\x0f\x0b"                                                # nop; ud2
STORE = b"\x48\xbb" + UNMAPPED.to_bytes(8, "little") + b"\x48\x89\x03"  # mov rbx, ...; mov [rbx], rax
PUSH = b"\x48\xbc" + UNMAPPED.to_bytes(8, "little") + b"\x50"        # mov rsp, ...; push rax
CALL_NULL = b"\x31\xc0\xff\xe0"                                      # xor eax, eax; jmp rax
LOAD_DS = b"\xb8\x18\0\0\0\x8e\xd8\xf4"                              # mov eax, 0x18; mov ds, eax; hlt
DIVIDE = b"\x31\xc9\xf7\xf1"                                         # xor ecx, ecx; div ecx
BAD_IDT = (b"\x0f\x01\x1c\x25\x20\x00\x10\x00\x0f\x0b".ljust(0x20, b"\x90")  # lidt [0x100020]; ud2
           + b"\xff\x0f" + UNMAPPED.to_bytes(8, "little"))
# fmt: on


def hypervisor(name):
    try:
        return open_hypervisor(name)
    except HypervisorUnavailable as error:
        pytest.skip(f"to run this: {error}")


def planned(code, facts, tmp_path, **registers):
    """A plan for a flat binary in long mode; `registers` are changes to what it is given."""
    (tmp_path / "code").write_bytes(code)
    raw = Raw(address=ADDRESS, mode="long")
    config = MachineConfig(kernel=tmp_path / "code", memory="16M", protocol="raw", raw=raw)
    plan = assemble(config, facts)
    states = tuple(_changed(each, registers) for each in plan.vcpus[0].states)
    return attrs.evolve(plan, vcpus=(attrs.evolve(plan.vcpus[0], states=states),))


def _changed(state, registers):
    if isinstance(state, Change) and state.kind is Sregs:
        return Change(
            Sregs, **{**state.fields, **{name: registers[name] for name in registers if name in state.fields}}
        )
    if isinstance(state, Regs):
        return attrs.evolve(state, **{name: registers[name] for name in registers if hasattr(state, name)})
    return state


def death_of(plan: BootPlan, backend, tamper=None):
    """The error that the guest's death is."""
    with launch(plan, backend) as machine:
        if tamper:
            tamper(machine)
        machine.start()
        with pytest.raises(GuestError) as caught:
            machine.wait(20)
    return caught.value


DEATHS = {
    "undefined-opcode": (UD2, {}),
    "page-fault": (STORE, {}),
    "stack-not-mapped": (PUSH, {}),
    "jump-to-zero": (CALL_NULL, {}),
    "divide-error": (DIVIDE, {}),
    "idt-bad": (BAD_IDT, {}),
    "gdt-limit": (LOAD_DS, {"gdt": DescriptorTable(0x500, 0x17)}),
    "rip-fits-mode": (UD2, {"rip": 0x9000_0000_0000}),
}


@pytest.mark.parametrize("backend", ["unicorn", pytest.param("kvm", marks=pytest.mark.kvm)])
@pytest.mark.parametrize("name", DEATHS)
def test_the_first_cause_is_what_was_planted(name, backend, tmp_path):
    code, registers = DEATHS[name]
    with hypervisor(backend) as host:
        error = death_of(planned(code, host.facts, tmp_path, **registers), host)
    assert error.likely.name == name
    assert error.report.notes == ()
    assert f"likely cause: {error.likely.summary} [{name}]" in str(error).splitlines()
    assert str(error).splitlines()[0] == error.report.summary
    assert error.report.summary.startswith("vCPU 0 died: ")
    assert not re.search("(code|stack) below", str(error)), "what the page shows there is not in the error's text"
    assert json.dumps(error.report.to_data())


@pytest.mark.parametrize("backend", ["unicorn", pytest.param("kvm", marks=pytest.mark.kvm)])
def test_a_byte_that_something_has_changed_is_found(backend, tmp_path):
    with hypervisor(backend) as host:
        plan = planned(b"\x90" * 64 + b"\xf4", host.facts, tmp_path)
        error = death_of(plan, host, tamper=lambda machine: machine.memory.write(ADDRESS + 8, b"\x06"))
    assert error.likely.name == "code-damaged"


@pytest.mark.parametrize("backend", ["unicorn", pytest.param("kvm", marks=pytest.mark.kvm)])
def test_a_state_that_is_refused_says_which_rule_it_breaks(backend, tmp_path):
    with hypervisor(backend) as host:
        plan = planned(UD2, host.facts, tmp_path, cr4=Cr4(0))
        with pytest.raises(HypervisorError, match=r"EINVAL.*\n.*long mode without PAE") as caught:
            launch(plan, host)
    assert caught.value.findings[0].check == "long-mode-needs-pae"


def test_a_refusal_of_a_sound_state_has_no_findings(tmp_path):
    broken = MockHypervisor(FACTS, faults=[FailCall("put Sregs", errno=5)])
    with pytest.raises(HypervisorError) as caught:
        launch(planned(UD2, FACTS, tmp_path), broken)
    assert caught.value.findings == ()
    assert "\n" not in str(caught.value)


# -- the mock: deaths that cannot be had by running code ---------------------------------------------------------------


def test_a_state_that_cannot_be_read_is_noted_and_the_death_is_told(tmp_path):
    host = MockHypervisor(FACTS, script=[[Shutdown()]], faults=[FailCall("get Regs", errno=5)])
    error = death_of(planned(UD2, FACTS, tmp_path), host)
    assert error.exit == Shutdown()
    assert any(note.startswith("x86_64.Regs: HypervisorError") for note in error.report.notes)
    assert "the report is not complete: x86_64.Regs" in str(error)


def test_a_report_that_cannot_be_made_hides_no_death(tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("anyvisor.diagnosis.death.collect", fail)
    error = death_of(planned(UD2, FACTS, tmp_path), MockHypervisor(FACTS, script=[[Shutdown()]]))
    assert error.report.notes == ("report: ZeroDivisionError: a bug of ours",)
    assert str(error).startswith("vCPU 0 died: triple fault")


def test_evidence_is_collected_of_a_machine_that_has_not_run(tmp_path):
    with launch(planned(UD2, FACTS, tmp_path), MockHypervisor(FACTS)) as machine:
        evidence = collect(machine, machine.vcpus[0])
        made = report(evidence)
    assert evidence.exit is None
    assert evidence.state(Regs).rip == ADDRESS
    assert evidence.is_early
    assert made.summary.startswith("vCPU 0 is looked at, at RIP 0x100000")
    assert made.causes == ()
