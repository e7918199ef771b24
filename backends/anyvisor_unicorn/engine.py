"""The engine: one emulated x86 processor, its memory map and its hooks, through Unicorn's C interface.

Some facts about the interface. Unicorn's Python binding costs some microseconds a call, so what happens often goes to
the C library that the binding has loaded. The processor's state is copied out and back whole (`save`, `restore`: a
microsecond each) and read and written there, as a memoryview; `layout` knows where what lies. Hooks are called from
within `start`, on its thread. An exception must not leave one: `Guard` keeps it for who called `start`.

A hook of UC_HOOK_MEM_* over RAM would make every store slow for ever, so there is none; all that is not RAM is MMIO.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterable
from types import CodeType, TracebackType
from typing import Any

from unicorn import unicorn_const as uc
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uclib

from anyvisor.errors import HypervisorError
from anyvisor.x86_64.reset import MXCSR

CPU_MODEL = x86.UC_CPU_X86_EPYC
"""The best of Unicorn's models: SSE4.2, BMI, SMEP, SMAP, FSGSBASE; its CPUID claims nothing that is not there."""
ANYWHERE = (1, 0)
"""An empty range of addresses means all of them."""
LOW_HALF = (0, (1 << 47) - 1)
"""Of the linear addresses: where programs are, and kernels are not."""
CONTEXT_HEADER_BYTES = 40
"""What a saved context has before the processor's state."""
STRUCTURE_BYTES = 0x2000
"""How far the engine's own structure may be searched."""

INTERRUPT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
INVALID = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p)
IN = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p)
OUT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)
SYSCALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
CPUID = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p)
MMIO_READ = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p)
MMIO_WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p)


class MsrAccess(ctypes.Structure):
    """What UC_X86_REG_MSR is read and written through."""

    _fields_ = (("index", ctypes.c_uint32), ("value", ctypes.c_uint64))


class Engine:
    """One emulated processor in 64-bit mode with nothing mapped. `close` may be called twice."""

    def __init__(self, model: int = CPU_MODEL):
        self._handle = ctypes.c_void_p()
        self._context = ctypes.c_void_p()
        self._callbacks: list[Any] = []
        self._code: set[CodeType] = set()
        _check("uc_open", uclib.uc_open(uc.UC_ARCH_X86, uc.UC_MODE_64, ctypes.byref(self._handle)))
        try:
            self._control(uc.UC_CTL_CPU_MODEL, ctypes.c_int(model))
            self._control(uc.UC_CTL_UC_USE_EXITS, ctypes.c_int(1))  # and name none: `until` is ignored
            self.write(x86.UC_X86_REG_MXCSR, MXCSR)  # which is 0 in a new one
            self.context_bytes = uclib.uc_context_size(self._handle)
            _check("uc_context_alloc", uclib.uc_context_alloc(self._handle, ctypes.byref(self._context)))
            self.save()
        except BaseException:
            self.close()
            raise
        state_bytes = self.context_bytes - CONTEXT_HEADER_BYTES
        address = (self._context.value or 0) + CONTEXT_HEADER_BYTES
        self.state = memoryview((ctypes.c_ubyte * state_bytes).from_address(address)).cast("B")
        """The processor's state as of the last `save`; what is written here counts after `restore`."""
        self._value = ctypes.c_uint64()
        self._value_pointer = ctypes.byref(self._value)

    @property
    def address(self) -> int:
        """Where the engine's own structure lies."""
        return self._handle.value or 0

    def _control(self, control: int, argument: Any) -> None:
        code = uc.UC_CTL_IO_WRITE << 30 | 1 << 26 | control
        _check("uc_ctl", uclib.uc_ctl(self._handle, code, argument))

    # -- memory --------------------------------------------------------------------------------------------------------

    def map_ram(self, start: int, size_bytes: int, host_address: int, *, readonly: bool = False) -> None:
        """Let the guest see host memory at `start`; the mapping must outlive the engine."""
        rights = uc.UC_PROT_READ | uc.UC_PROT_EXEC if readonly else uc.UC_PROT_ALL
        _check("uc_mem_map_ptr", uclib.uc_mem_map_ptr(self._handle, start, size_bytes, rights, host_address))

    def map_mmio(self, start: int, size_bytes: int, read: Callable[..., int], write: Callable[..., None]) -> None:
        """Call `read(_, offset, size, _)` and `write(_, offset, size, value, _)` for what the guest does there."""
        pointers = self._keep(MMIO_READ, read), None, self._keep(MMIO_WRITE, write), None
        _check("uc_mmio_map", uclib.uc_mmio_map(self._handle, start, size_bytes, *pointers))

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def hook_interrupts(self, call: Callable[..., None]) -> None:
        """Call `call(_, vector, _)` for every exception and software interrupt but #UD."""
        self._hook(uc.UC_HOOK_INTR, INTERRUPT, call)

    def hook_invalid(self, call: Callable[..., bool]) -> None:
        """Call `call(_, _)` for #UD; it returns whether the processor is to go on."""
        self._hook(uc.UC_HOOK_INSN_INVALID, INVALID, call)

    def hook_in(self, call: Callable[..., int]) -> None:
        """Call `call(_, port, size, _)` for IN; it returns the value."""
        self._hook(uc.UC_HOOK_INSN, IN, call, x86.UC_X86_INS_IN)

    def hook_out(self, call: Callable[..., None]) -> None:
        """Call `call(_, port, size, value, _)` for OUT."""
        self._hook(uc.UC_HOOK_INSN, OUT, call, x86.UC_X86_INS_OUT)

    def hook_syscall(self, call: Callable[..., None], within: tuple[int, int] = ANYWHERE) -> None:
        """Call `call(_, _)` for SYSCALL, which does nothing else but move RIP on by two, after the call.

        `within` is the first and the last address of the instructions that it is called for.
        """
        self._hook(uc.UC_HOOK_INSN, SYSCALL, call, x86.UC_X86_INS_SYSCALL, within=within)

    def hook_cpuid(self, call: Callable[..., int]) -> None:
        """Call `call(_, _)` for CPUID; it returns 1 when it has set the registers."""
        self._hook(uc.UC_HOOK_INSN, CPUID, call, x86.UC_X86_INS_CPUID)

    def hook_rdtsc(self, call: Callable[..., int]) -> None:
        """Call `call(_, _)` for RDTSC and RDTSCP; it returns 1 when it has set EDX:EAX."""
        for instruction in (x86.UC_X86_INS_RDTSC, x86.UC_X86_INS_RDTSCP):
            self._hook(uc.UC_HOOK_INSN, CPUID, call, instruction)

    def _hook(
        self,
        kind: int,
        form: Any,
        call: Callable[..., Any],
        *instruction: int,
        within: tuple[int, int] = ANYWHERE,
    ) -> None:
        hook = ctypes.c_size_t()
        extra = [ctypes.c_int(each) for each in instruction]
        pointer = self._keep(form, call)
        begin, end = (ctypes.c_uint64(each) for each in within)
        code = uclib.uc_hook_add(self._handle, ctypes.byref(hook), kind, pointer, None, begin, end, *extra)
        _check("uc_hook_add", code)

    def _keep(self, form: Any, call: Callable[..., Any]) -> ctypes.c_void_p:
        callback = form(call)
        self._callbacks.append(callback)
        self._code.add(call.__code__)
        return ctypes.cast(callback, ctypes.c_void_p)

    # -- running -------------------------------------------------------------------------------------------------------

    def start(self, rip: int, count: int = 0) -> int:
        """Run from `rip` until HLT, `stop`, or `count` instructions (0: no limit); returns Unicorn's error number."""
        code: int = uclib.uc_emu_start(self._handle, rip, 0, 0, count)
        return code

    def has_raised(self, trace: TracebackType | None) -> bool:
        """Whether an exception with that traceback came out of a hook."""
        return trace is not None and trace.tb_frame.f_code in self._code

    def forget_code(self) -> None:
        """Translate the guest's code anew: the host may have written to it. Nobody may be in `start`."""
        _check("uc_ctl", uclib.uc_ctl(self._handle, uc.UC_CTL_IO_WRITE << 30 | uc.UC_CTL_TB_FLUSH))

    def stop(self) -> None:
        """Make `start` return soon; from any thread."""
        uclib.uc_emu_stop(self._handle)

    # -- state ---------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Copy the processor's state to `state`."""
        uclib.uc_context_save(self._handle, self._context)

    def restore(self) -> None:
        """Copy `state` back to the processor; also from within a hook."""
        uclib.uc_context_restore(self._handle, self._context)

    def read(self, register: int) -> int:
        """A register by Unicorn's number."""
        self._value.value = 0
        uclib.uc_reg_read(self._handle, register, self._value_pointer)
        return self._value.value

    def write(self, register: int, value: int) -> None:
        """Set a register by Unicorn's number."""
        _check("uc_reg_write", uclib.uc_reg_write(self._handle, register, ctypes.byref(ctypes.c_uint64(value))))

    def read_bytes(self, register: int, size_bytes: int) -> bytes:
        """A wide register, as bytes."""
        buffer = (ctypes.c_ubyte * size_bytes)()
        _check("uc_reg_read", uclib.uc_reg_read(self._handle, register, buffer))
        return bytes(buffer)

    def write_bytes(self, register: int, data: bytes) -> None:
        """Set a wide register."""
        buffer = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
        _check("uc_reg_write", uclib.uc_reg_write(self._handle, register, buffer))

    def read_msr(self, index: int) -> int:
        """An MSR; 0 for one that the engine does not know."""
        access = MsrAccess(index)
        _check("uc_reg_read", uclib.uc_reg_read(self._handle, x86.UC_X86_REG_MSR, ctypes.byref(access)))
        value: int = access.value
        return value

    def write_msr(self, index: int, value: int) -> None:
        """Set an MSR; nothing happens for one that the engine does not know."""
        access = MsrAccess(index, value)
        _check("uc_reg_write", uclib.uc_reg_write(self._handle, x86.UC_X86_REG_MSR, ctypes.byref(access)))

    def close(self) -> None:
        """Give the engine back. Nobody may be in `start`."""
        context, self._context = self._context, ctypes.c_void_p()
        handle, self._handle = self._handle, ctypes.c_void_p()
        if context:
            uclib.uc_context_free(context)
        if handle:
            uclib.uc_close(handle)
        self._callbacks.clear()


def _check(call: str, code: int) -> None:
    """HypervisorError for a call that Unicorn refuses."""
    if code:
        raise HypervisorError(call, errno.EINVAL, error_text(code))


def error_text(code: int) -> str:
    """Unicorn's words for an error number."""
    text: bytes = uclib.uc_strerror(code)
    return text.decode("ascii", "replace")


def registers(names: Iterable[str]) -> tuple[int, ...]:
    """Unicorn's numbers of registers: `registers(["RAX"])`."""
    return tuple(getattr(x86, f"UC_X86_REG_{name.upper()}") for name in names)
