"""x87 and SSE: the guest has the registers that were put by `Fpu`, and `Fpu` has the guest's.

Some facts about interpreters. A hypervisor that interprets its guests may know moves of XMM registers and not the
instructions of the x87; so what needs those asks for Capability.FULL_SYSTEM.
"""

from __future__ import annotations

import attrs

from anyvisor.exits import Halted
from anyvisor.facts import Capability
from anyvisor.testing.bench import DATA, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.entry import give_features
from anyvisor.testing.x86_64.guests import by_width, in_every_mode
from anyvisor.x86_64.state import Fpu, Sregs

CONTROL, MXCSR, LOW, HIGH, X87 = 0, 4, 16, 32, 48
"""Where the guests have FCW, MXCSR, XMM0, XMM7 and ST0, from DATA on."""
FCW, MXCSR_VALUE = 0x027F, 0x3F80
"""53 bits, to the nearest (FLDPI obeys, too); SSE that rounds down."""
XMM0, XMM7 = bytes(range(0x10, 0x20)), bytes(range(0x80, 0x90))
PI = bytes.fromhex("35c26821a2da0fc90040")
"""What FLDPI loads: 64 bits of pi, then exponent and sign."""

# fmt: off
STORE_SSE = by_width(
    bytes([0xD9, 0x3D,              # fnstcw [xdi + CONTROL]
           0x0F, 0x11, 0x45, 0x10,  # movups [xdi + LOW], xmm0
           0x0F, 0x11, 0x7D, 0x20,  # movups [xdi + HIGH], xmm7
           0xF4]),                  # hlt
    bytes([0xD9, 0x3F,              # fnstcw [xdi + CONTROL]
           0x0F, 0x11, 0x47, 0x10,  # movups [xdi + LOW], xmm0
           0x0F, 0x11, 0x7F, 0x20,  # movups [xdi + HIGH], xmm7
           0xF4]))                  # hlt

LOAD_SSE = by_width(
    bytes([0x0F, 0x10, 0x45, 0x10,  # movups xmm0, [xdi + LOW]
           0x0F, 0x10, 0x7D, 0x20,  # movups xmm7, [xdi + HIGH]
           0xF4]),                  # hlt
    bytes([0x0F, 0x10, 0x47, 0x10,  # movups xmm0, [xdi + LOW]
           0x0F, 0x10, 0x7F, 0x20,  # movups xmm7, [xdi + HIGH]
           0xF4]))                  # hlt

STORE_X87 = by_width(
    bytes([0x0F, 0xAE, 0x5D, 0x04,  # stmxcsr [xdi + MXCSR]
           0xDB, 0x7D, 0x30,        # fstp tbyte ptr [xdi + X87]
           0xF4]),                  # hlt
    bytes([0x0F, 0xAE, 0x5F, 0x04,  # stmxcsr [xdi + MXCSR]
           0xDB, 0x7F, 0x30,        # fstp tbyte ptr [xdi + X87]
           0xF4]))                  # hlt

LOAD_X87 = by_width(
    bytes([0xDB, 0xE3,              # fninit
           0xD9, 0x2D,              # fldcw [xdi + CONTROL]
           0x0F, 0xAE, 0x55, 0x04,  # ldmxcsr [xdi + MXCSR]
           0xD9, 0xEB,              # fldpi
           0xF4]),                  # hlt
    bytes([0xDB, 0xE3,              # fninit
           0xD9, 0x2F,              # fldcw [xdi + CONTROL]
           0x0F, 0xAE, 0x57, 0x04,  # ldmxcsr [xdi + MXCSR]
           0xD9, 0xEB,              # fldpi
           0xF4]))                  # hlt
# fmt: on


def enter_with_sse(made: Bench, guest: TinyGuest, mode: str) -> None:
    """Enter a guest that may use SSE, with RDI at DATA."""
    give_features(made)
    made.enter(guest, mode, rdi=DATA)
    sregs = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(sregs, cr4=sregs.cr4.replace(osfxsr=True)))


def load_sse(made: Bench, mode: str) -> None:
    """Have the guest load XMM0 and XMM7."""
    enter_with_sse(made, LOAD_SSE, mode)
    made.memory.write(DATA + LOW, XMM0 + XMM7)
    assert made.run() == Halted()


def load_x87(made: Bench, mode: str) -> None:
    """Have the guest load FCW, MXCSR and ST0."""
    enter_with_sse(made, LOAD_X87, mode)
    made.memory.write(DATA + CONTROL, FCW.to_bytes(2, "little"))
    made.memory.write(DATA + MXCSR, MXCSR_VALUE.to_bytes(4, "little"))
    assert made.run() == Halted()


def check_sse_stored(made: Bench) -> None:
    """FCW and the XMM registers as the guest has stored them."""
    assert made.run() == Halted()
    assert made.memory.read(DATA + CONTROL, 2) == FCW.to_bytes(2, "little"), "FCW"
    assert made.memory.read(DATA + LOW, 16) == XMM0, "XMM0"
    assert made.memory.read(DATA + HIGH, 16) == XMM7, "XMM7"


def some_fpu() -> Fpu:
    """FCW, XMM0, XMM7 and ST0 of this file."""
    xmm = [bytes(16)] * 16
    xmm[0], xmm[7] = XMM0, XMM7
    return Fpu(fcw=FCW, ftw=1, st=(PI.ljust(16, b"\0"), *(bytes(16),) * 7), xmm=tuple(xmm))


@needs(architecture="x86_64", states=(Fpu,))
class FpuContract(Contract):
    """`Fpu` from both sides."""

    @in_every_mode
    def test_the_guest_has_the_xmm_registers_and_fcw_that_were_put(self, bench: MakeBench, mode: str) -> None:
        """FCW and the XMM registers of `put(Fpu)` are the guest's at its first instruction."""
        made = bench()
        enter_with_sse(made, STORE_SSE, mode)
        made.vcpu.put(some_fpu())
        check_sse_stored(made)

    @in_every_mode
    def test_get_gives_the_xmm_registers_of_the_guest(self, bench: MakeBench, mode: str) -> None:
        """The XMM registers as the guest has loaded them."""
        made = bench()
        load_sse(made, mode)
        fpu = made.vcpu.get(Fpu)
        assert (fpu.xmm[0], fpu.xmm[7]) == (XMM0, XMM7)

    @in_every_mode
    @needs(Capability.FULL_SYSTEM)
    def test_the_guest_has_the_x87_stack_that_was_put(self, bench: MakeBench, mode: str) -> None:
        """ST0 of `put(Fpu)` is what the guest pops; MXCSR, which is not part of it, stays that of a reset."""
        made = bench()
        enter_with_sse(made, STORE_X87, mode)
        made.vcpu.put(some_fpu())
        assert made.run() == Halted()
        assert made.memory.read(DATA + X87, 10) == PI
        assert made.memory.read(DATA + MXCSR, 4) == b"\x80\x1f\0\0", "MXCSR after a reset is 0x1F80"

    @in_every_mode
    @needs(Capability.FULL_SYSTEM)
    def test_get_gives_the_x87_stack_of_the_guest(self, bench: MakeBench, mode: str) -> None:
        """FCW, the stack's top in FSW, the tag and ST0 as the guest has loaded them."""
        made = bench()
        load_x87(made, mode)
        fpu = made.vcpu.get(Fpu)
        assert hex(fpu.fcw) == hex(FCW)
        assert (fpu.fsw >> 11 & 7, fpu.ftw) == (7, 0x80), "the top of the stack, and the register in use"
        assert fpu.st[0][:10] == PI, "ST0 is the top of the stack"
