"""XSAVE areas and XCR0: where the registers stand in the standard format, and which components are switched on."""

from __future__ import annotations

import attrs

from anyvisor.exits import Halted
from anyvisor.facts import Capability
from anyvisor.hypervisor import Hypervisor
from anyvisor.testing.bench import DATA, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.requirements import lacking, needs
from anyvisor.testing.x86_64.cpuid import offered
from anyvisor.testing.x86_64.entry import give_features
from anyvisor.testing.x86_64.fpu import (
    FCW,
    MXCSR,
    MXCSR_VALUE,
    PI,
    STORE_SSE,
    STORE_X87,
    X87,
    XMM0,
    XMM7,
    check_sse_stored,
    enter_with_sse,
    load_sse,
    load_x87,
)
from anyvisor.testing.x86_64.guests import by_width, in_every_mode
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.state import Sregs, Xcrs, Xsave

FCW_AT, FTW_AT, MXCSR_AT, ST0_AT, XMM0_AT, XMM7_AT, XSTATE_BV_AT = 0, 4, 24, 32, 160, 160 + 7 * 16, 512
"""Offsets in the area. SDM Vol. 1, 13.4."""
X87_AND_SSE = 3

# fmt: off
STORE_XCR0 = by_width(
    bytes([0x66, 0x31, 0xC9,  # xor ecx, ecx
           0x0F, 0x01, 0xD0,  # xgetbv
           0x66, 0xAB,        # stosd
           0xF4]),            # hlt
    bytes([0x31, 0xC9,        # xor ecx, ecx
           0x0F, 0x01, 0xD0,  # xgetbv
           0xAB,              # stosd
           0xF4]))            # hlt

LOAD_XCR0 = by_width(
    bytes([0x66, 0x31, 0xC9,  # xor ecx, ecx
           0x66, 0x31, 0xD2,  # xor edx, edx
           0x0F, 0x01, 0xD1,  # xsetbv
           0xF4]),            # hlt
    bytes([0x31, 0xC9,        # xor ecx, ecx
           0x31, 0xD2,        # xor edx, edx
           0x0F, 0x01, 0xD1,  # xsetbv
           0xF4]))            # hlt
# fmt: on


def some_area(area: bytes) -> Xsave:
    """An area with the registers of the FPU's contract in it."""
    changed = bytearray(area)
    parts = {
        FCW_AT: FCW.to_bytes(2, "little"), FTW_AT: b"\x01", MXCSR_AT: MXCSR_VALUE.to_bytes(4, "little"), ST0_AT: PI,
        XMM0_AT: XMM0, XMM7_AT: XMM7, XSTATE_BV_AT: bytes([X87_AND_SSE]),
    }  # fmt: skip
    for start, data in parts.items():
        changed[start : start + len(data)] = data
    return Xsave(bytes(changed))


@needs(architecture="x86_64", states=(Xsave,))
class XsaveContract(Contract):
    """`Xsave` from both sides."""

    @in_every_mode
    def test_the_guest_has_the_sse_part_of_the_area_that_was_put(self, bench: MakeBench, mode: str) -> None:
        """FCW and the XMM registers of an XSAVE area are the guest's."""
        made = bench()
        enter_with_sse(made, STORE_SSE, mode)
        made.vcpu.put(some_area(made.vcpu.get(Xsave).area))
        check_sse_stored(made)

    @in_every_mode
    @needs(Capability.FULL_SYSTEM)
    def test_the_guest_has_the_x87_part_of_the_area_that_was_put(self, bench: MakeBench, mode: str) -> None:
        """So are MXCSR and the x87's stack."""
        made = bench()
        enter_with_sse(made, STORE_X87, mode)
        made.vcpu.put(some_area(made.vcpu.get(Xsave).area))
        assert made.run() == Halted()
        assert made.memory.read(DATA + MXCSR, 4) == MXCSR_VALUE.to_bytes(4, "little"), "MXCSR"
        assert made.memory.read(DATA + X87, 10) == PI, "ST0"

    @in_every_mode
    def test_the_area_has_the_xmm_registers_of_the_guest(self, bench: MakeBench, mode: str) -> None:
        """They stand where the standard format has them, and XSTATE_BV says that they are in use."""
        made = bench()
        load_sse(made, mode)
        xsave = made.vcpu.get(Xsave)
        assert xsave.area[XMM0_AT:][:16] == XMM0
        assert xsave.area[XMM7_AT:][:16] == XMM7
        assert xsave.xstate_bv & 2, "bit 1 of XSTATE_BV: SSE is in use"

    @in_every_mode
    @needs(Capability.FULL_SYSTEM)
    def test_the_area_has_the_x87_stack_and_mxcsr_of_the_guest(self, bench: MakeBench, mode: str) -> None:
        """FCW, MXCSR and ST0 stand where the standard format has them."""
        made = bench()
        load_x87(made, mode)
        xsave = made.vcpu.get(Xsave)
        assert (hex(xsave.fcw), hex(xsave.mxcsr)) == (hex(FCW), hex(MXCSR_VALUE))
        assert xsave.area[ST0_AT:][:10] == PI
        assert xsave.xstate_bv & 1, "bit 0 of XSTATE_BV: the x87 is in use"


@needs(architecture="x86_64", states=(Xcrs, Cpuid))
class XcrsContract(Contract):
    """`Xcrs` from both sides."""

    @in_every_mode
    def test_the_guest_reads_the_xcr0_that_was_put(self, bench: MakeBench, hypervisor: Hypervisor, mode: str) -> None:
        """XGETBV gives what `put(Xcrs)` has set."""
        made = bench()
        enter_with_xsave(made, hypervisor, STORE_XCR0, mode)
        made.vcpu.put(Xcrs(xcr0=X87_AND_SSE))
        assert made.run() == Halted()
        assert made.memory.read(DATA, 4) == bytes([X87_AND_SSE, 0, 0, 0])

    @in_every_mode
    def test_get_gives_the_xcr0_that_the_guest_has_set(
        self, bench: MakeBench, hypervisor: Hypervisor, mode: str
    ) -> None:
        """XSETBV in the guest is what `get(Xcrs)` has; before, XCR0 is 1."""
        made = bench()
        enter_with_xsave(made, hypervisor, LOAD_XCR0, mode)
        assert made.vcpu.get(Xcrs) == Xcrs(xcr0=1)
        assert made.run() == Halted()
        assert made.vcpu.get(Xcrs) == Xcrs(xcr0=X87_AND_SSE)


def enter_with_xsave(made: Bench, hypervisor: Hypervisor, guest: TinyGuest, mode: str) -> None:
    """Enter a guest that may use XGETBV and XSETBV; skip the test where the processor has no XSAVE."""
    if not offered(hypervisor.facts).has(Feature.XSAVE):
        lacking(hypervisor.facts, "the CPUID feature XSAVE")
    give_features(made)
    made.enter(guest, mode, rdi=DATA, rax=X87_AND_SSE)
    sregs = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(sregs, cr4=sregs.cr4.replace(osxsave=True)))
