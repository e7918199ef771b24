"""The x87, SSE and wider registers: Xsave, and Fpu as the first part of it.

Some facts about KVM_SET_FPU, which is not used here. It writes the FXSAVE part of a vCPU's XSAVE area and leaves the
area's header alone. As long as the header calls x87 and SSE unused (a fresh vCPU's does), the processor loads their
initial values at the next VM entry and what was set is lost, although KVM_GET_FPU still reports it. Nor does it carry
MXCSR. So Fpu goes through KVM_SET_XSAVE here, with the header set; a guest sees what was put, and MXCSR stays as it
was.

The FXSAVE part is laid out as in SDM Vol. 1, table 10-2.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from anyvisor.errors import HypervisorError
from anyvisor.x86_64.state import Fpu, Xsave
from anyvisor_kvm.abi import counted
from anyvisor_kvm.x86_64 import abi
from anyvisor_kvm.x86_64.fds import X86VcpuFd

CONTROL = struct.Struct("<HHBxHQQ")
"""FCW, FSW, abridged FTW, FOP, FIP, FDP."""
ST, XMM, REGISTER_BYTES = 32, 160, 16
ST_COUNT, XMM_COUNT = 8, 16
XSTATE_BV = 512
X87, SSE = 1 << 0, 1 << 1
"""Bits of XSTATE_BV, in the header: which components are in use."""


def get_xsave(fd: X86VcpuFd) -> Xsave:  # noqa: D103
    area = _area(fd)
    (fd.get_xsave2 if _is_big(fd) else fd.get_xsave)(area)
    return Xsave(bytes(area))


def put_xsave(fd: X86VcpuFd, state: Xsave) -> None:
    """An area shorter than this host's goes in front of zeros; a longer one is refused: it may hold more."""
    if len(state.area) > fd.xsave_bytes:
        detail = f"{fd.subject}: an area of {len(state.area)} bytes; this host has {fd.xsave_bytes}"
        raise HypervisorError("KVM_SET_XSAVE", errno.EINVAL, detail)
    area = _area(fd)
    ctypes.memmove(ctypes.byref(area), state.area, len(state.area))
    fd.set_xsave(area)


def get_fpu(fd: X86VcpuFd) -> Fpu:  # noqa: D103
    area = get_xsave(fd).area
    fcw, fsw, ftw, opcode, ip, dp = CONTROL.unpack_from(area)
    st, xmm = _registers(area, ST, ST_COUNT), _registers(area, XMM, XMM_COUNT)
    return Fpu(fcw, fsw, ftw, opcode, ip, dp, st, xmm)


def put_fpu(fd: X86VcpuFd, state: Fpu) -> None:
    """Set the x87 and SSE registers; MXCSR and all wider registers stay as they are."""
    area = bytearray(get_xsave(fd).area)
    control = (state.fcw, state.fsw, state.ftw, state.last_opcode, state.last_ip, state.last_dp)
    try:
        CONTROL.pack_into(area, 0, *control)
    except struct.error as error:
        raise HypervisorError("KVM_SET_XSAVE", errno.EINVAL, f"{fd.subject}: FPU: {error}") from error
    _fill(area, ST, ST_COUNT, state.st)
    _fill(area, XMM, XMM_COUNT, state.xmm)
    area[XSTATE_BV] |= X87 | SSE
    put_xsave(fd, Xsave(bytes(area)))


def _registers(area: bytes, start: int, count: int) -> tuple[bytes, ...]:
    return tuple(area[at : at + REGISTER_BYTES] for at in range(start, start + count * REGISTER_BYTES, REGISTER_BYTES))


def _fill(area: bytearray, start: int, count: int, registers: tuple[bytes, ...]) -> None:
    if [len(each) for each in registers] != [REGISTER_BYTES] * count:
        found = [len(each) for each in registers]
        detail = f"FPU: there are {count} registers of {REGISTER_BYTES} bytes, not {found}"
        raise HypervisorError("KVM_SET_XSAVE", errno.EINVAL, detail)
    area[start : start + count * REGISTER_BYTES] = b"".join(registers)


def _is_big(fd: X86VcpuFd) -> bool:
    return fd.xsave_bytes > ctypes.sizeof(abi.kvm_xsave)


def _area(fd: X86VcpuFd) -> abi.kvm_xsave:
    area: abi.kvm_xsave = counted(abi.kvm_xsave, ctypes.c_uint8, fd.xsave_bytes - ctypes.sizeof(abi.kvm_xsave))
    return area
