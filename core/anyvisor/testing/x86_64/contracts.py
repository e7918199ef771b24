"""The contracts of this processor, in one class for `HypervisorTests` to inherit."""

from __future__ import annotations

from anyvisor.testing.x86_64.addresses import HighAddressesContract
from anyvisor.testing.x86_64.control import ControlRegistersContract
from anyvisor.testing.x86_64.cpuid import CpuidContract
from anyvisor.testing.x86_64.flight import FlightContract
from anyvisor.testing.x86_64.fpu import FpuContract
from anyvisor.testing.x86_64.mmio import MmioContract
from anyvisor.testing.x86_64.mmio_instructions import MmioInstructionsContract
from anyvisor.testing.x86_64.modes import ModesContract
from anyvisor.testing.x86_64.msrs import MsrsContract
from anyvisor.testing.x86_64.order import RestoreOrderContract
from anyvisor.testing.x86_64.ports import PortsContract
from anyvisor.testing.x86_64.registers import RegistersContract
from anyvisor.testing.x86_64.reset import ResetContract
from anyvisor.testing.x86_64.segments import SegmentsContract
from anyvisor.testing.x86_64.strings import StringIoContract
from anyvisor.testing.x86_64.x2apic import WideIdsContract
from anyvisor.testing.x86_64.xsave import XcrsContract, XsaveContract


class X86Contracts(
    ResetContract,
    PortsContract,
    StringIoContract,
    MmioContract,
    MmioInstructionsContract,
    HighAddressesContract,
    FlightContract,
    ModesContract,
    SegmentsContract,
    RegistersContract,
    ControlRegistersContract,
    FpuContract,
    XsaveContract,
    XcrsContract,
    CpuidContract,
    MsrsContract,
    RestoreOrderContract,
    WideIdsContract,
):
    """Instructions, registers and modes of x86_64; another architecture skips them, by name."""
