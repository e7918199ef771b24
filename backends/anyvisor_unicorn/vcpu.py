"""A virtual processor on the engine: the run loop, what the hooks do, and state by type.

Some facts about the loop. The engine runs until HLT, a stop or a count, whichever `pace` decides; port and MMIO
accesses, exceptions, SYSCALL and CPUID are answered in hooks meanwhile. External interrupts are delivered between two
runs only. So a device that raises a line, or a kick, asks the pace for the engine to come back.

HLT with interrupts off is the end of a vCPU that has no NMIs, and must not be mistaken. Where it cannot be told from a
stop, the engine is simply started again: a real halt comes back at once, to the same place, or at the latest when
nobody stops it.
"""

from __future__ import annotations

import errno
import threading
from typing import TypeVar

from unicorn import x86_const as x86

from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.exits import Exit, Halted, InternalError, Kicked, Shutdown
from anyvisor.interrupts import InterruptSource
from anyvisor.states import VcpuState
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor_unicorn import delivery, layout, paging
from anyvisor_unicorn.counted_clock import CountedClock
from anyvisor_unicorn.engine import Engine, error_text
from anyvisor_unicorn.faults import Fault, TripleFault
from anyvisor_unicorn.long_mode import FLAG_IF
from anyvisor_unicorn.pace import FreePace, Pace
from anyvisor_unicorn.processor import Processor
from anyvisor_unicorn.states import VCPU_STATES

S = TypeVar("S", bound=VcpuState)

CPUID_REGISTERS = (x86.UC_X86_REG_RAX, x86.UC_X86_REG_RBX, x86.UC_X86_REG_RCX, x86.UC_X86_REG_RDX)
OSXSAVE = 1 << 27
"""Bit of CPUID leaf 1, ECX: what CR4 says of XSAVE."""
CR4_OSXSAVE = 1 << 18
HALTS_IN_A_ROW = 5
HLT = 0xF4


class UnicornVcpu:
    """One vCPU, made by `UnicornVm.create_vcpu`; see `anyvisor.hypervisor.Vcpu`. Belongs to its VM, which closes it."""

    def __init__(self, index: int, engine: Engine, cpu: Processor, pace: Pace, counted: CountedClock | None):
        self.index = index
        self._engine = engine
        self._cpu = cpu
        self._pace = pace
        self._counted = counted
        self._source: InterruptSource | None = None
        self._cpuid: Cpuid | None = None
        self._answers: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self._lock = threading.Lock()
        self._running = False
        self._closed = False
        self._kicked = False
        self._news = threading.Event()
        self._failure: BaseException | None = None
        self._shutdown = False
        self._bus = Bus()
        self.exits = dict.fromkeys(("in", "out", "mmio", "exception", "syscall", "cpuid", "interrupt", "run"), 0)
        """How often each of them was answered."""
        self._add_hooks()

    # -- state ---------------------------------------------------------------------------------------------------------

    def get(self, kind: type[S]) -> S:
        """A part of the vCPU's state; Unsupported for a type that the engine has not."""
        self._check()
        if kind is Cpuid:
            return self._cpuid or Cpuid()  # type: ignore[return-value]
        state: S = self._accessors(kind)[0](self._cpu)
        return state

    def put(self, state: VcpuState) -> None:
        """Set a part of the vCPU's state; HypervisorError when the engine refuses it."""
        self._check()
        if isinstance(state, Cpuid):
            self._cpuid = state
            self._answers.clear()
        else:
            self._accessors(type(state))[1](self._cpu, state)

    @staticmethod
    def _accessors(kind: type[VcpuState]):  # type: ignore[no-untyped-def]
        if kind not in VCPU_STATES:
            known = ", ".join(each.__name__ for each in (Cpuid, *VCPU_STATES))
            raise Unsupported(f"the unicorn backend has no {kind.__name__}; it knows {known}")
        return VCPU_STATES[kind]

    # -- the life of a run ---------------------------------------------------------------------------------------------

    def run(self, bus: Bus) -> Exit:
        """Run the guest until there is something to decide on; see `Vcpu.run`.

        HypervisorError with EBUSY when some thread is in here already. What a device raises comes out, after the
        access that it was to answer has read as zero.
        """
        with self._lock:
            self._check()
            self._running = True
        self._bus = bus
        self._pace.enter()
        try:
            return self._loop()
        finally:
            self._pace.leave()
            with self._lock:
                self._running = False

    def _check(self) -> None:
        if self._closed:
            raise HypervisorError("uc_emu_start", errno.EBADF, f"vCPU {self.index} is closed")
        if self._running:
            raise HypervisorError("uc_emu_start", errno.EBUSY, f"vCPU {self.index} is in run already; kick it and wait")

    def _loop(self) -> Exit:
        engine, pace, words, exits = self._engine, self._pace, self._cpu.u64, self.exits
        same_place = 0
        engine.save()
        while True:
            pace.answered()
            if self._kicked:
                self._kicked = False
                return Kicked()
            self._take_interrupt()
            rip = words[layout.RIP]
            exits["run"] += 1
            error = engine.start(rip, pace.begin())
            if self._counted is not None:
                self._counted.advance(pace.instructions())
            engine.save()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._shutdown:
                self._shutdown = False
                return Shutdown()
            if error:
                return InternalError(error, (words[layout.RIP],), error_text(error))
            halted = pace.has_halted()
            same_place = same_place + 1 if halted is None and self._may_have_halted(rip) else 0
            if (halted or same_place >= HALTS_IN_A_ROW) and not self._wait():
                return Halted()

    def _may_have_halted(self, rip_before: int) -> bool:
        """Behind a HLT with interrupts off, where the last run ended, too."""
        cpu = self._cpu
        rip = cpu.u64[layout.RIP]
        if rip != rip_before or cpu.u64[layout.RFLAGS] & FLAG_IF:
            return False
        try:
            return paging.read(cpu, cpu.base(layout.CS) + rip - 1, 1)[0] == HLT
        except Fault:
            return False

    def _take_interrupt(self) -> None:
        """Deliver what the source has, or have the engine come back when it may be possible."""
        source = self._source
        if source is None or not source.pending:
            return
        cpu = self._cpu
        if cpu.u64[layout.RFLAGS] & FLAG_IF and not cpu.u32[layout.HFLAGS] & layout.H_INHIBIT_IRQ:
            self.exits["interrupt"] += 1
            try:
                delivery.deliver_interrupt(cpu, source.acknowledge())
            except TripleFault:
                self._shutdown = True
                self._engine.stop()
        if source.pending and isinstance(self._pace, FreePace):
            self._pace.ask_later()

    def _wait(self) -> bool:
        """The guest has halted: wait for an interrupt or a kick. False when nothing can wake it."""
        source = self._source
        if source is None or not self._cpu.u64[layout.RFLAGS] & FLAG_IF:
            return False
        while not source.pending and not self._kicked:
            if self._counted is not None and self._counted.skip():
                continue
            self._news.wait()
            self._news.clear()
        return True

    # -- from other threads --------------------------------------------------------------------------------------------

    def take_interrupts_from(self, source: InterruptSource) -> None:
        """Wire the INTR pin to a controller of the machine's own."""
        self._source = source

    def notify_interrupt(self) -> None:
        """Look at the source soon; from any thread, and from a device that is being called."""
        self._news.set()
        self._pace.ask()

    def kick(self) -> None:
        """Make `run` come back soon with `Kicked`; see `Vcpu.kick`."""
        self._kicked = True
        self._news.set()
        self._pace.ask()

    def close(self) -> None:
        """Give the engine back; HypervisorError (EBUSY) while some thread is in `run`."""
        with self._lock:
            if self._closed:
                return
            self._check()
            self._closed = True
        self._pace.close()
        self._cpu.close()
        self._engine.close()

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def _add_hooks(self) -> None:
        engine = self._engine
        engine.hook_in(self._port_in)
        engine.hook_out(self._port_out)
        engine.hook_interrupts(self._exception)
        engine.hook_invalid(self._invalid_opcode)
        engine.hook_syscall(self._syscall)
        engine.hook_cpuid(self._answer_cpuid)
        if self._counted is not None:
            engine.hook_rdtsc(self._read_tsc)

    def _fail(self, error: BaseException) -> None:
        """Keep what a hook must not raise; the first is what is told."""
        if self._failure is None:
            self._failure = error
        self._engine.stop()

    def _port_in(self, _: int, port: int, size: int, __: int) -> int:
        self.exits["in"] += 1
        try:
            return self._bus.read_port(port, size)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
            return 0

    def _port_out(self, _: int, port: int, size: int, value: int, __: int) -> None:
        self.exits["out"] += 1
        try:
            self._bus.write_port(port, size, value)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def read_mmio(self, address: int, size: int) -> int:
        """A load from where there is no RAM."""
        self.exits["mmio"] += 1
        try:
            return self._bus.read_mmio(address, size)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
            return 0

    def write_mmio(self, address: int, size: int, value: int) -> None:
        """A store to where there is no RAM."""
        self.exits["mmio"] += 1
        try:
            self._bus.write_mmio(address, size, value)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def _exception(self, _: int, vector: int, __: int) -> None:
        self.exits["exception"] += 1
        try:
            delivery.deliver_exception(self._cpu, vector)
        except TripleFault:
            self._shut_down()
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def _invalid_opcode(self, _: int, __: int) -> bool:
        self.exits["exception"] += 1
        try:
            delivery.deliver_invalid_opcode(self._cpu)
        except TripleFault:
            self._shut_down()
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
        return True

    def _shut_down(self) -> None:
        self._shutdown = True
        self._engine.stop()

    def _syscall(self, _: int, __: int) -> None:
        self.exits["syscall"] += 1
        try:
            delivery.enter_syscall(self._cpu)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def _answer_cpuid(self, _: int, __: int) -> int:
        if self._cpuid is None:
            return 0
        self.exits["cpuid"] += 1
        engine = self._engine
        leaf, subleaf = (engine.read(register) & 0xFFFFFFFF for register in (CPUID_REGISTERS[0], CPUID_REGISTERS[2]))
        answer = self._answers.get((leaf, subleaf))
        if answer is None:
            answer = self._answers[leaf, subleaf] = self._cpuid[leaf, subleaf].registers
        for register, value in zip(CPUID_REGISTERS, answer, strict=True):
            engine.write(register, value)
        if leaf == 1 and engine.read(x86.UC_X86_REG_CR4) & CR4_OSXSAVE:
            engine.write(CPUID_REGISTERS[2], answer[2] | OSXSAVE)
        return 1

    def _read_tsc(self, _: int, __: int) -> int:
        """Deterministic: a TSC of 1 GHz that shows the counted time."""
        assert self._counted is not None
        now = self._counted.now()
        self._engine.write(x86.UC_X86_REG_RAX, now & 0xFFFFFFFF)
        self._engine.write(x86.UC_X86_REG_RDX, now >> 32)
        return 1
