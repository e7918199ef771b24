"""A new vCPU: in the state after RESET, at its first instruction, or waiting for INIT and SIPI.

Some facts about RESET. SDM Vol. 3, table 10-1: real mode, and the first instruction at 0xFFFFFFF0, since CS has a base
that no selector of real mode gives. RDX says which processor it is, and what is in TR and LDTR shows nowhere; so
neither is looked at here.
"""

from __future__ import annotations

from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.memory import PAGE_BYTES, Region
from anyvisor.testing.bench import RAM
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.state_examples import before
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.modes import REAL
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Activity, MpState, Regs, Sregs

FIRST_INSTRUCTION = 0xFFFFFFF0
LAST_PAGE = Region(FIRST_INSTRUCTION // PAGE_BYTES * PAGE_BYTES, PAGE_BYTES, "the last page of 4 GiB")
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
REGISTERS = (
    "rax",
    "rbx",
    "rcx",
    "rsi",
    "rdi",
    "rbp",
    "rsp",
    "rip",
    "rflags",
    *(f"r{number}" for number in range(8, 16)),
)
A_MOMENT_SECONDS = 0.05
ID_BIT = 24
"""An xAPIC's id begins at this bit of its register."""


@needs(architecture="x86_64")
class ResetContract(Contract):
    """What `create_vcpu` makes."""

    @needs(states=(Regs,))
    def test_the_registers_of_a_new_vcpu_are_those_after_reset(self, bench: MakeBench) -> None:
        """`get(Regs)` of a new vCPU has RIP at 0xFFF0, RFLAGS at 2, and zeros."""
        found, wanted = bench().vcpu.get(Regs), _after_reset(Regs)
        assert {name: hex(getattr(found, name)) for name in REGISTERS} == {
            name: hex(getattr(wanted, name)) for name in REGISTERS
        }

    @needs(states=(Sregs,))
    def test_a_new_vcpu_is_in_real_mode(self, bench: MakeBench) -> None:
        """`get(Sregs)` of a new vCPU has CS at 0xFFFF0000, the other segments at 0, and no protection or paging."""
        found, wanted = bench().vcpu.get(Sregs), _after_reset(Sregs)
        assert (found.cr0.pe, found.cr0.pg, int(found.cr4), int(found.efer)) == (False, False, 0, 0)
        segments = {name: (getattr(found, name).selector, hex(getattr(found, name).base)) for name in SEGMENTS}
        assert segments == {
            name: (getattr(wanted, name).selector, hex(getattr(wanted, name).base)) for name in SEGMENTS
        }, "selector and base of each segment"

    @needs(memory_slots=2, modes=(REAL,), address_bits=32)
    def test_a_new_vcpu_begins_at_the_reset_vector(self, bench: MakeBench) -> None:
        """Where nothing is put, the first instruction is the one at 0xFFFFFFF0."""
        made = bench(ram=(RAM, LAST_PAGE))
        made.memory.write(FIRST_INSTRUCTION, made.guests.OUT_42.code[REAL])
        assert made.run() == Halted()
        assert made.ports.values == [42]

    @needs(Capability.IRQCHIP, Capability.KICK, states=(MpState,), vcpus=2)
    def test_an_application_processor_waits_for_init_and_sipi(self, bench: MakeBench) -> None:
        """With interrupt controllers in the hypervisor, `run` of any vCPU but number 0 waits, and a kick ends it."""
        made = bench(vcpus=0)
        made = bench(vcpus=2, states=before(made.facts))
        activities = [vcpu.get(MpState).activity for vcpu in made.vcpus]
        assert activities == [Activity.RUNNABLE, Activity.UNINITIALIZED]
        underway = made.start(1)
        assert not underway.is_over(A_MOMENT_SECONDS), "an application processor ran before its INIT and SIPI"
        made.vcpus[1].kick()
        assert underway.result() == Kicked()

    @needs(Capability.IRQCHIP, states=(Lapic,), vcpus=2)
    def test_the_hardware_id_is_that_of_the_local_apic(self, bench: MakeBench) -> None:
        """`create_vcpu(0, hardware_id=1)`: the guest's APIC has the id 1."""
        made = bench(vcpus=0)
        made = bench(vcpus=0, states=before(made.facts))
        made.vcpus.extend(made.vm.create_vcpu(index, hardware_id=1 - index) for index in range(2))
        assert [vcpu.get(Lapic).id >> ID_BIT for vcpu in made.vcpus] == [1, 0]


def _after_reset(kind: type[Regs | Sregs]) -> Regs | Sregs:
    return next(each for each in reset_states() if isinstance(each, kind))
