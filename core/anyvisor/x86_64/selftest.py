"""The smallest guest that shows whether a hypervisor runs anything: one OUT in real mode, and a HLT.

Some facts about it. It needs no kernel, no tables and no interrupt controller: without one in the
hypervisor, HLT comes back to us (with one, the vCPU would wait for an interrupt instead).
"""

from __future__ import annotations

from anyvisor.memory import PAGE_BYTES, Region
from anyvisor.plan import Blob, BootPlan, VcpuPlan
from anyvisor.states import Change
from anyvisor.x86_64.control import Rflags
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs

PORT = Region(0xE9, 1, "self-test port")
VALUE = 0x2A
_CODE_ADDRESS = PAGE_BYTES
# fmt: off
_CODE = bytes([0xB0, VALUE,       # mov al, VALUE
               0xE6, PORT.start,  # out PORT, al
               0xF4])             # hlt
# fmt: on


def plan() -> BootPlan:
    """A machine of two pages of RAM and one vCPU that writes VALUE to PORT and halts."""
    code = SegmentRegister(limit=0xFFFF, type=0xB, s=True, present=True)
    return BootPlan(
        architecture="x86_64",
        ram=(Region(0, 2 * PAGE_BYTES, "RAM"),),
        blobs=(Blob("self-test code", _CODE_ADDRESS, _CODE),),
        vcpus=(VcpuPlan(0, (Regs(rip=_CODE_ADDRESS, rflags=Rflags(fixed=True)), Change(Sregs, cs=code))),),
    )
