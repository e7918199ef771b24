"""A virtual processor on the engine: the run loop, what the hooks do, and state by type.

Some facts about the loop. The engine runs until HLT, a stop or a count, whichever `pace` decides; port and MMIO
accesses, exceptions, SYSCALL and CPUID are answered in hooks meanwhile. External interrupts are delivered between two
runs only. So a device that raises a line, or a kick, asks the pace for the engine to come back.

What the host writes to guest memory may be code that the engine has translated, so that `run` begins with translating
everything anew; but only then: a guest that is paused again and again would get nothing else done.

HLT with interrupts off is the end of a vCPU that has no NMIs. With interrupts on it is a wait, and a state of the
vCPU's: a kick during it ends `run`, and the next one goes on waiting.
"""

from __future__ import annotations

import errno
from typing import TypeVar

from unicorn import x86_const as x86

from anyvisor.bell import LockBell
from anyvisor.bus import Bus
from anyvisor.codec import name_of
from anyvisor.counted_clock import CountedClock
from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.exits import Exit, Halted, Kicked, Shutdown
from anyvisor.flight import ExitRing
from anyvisor.interrupts import InterruptSource
from anyvisor.states import VcpuState
from anyvisor.turn import Turn
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.state import Activity, MpState
from anyvisor_unicorn import delivery, layout
from anyvisor_unicorn.cpuid_hook import CpuidHook
from anyvisor_unicorn.engine import LOW_HALF, Engine
from anyvisor_unicorn.failure import engine_error
from anyvisor_unicorn.faults import TripleFault
from anyvisor_unicorn.io_hooks import IoHooks
from anyvisor_unicorn.long_mode import FLAG_IF
from anyvisor_unicorn.pace import Pace
from anyvisor_unicorn.processor import Processor
from anyvisor_unicorn.signals import unraisable_kept
from anyvisor_unicorn.states import VCPU_STATES, Accessors

S = TypeVar("S", bound=VcpuState)


class UnicornVcpu:
    """One vCPU, made by `UnicornVm.create_vcpu`; see `anyvisor.hypervisor.Vcpu`. Belongs to its VM, which closes it."""

    def __init__(self, index: int, engine: Engine, cpu: Processor, pace: Pace, counted: CountedClock | None):
        self.index = index
        self._engine = engine
        self._cpu = cpu
        self._pace = pace
        self._counted = counted
        self._source: InterruptSource | None = None
        self._cpuid = CpuidHook(engine)
        self._turn = Turn(f"vCPU {index}")
        self._kicked = False
        self._halted = False
        self._news = LockBell()
        self._failure: BaseException | None = None
        self._shutdown: Shutdown | None = None
        self.exits: dict[str, int] = dict.fromkeys(
            ("in", "out", "mmio", "exception", "syscall", "cpuid", "interrupt", "run"), 0
        )
        """How often each of them was answered."""
        self.io = IoHooks(self.exits, self._fail)
        self._add_hooks()

    # -- state ---------------------------------------------------------------------------------------------------------

    def get(self, kind: type[S]) -> S:
        """A part of the vCPU's state; Unsupported for a type that the engine has not."""
        self._turn.check(f"get {kind.__name__}")
        if kind is Cpuid:
            return self._cpuid.table  # type: ignore[return-value]
        if kind is MpState:
            return MpState(Activity.HALTED if self._halted else Activity.RUNNABLE)  # type: ignore[return-value]
        state: S = self._accessors(kind)[0](self._cpu)
        return state

    def put(self, state: VcpuState) -> None:
        """Set a part of the vCPU's state; HypervisorError when the engine refuses it."""
        self._turn.check(f"put {type(state).__name__}")
        if isinstance(state, Cpuid):
            self._cpuid.table = state
        elif isinstance(state, MpState):
            self._put_activity(state.activity)
        else:
            self._accessors(type(state))[1](self._cpu, state)

    def _put_activity(self, activity: Activity) -> None:
        if activity not in (Activity.RUNNABLE, Activity.HALTED):
            text = f"vCPU {self.index} is the only one: it cannot be {activity.name.lower()}"
            raise HypervisorError("MpState", errno.EINVAL, text)
        self._halted = activity is Activity.HALTED

    @staticmethod
    def _accessors(kind: type[VcpuState]) -> Accessors:
        if kind not in VCPU_STATES:
            kinds: tuple[type[VcpuState], ...] = (Cpuid, MpState, *VCPU_STATES)
            known = ", ".join(name_of(each) for each in kinds)
            raise Unsupported(f"the unicorn backend has no {kind.__name__}; it knows {known}")
        return VCPU_STATES[kind]

    # -- the life of a run ---------------------------------------------------------------------------------------------

    def run(self, bus: Bus) -> Exit:
        """Run the guest until there is something to decide on; see `Vcpu.run`.

        HypervisorError with EBUSY when some thread is in here already. What a device raises comes out, after the
        access that it was to answer has read as zero.
        """
        with self._turn.taken("run"):
            try:
                self.io.bus = bus
                if self._cpu.ram.host_wrote():
                    self._engine.forget_code()
                self._pace.enter()
                with unraisable_kept(self._engine, self._fail):
                    return self._loop()
            finally:
                self._pace.leave()

    def _loop(self) -> Exit:
        engine, pace, words, exits = self._engine, self._pace, self._cpu.u64, self.exits
        engine.save()
        while True:
            pace.answered()
            if self._kicked:
                self._kicked = False
                return Kicked()
            if self._halted and not self._can_wake():
                self._halted = False
                return Halted()
            try:
                self._take_interrupt()
            except TripleFault as fault:
                return Shutdown(fault.exceptions)
            if self._halted:
                self._wait()
                continue
            exits["run"] += 1
            error = engine.start(words[layout.RIP], pace.begin())
            engine.save()
            if found := self._came_back(error):
                return found

    def _came_back(self, error: int) -> Exit | None:
        """What it means that the engine has come back; None when the guest goes on.

        After a device has failed the guest goes on to the end of its block or slice, and may have come to a HLT there.
        """
        self._halted = self._shutdown is None and self._pace.has_halted()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._shutdown is not None:
            found, self._shutdown = self._shutdown, None
            return found
        if error:
            return engine_error(self._cpu, error)
        if self._counted is not None:
            self._counted.advance(self._pace.instructions())
        return None

    def _can_wake(self) -> bool:
        """Whether an interrupt would end a HLT."""
        return self._source is not None and bool(self._cpu.u64[layout.RFLAGS] & FLAG_IF)

    def _take_interrupt(self) -> None:
        """Deliver what the source has, or have the engine come back when it may be possible."""
        source = self._source
        if source is None or not source.pending:
            return
        cpu = self._cpu
        in_shadow = cpu.u32[layout.HFLAGS] & layout.H_INHIBIT_IRQ and not self._halted
        if cpu.u64[layout.RFLAGS] & FLAG_IF and not in_shadow:
            vector = source.acknowledge()
            self.exits["interrupt"] += 1
            self._halted = False
            delivery.deliver_interrupt(cpu, vector)
        if source.pending:
            self._pace.ask_later()

    def _wait(self) -> None:
        """The guest has halted: wait until there is something to look at."""
        if self._counted is None or not self._counted.skip():
            self._news.wait()

    # -- from other threads --------------------------------------------------------------------------------------------

    def take_interrupts_from(self, source: InterruptSource) -> None:
        """Wire the INTR pin to a controller of the machine's own."""
        self._source = source

    def record_exits(self, ring: ExitRing) -> bool:
        """Note every access in `ring` from now on, with RIP at the instructions IN and OUT."""
        self.io.note = ring.append
        return True

    def notify_interrupt(self) -> None:
        """Look at the source soon; from any thread, and from a device that is being called."""
        self._news.ring()
        self._pace.ask()

    def kick(self) -> None:
        """Make `run` come back soon with `Kicked`; see `Vcpu.kick`."""
        self._kicked = True
        self._news.ring()
        self._pace.ask()

    def close(self) -> None:
        """Give the engine back; HypervisorError (EBUSY) while some thread is in `run`."""
        if not self._turn.close():
            return
        self._pace.close()
        self._cpu.close()
        self._engine.close()

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def _add_hooks(self) -> None:
        """In an order that matters.

        The engine looks for the hook of SYSCALL, CPUID and RDTSC in a list of all, and a stop from another thread ends
        the search behind the first that is for this address and for another instruction: SYSCALL would do nothing. So
        it comes first; it is for programs' addresses only, so that a kernel's CPUID finds its hook as surely.
        """
        engine = self._engine
        engine.hook_syscall(self._syscall, LOW_HALF)
        engine.hook_cpuid(self._answer_cpuid)
        if self._counted is not None:
            engine.hook_rdtsc(self._read_tsc)
        engine.hook_in(self.io.port_in)
        engine.hook_out(self.io.port_out)
        engine.hook_interrupts(self._exception)
        engine.hook_invalid(self._invalid_opcode)

    def _fail(self, error: BaseException) -> None:
        """Keep what a hook must not raise; the first is what is told."""
        if self._failure is None:
            self._failure = error
        self._pace.ask()

    def _exception(self, _: int, vector: int, __: int) -> None:
        self.exits["exception"] += 1
        try:
            delivery.deliver_exception(self._cpu, vector)
        except TripleFault as fault:
            self._shut_down(fault)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def _invalid_opcode(self, _: int, __: int) -> bool:
        self.exits["exception"] += 1
        try:
            delivery.deliver_invalid_opcode(self._cpu)
        except TripleFault as fault:
            self._shut_down(fault)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
        return True

    def _shut_down(self, fault: TripleFault) -> None:
        self._shutdown = Shutdown(fault.exceptions)
        self._engine.stop()

    def _syscall(self, _: int, __: int) -> None:
        self.exits["syscall"] += 1
        try:
            delivery.enter_syscall(self._cpu)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def _answer_cpuid(self, _: int, __: int) -> int:
        self.exits["cpuid"] += 1
        return self._cpuid.answer()

    def _read_tsc(self, _: int, __: int) -> int:
        """Deterministic: a TSC of 1 GHz that shows the counted time."""
        assert self._counted is not None
        now = self._counted.now()
        self._engine.write(x86.UC_X86_REG_RAX, now & 0xFFFFFFFF)
        self._engine.write(x86.UC_X86_REG_RDX, now >> 32)
        return 1
