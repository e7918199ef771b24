"""KVM's binary interface, the part that all architectures share: structures, exit reasons, capabilities.

Names are those of linux/kvm.h, so that a reader can look them up; the tests compare every size, offset and number here
with what a C compiler says.
"""

# ruff: noqa: N801, D101 - the names are the kernel's, and so is what they mean

from __future__ import annotations

import ctypes
import enum
import errno
import functools
from collections.abc import Iterable
from ctypes import c_int32, c_uint8, c_uint16, c_uint32, c_uint64
from typing import Any

from anyvisor.errors import HypervisorError

API_VERSION = 12
KVM_MEM_READONLY = 1 << 1
KVM_IRQFD_FLAG_DEASSIGN = 1 << 0
KVM_IRQFD_FLAG_RESAMPLE = 1 << 1
KVM_IOEVENTFD_FLAG_DATAMATCH = 1 << 0
KVM_IOEVENTFD_FLAG_PIO = 1 << 1
KVM_IOEVENTFD_FLAG_DEASSIGN = 1 << 2
KVM_EXIT_IO_OUT = 1


class Struct(ctypes.Structure):
    """A ctypes structure that refuses numbers which do not fit; ctypes itself would cut them off."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, int) and getattr(self, name) != value:
            raise HypervisorError(type(self).__name__, errno.EINVAL, f"{name}={value:#x} does not fit in its field")


def alike(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Neighbouring fields of one type, for `_fields_`."""
    return [(name, kind) for name in names.split()]


def counted(header: Any, item: Any, count: int) -> Any:
    """A structure of KVM's with an array at its end: `header`, then `items`, `count` of them."""
    return _counted(header, item, count)()


@functools.cache
def _counted(header: Any, item: Any, count: int) -> Any:
    """ctypes never forgets a type, so there is one for each length."""
    return type(header.__name__, (header,), {"_fields_": [("items", item * count)]})


def assign(array: Any, values: Iterable[int], what: str) -> None:
    """Fill a ctypes array with exactly as many numbers as it has; HypervisorError when one does not fit."""
    wanted = list(values)
    if len(wanted) != len(array):
        raise HypervisorError(what, errno.EINVAL, f"{len(wanted)} values where there must be {len(array)}")
    array[:] = wanted
    if list(array) != wanted:
        raise HypervisorError(
            what, errno.EINVAL, f"a value of {[hex(each) for each in wanted]} does not fit in its field"
        )


def check_fits(number: int, bits: int, what: str, detail: str) -> None:
    """HypervisorError unless `number` is one of so many bits, without a sign; ctypes would cut it off."""
    if number >> bits:  # a negative one stays negative, however far it is shifted
        words = f"{number:#x} does not fit in {bits} bits"
        raise HypervisorError(what, errno.EINVAL, f"{detail}: {words}" if detail else words)


class kvm_userspace_memory_region(Struct):
    _fields_ = [
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    ]


class kvm_irq_level(Struct):
    _fields_ = [("irq", c_uint32), ("level", c_uint32)]


class kvm_interrupt(Struct):
    _fields_ = [("irq", c_uint32)]


class kvm_irqfd(Struct):
    _fields_ = [
        ("fd", c_uint32),
        ("gsi", c_uint32),
        ("flags", c_uint32),
        ("resamplefd", c_uint32),
        ("pad", c_uint8 * 16),
    ]


class kvm_ioeventfd(Struct):
    _fields_ = [
        ("datamatch", c_uint64),
        ("addr", c_uint64),
        ("len", c_uint32),
        ("fd", c_int32),
        ("flags", c_uint32),
        ("pad", c_uint8 * 36),
    ]


class kvm_coalesced_mmio_zone(Struct):
    _fields_ = [("addr", c_uint64), ("size", c_uint32), ("pio", c_uint32)]


class kvm_coalesced_mmio_ring(Struct):
    _fields_ = [("first", c_uint32), ("last", c_uint32)]


class kvm_coalesced_mmio(Struct):
    _fields_ = [("phys_addr", c_uint64), ("len", c_uint32), ("pio", c_uint32), ("data", c_uint8 * 8)]


class kvm_signal_mask(Struct):
    _fields_ = [("len", c_uint32)]


class kvm_enable_cap(Struct):
    _fields_ = [("cap", c_uint32), ("flags", c_uint32), ("args", c_uint64 * 4), ("pad", c_uint8 * 64)]


class kvm_mp_state(Struct):
    _fields_ = [("mp_state", c_uint32)]


class kvm_run_io(Struct):
    _fields_ = [
        ("direction", c_uint8),
        ("size", c_uint8),
        ("port", c_uint16),
        ("count", c_uint32),
        ("data_offset", c_uint64),
    ]


class kvm_run_mmio(Struct):
    _fields_ = [("phys_addr", c_uint64), ("data", c_uint8 * 8), ("len", c_uint32), ("is_write", c_uint8)]


class kvm_run_fail_entry(Struct):
    _fields_ = [("hardware_entry_failure_reason", c_uint64), ("cpu", c_uint32)]


class kvm_run_internal(Struct):
    _fields_ = [("suberror", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16)]


class kvm_run_system_event(Struct):
    _fields_ = [("type", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16)]


class kvm_run_memory_fault(Struct):
    _fields_ = [("flags", c_uint64), ("gpa", c_uint64), ("size", c_uint64)]


class kvm_run_exits(ctypes.Union):
    """What is particular to one exit reason: the union in the middle of kvm_run."""

    _fields_ = [
        ("io", kvm_run_io),
        ("mmio", kvm_run_mmio),
        ("fail_entry", kvm_run_fail_entry),
        ("internal", kvm_run_internal),
        ("system_event", kvm_run_system_event),
        ("memory_fault", kvm_run_memory_fault),
        ("words", c_uint64 * 32),
    ]


class kvm_run(Struct):
    _fields_ = [
        ("request_interrupt_window", c_uint8),
        ("immediate_exit", c_uint8),
        ("padding1", c_uint8 * 6),
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8),
        ("if_flag", c_uint8),
        ("flags", c_uint16),
        ("cr8", c_uint64),
        ("apic_base", c_uint64),
        ("exits", kvm_run_exits),
        ("kvm_valid_regs", c_uint64),
        ("kvm_dirty_regs", c_uint64),
        ("s", c_uint8 * 2048),
    ]


class ExitReason(enum.IntEnum):
    """Why KVM_RUN came back: `KVM_EXIT_...`."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    HYPERCALL = 3
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    SET_TPR = 11
    TPR_ACCESS = 12
    NMI = 16
    INTERNAL_ERROR = 17
    WATCHDOG = 21
    SYSTEM_EVENT = 24
    IOAPIC_EOI = 26
    HYPERV = 27
    ARM_NISV = 28
    X86_RDMSR = 29
    X86_WRMSR = 30
    DIRTY_RING_FULL = 31
    AP_RESET_HOLD = 32
    X86_BUS_LOCK = 33
    XEN = 34
    RISCV_SBI = 35
    RISCV_CSR = 36
    NOTIFY = 37
    MEMORY_FAULT = 39


class Cap(enum.IntEnum):
    """What KVM_CHECK_EXTENSION can be asked for: `KVM_CAP_...`."""

    IRQCHIP = 0
    USER_MEMORY = 3
    SET_TSS_ADDR = 4
    EXT_CPUID = 7
    NR_VCPUS = 9
    NR_MEMSLOTS = 10
    MP_STATE = 14
    COALESCED_MMIO = 15
    IRQFD = 32
    PIT2 = 33
    PIT_STATE2 = 35
    IOEVENTFD = 36
    SET_IDENTITY_MAP_ADDR = 37
    ADJUST_CLOCK = 39
    VCPU_EVENTS = 41
    DEBUGREGS = 50
    XSAVE = 55
    XCRS = 56
    GET_TSC_KHZ = 61
    MAX_VCPUS = 66
    TSC_DEADLINE_TIMER = 72
    SYNC_REGS = 74
    READONLY_MEM = 81
    IRQFD_RESAMPLE = 82
    ENABLE_CAP_VM = 98
    CHECK_EXTENSION_VM = 105
    X86_SMM = 117
    MAX_VCPU_ID = 128
    X2APIC_API = 129
    IMMEDIATE_EXIT = 136
    COALESCED_PIO = 162
    EXCEPTION_PAYLOAD = 164
    XSAVE2 = 208
    X86_TRIPLE_FAULT_EVENT = 218
