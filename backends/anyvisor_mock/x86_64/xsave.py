"""The XSAVE area, and the FPU that is its first part (SDM Vol. 1, 10.5.1 and 13.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.reset import XSAVE_BYTES
from anyvisor.x86_64.state import Fpu, Xcrs, Xsave
from anyvisor_mock.rules import Rule
from anyvisor_mock.x86_64 import rules

CONTROL = struct.Struct("<HHBxHQQ")
"""FCW, FSW, abridged FTW, FOP, FIP, FDP."""
HEADER = struct.Struct("<QQ48s")
"""XSTATE_BV, XCOMP_BV, and what is reserved."""
HEADER_AT, ST_AT, XMM_AT, REGISTER_BYTES = 512, 32, 160, 16
X87, SSE, AVX = 1 << 0, 1 << 1, 1 << 2
MPX, AVX512, AMX = 0b11 << 3, 0b111 << 5, 0b11 << 17
MXCSR_BITS = 0x2FFFF
"""All that a processor with misaligned SSE mode (AMD) has."""


def components(table: Cpuid) -> int:
    """The components that CPUID offers, x87 always among them."""
    entry = table.get(Leaf.XSAVE)
    return X87 if entry is None else X87 | entry.eax | entry.edx << 32


def broken_xcr0(xcrs: Xcrs, table: Cpuid) -> Rule | None:
    """The rule that an XCR0 breaks."""
    xcr0 = xcrs.xcr0
    if not xcr0 & X87:
        return rules.XCR0_X87
    if xcr0 & AVX and not xcr0 & SSE:
        return rules.XCR0_AVX
    if xcr0 & ~components(table):
        return rules.XCR0_COMPONENTS
    if xcr0 & AVX512 and xcr0 & (AVX512 | AVX) != AVX512 | AVX:
        return rules.XCR0_AVX512
    return _broken_pair(xcr0)


def _broken_pair(xcr0: int) -> Rule | None:
    if xcr0 & MPX not in (0, MPX):
        return rules.XCR0_MPX
    return rules.XCR0_AMX if xcr0 & AMX not in (0, AMX) else None


def broken_rules(state: Xsave, size_bytes: int, host: int) -> Iterator[tuple[Rule, str]]:
    """The rules that an area breaks on a host with areas of that size and those components."""
    area = state.area
    if len(area) > size_bytes:
        yield rules.XSAVE_SIZE, f"{len(area)} bytes, the host's has {size_bytes}"
    used, compacted, reserved = HEADER.unpack_from(area.ljust(size_bytes, b"\0"), HEADER_AT)
    if used & ~host:
        yield rules.XSAVE_COMPONENTS, f"XSTATE_BV {used:#x}, the host has {host:#x}"
    if compacted or any(reserved):
        yield rules.XSAVE_HEADER, f"XCOMP_BV {compacted:#x}, the rest {reserved.hex()}"
    if used & (X87 | SSE | AVX) and state.mxcsr & ~MXCSR_BITS:
        yield rules.MXCSR_RESERVED, f"MXCSR {state.mxcsr:#x}"


def fpu_of(state: Xsave) -> Fpu:
    """The first part of an area, as FXSAVE lays it out."""
    st, xmm = _registers(state.area, ST_AT, 8), _registers(state.area, XMM_AT, 16)
    fcw, fsw, ftw, opcode, ip, dp = CONTROL.unpack_from(state.area)
    return Fpu(fcw, fsw, ftw, opcode, ip, dp, st, xmm)


def with_fpu(state: Xsave, fpu: Fpu) -> Xsave:
    """An area with another first part; MXCSR, which Fpu does not carry, and all behind stay."""
    area = bytearray(state.area)
    CONTROL.pack_into(area, 0, fpu.fcw, fpu.fsw, fpu.ftw, fpu.last_opcode, fpu.last_ip, fpu.last_dp)
    area[ST_AT : ST_AT + 8 * REGISTER_BYTES] = b"".join(fpu.st)
    area[XMM_AT : XMM_AT + 16 * REGISTER_BYTES] = b"".join(fpu.xmm)
    area[HEADER_AT] |= X87 | SSE
    return Xsave(bytes(area))


def _registers(area: bytes, start: int, count: int) -> tuple[bytes, ...]:
    return tuple(area[at : at + REGISTER_BYTES] for at in range(start, start + count * REGISTER_BYTES, REGISTER_BYTES))


def area_bytes(table: Cpuid) -> int:
    """How long the host's area is: 4096 bytes, or what all components take (leaf 0xD, ECX)."""
    return max(XSAVE_BYTES, table[Leaf.XSAVE].ecx)
