"""Snapshots of an x86_64 vCPU: a guest that has come halfway goes on, on a fresh vCPU, as if nothing had happened.

What counts is what the guest itself finds and stores, not what `get` says: the memory at its end is compared with that
of a run that nobody disturbed.
"""

from __future__ import annotations

import struct
from typing import Any

import attrs
import pytest

from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.states import VcpuState
from anyvisor.testing.bench import CODE, DATA, RAM, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.kinds import vcpu_kinds
from anyvisor.testing.requirements import lacking, needs
from anyvisor.testing.x86_64 import restoring_guests as guests
from anyvisor.testing.x86_64.guests import ECHO, SPIN
from anyvisor.testing.x86_64.state_examples import before, prepare
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.lapic import Lapic, LocalVector
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import DebugRegs, Fpu, Regs, Sregs, VcpuEvents, Xsave

ODD_FLAGS = 0xCD7
"""Carry, parity, adjust, zero, sign, direction, overflow; bit 1 is fixed."""
NAMES = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{number}" for number in range(8, 16)))
ODD_REGISTERS = {name: 0x1122_3344_5566_7788 + number * 0x0101_0101 for number, name in enumerate(NAMES)}
FCW, RESET_MXCSR, ODD_MXCSR = 0x27F, 0x1F80, 0x7FA0
"""An x87 of 53-bit precision; SSE that rounds toward zero and has seen an inexact result."""
DEADLINE_MODE, FAR = 2, 0x0123_4567_89AB_CDEF
HANDLER, VECTOR = CODE + 0x400, 6
MSRS = (Msr.KERNEL_GS_BASE, Msr.SYSENTER_CS, Msr.SYSENTER_ESP, Msr.LSTAR, Msr.STAR, Msr.FMASK)


@needs(Capability.KICK, architecture="x86_64", modes=(LONG,))
class RestoringContract(Contract):
    """Get all states in the order of the facts, put them in that order, and go on."""

    @needs(states=(Regs,))
    def test_the_general_registers_and_flags_survive(self, bench: MakeBench) -> None:
        """Registers, RSP, RIP and odd flags are in a fresh vCPU what they were in the old one."""
        _check(bench, guests.GENERAL, b"", rflags=ODD_FLAGS, **ODD_REGISTERS)

    @needs(states=(Sregs,))
    def test_the_control_registers_and_tables_survive(self, bench: MakeBench) -> None:
        """CR0, CR2, CR3, CR4, GDTR, IDTR, TR and SS are what they were."""
        tables = struct.pack("<HQ6xHQ", 0x3F, 0x1234_5678, 0x7FF, 0x2345_6789)
        _check(bench, guests.CONTROL, tables, rax=0x5A5A_0000)

    def test_the_x87_and_sse_registers_survive(self, bench: MakeBench) -> None:
        """The x87's stack and control word, and XMM registers, are what they were; by Fpu or by Xsave."""
        if not {Fpu, Xsave} & set(vcpu_kinds(bench(vcpus=0).facts)):
            lacking(bench(vcpus=0).facts, "the state x86_64.Fpu or x86_64.Xsave")
        _check(bench, guests.FPU, _fxsave_area(RESET_MXCSR))

    @needs(states=(Xsave,))
    def test_the_sse_control_register_survives(self, bench: MakeBench) -> None:
        """MXCSR, which Fpu does not hold and Xsave does, is what it was."""
        _check(bench, guests.FPU, _fxsave_area(ODD_MXCSR))

    @needs(states=(DebugRegs,))
    def test_the_debug_registers_survive(self, bench: MakeBench) -> None:
        """DR0 and DR3 are what they were."""
        _check(bench, guests.DEBUG, rax=0x1234_5678, rbx=0x7FFF_8765_4321)

    @pytest.mark.parametrize("msr", MSRS, ids=lambda msr: msr.name)
    @needs(states=(Msrs,))
    def test_an_msr_survives(self, bench: MakeBench, msr: Msr) -> None:
        """What the guest wrote to an MSR is there on the fresh vCPU."""
        _check(bench, guests.MSR, rax=0x1234_5678, rdx=0, rcx=int(msr))

    @needs(states=(Regs, VcpuEvents), modes=(REAL,))
    def test_an_exception_on_its_way_survives(self, bench: MakeBench) -> None:
        """An exception that was being delivered is delivered on the fresh vCPU: no later put may drop it."""
        old = bench()
        old.enter(SPIN, REAL)
        old.vcpu.kick()
        assert old.run() == Kicked()
        states = _all_states(old)
        states[VcpuEvents] = attrs.evolve(old.vcpu.get(VcpuEvents), exception_injected=True, exception_vector=VECTOR)
        new = bench()
        new.memory.write(0, old.memory.read(0, RAM.size_bytes))
        new.memory.write(4 * VECTOR, struct.pack("<HH", HANDLER, 0))
        new.memory.write(HANDLER, guests.SAY_AND_HALT.code[REAL])
        _put_all(new, states)
        assert new.run() == Halted()
        assert new.others.values == [VECTOR], "the exception on its way must reach its handler"

    def test_an_access_that_failed_is_over(self, bench: MakeBench) -> None:
        """When a device raises, `run` finishes the access: who goes on from the states then does not repeat it."""
        old, new = bench(), bench()

        def fail() -> None:
            raise LookupError("the device is broken")

        old.ports.then = fail
        old.enter(ECHO, LONG)
        with pytest.raises(LookupError):
            old.run()
        new.memory.write(0, old.memory.read(0, RAM.size_bytes))
        _put_all(new, _all_states(old))
        assert new.run() == Halted()
        assert new.ports.reads == [], "the access that failed was made again"
        assert len(old.others.writes) + len(new.others.writes) == 1, "what is behind it is done once, there or here"

    @needs(Capability.TSC_DEADLINE, states=(Cpuid, Sregs, Lapic, Msrs), modes=(PROTECTED,))
    def test_a_tsc_deadline_survives(self, bench: MakeBench) -> None:
        """The TSC deadline holds only in an APIC that is in deadline mode: the APIC comes before the MSRs."""
        chips = before(bench(vcpus=0).facts)
        old, new = bench(states=chips), bench(states=chips)
        _arm(old)
        _put_all(new, _all_states(old))
        new.others.then = new.vcpu.kick
        new.enter(guests.READ_MSR, PROTECTED, rcx=int(Msr.TSC_DEADLINE))
        assert new.run() == Kicked()
        assert (new.ports.values, new.others.values) == ([FAR & 0xFFFFFFFF], [FAR >> 32])


def _fxsave_area(mxcsr: int) -> bytes:
    """What FXRSTOR loads, with all of ST0-ST7 and XMM0-XMM15 in use. SDM Vol. 1, table 10-2."""
    control = struct.pack("<HHBxHQQII", FCW, 0, 0xFF, 0, 0, 0, mxcsr, 0)
    st = b"".join(bytes([number + 1] * 10) + bytes(6) for number in range(8))
    return control + st + bytes(range(1, 1 + 16 * 8)) * 2 + bytes(96)


def _arm(made: Bench) -> None:
    """Set a timer that is years away."""
    prepare(made.vcpu, made.facts)
    cpuid = made.vcpu.get(Cpuid)
    made.vcpu.put(cpuid.with_(Feature.TSC_DEADLINE))
    timer = LocalVector(vector=0x40, masked=True, timer_mode=DEADLINE_MODE)
    made.vcpu.put(attrs.evolve(made.vcpu.get(Lapic), spurious_vector=0x1FF, timer=timer))
    made.vcpu.put(Msrs.of({Msr.TSC_DEADLINE: FAR}))


def _check(bench: MakeBench, guest: TinyGuest, data: bytes = b"", **registers: Any) -> None:
    """Run it undisturbed, and again with a change of vCPUs halfway; the memory at the end must be the same."""
    __tracebackhide__ = True
    undisturbed, old, new = bench(), bench(), bench()
    for made in (undisturbed, old):
        prepare(made.vcpu, made.facts)
        made.memory.write(DATA, data)
        made.enter(guest, LONG, **registers)
    assert undisturbed.run() == Halted()
    old.ports.then = old.vcpu.kick
    assert old.run() == Kicked()
    new.memory.write(0, old.memory.read(0, RAM.size_bytes))
    _put_all(new, _all_states(old))
    assert new.run() == Halted()
    _compare(undisturbed.memory.read(0, RAM.size_bytes), new.memory.read(0, RAM.size_bytes))


def _compare(wanted: bytes, found: bytes) -> None:
    __tracebackhide__ = True
    pieces = [(at, found[at : at + 8], wanted[at : at + 8]) for at in range(0, len(wanted), 8)]
    differing = [f"at {at:#x}: {now.hex(' ')}, not {then.hex(' ')}" for at, now, then in pieces if now != then]
    assert not differing, "what the guest stored after its states were moved"


def _all_states(made: Bench) -> dict[type[VcpuState], VcpuState]:
    return {kind: made.vcpu.get(kind) for kind in made.readable_kinds()}


def _put_all(made: Bench, states: dict[type[VcpuState], VcpuState]) -> None:
    for kind in vcpu_kinds(made.facts):
        if kind in states:
            made.vcpu.put(states[kind])
