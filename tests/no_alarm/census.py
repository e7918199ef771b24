"""What the checks say of a guest that runs: its states, taken every few milliseconds, and plans made of them.

A census stops the guest for each look, and checks what it saw when all is over: by the rules of both makers, which are
all there are. The guest is healthy, so that whatever a check says of it is a false alarm.
"""

import itertools
import threading
from collections import Counter

import attrs

from anyvisor.errors import Unsupported
from anyvisor.plan import Blob
from anyvisor.x86_64 import boot_checks, entry_checks
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import DebugRegs, MpState, Regs, Sregs, VcpuEvents, Xcrs

KINDS = (Regs, Sregs, Msrs, DebugRegs, MpState, VcpuEvents, Xcrs, Cpuid)
PLAN_EVERY = 64
"""Of so many looks one is made into a plan: all of memory has to be copied for it."""
MANY_RIPS = 100
KERNEL, USER = "CPL 0", "CPL 3"


def mode(sregs, regs):
    """What kind of code runs, in words."""
    if not sregs.cr0.pe:
        return "real"
    if regs.rflags.vm:
        return "virtual-8086"
    if not sregs.efer.lma:
        return "paged" if sregs.cr0.pg else "protected"
    return "64-bit" if sregs.cs.l else "compatibility"


def phase(states):
    """Privilege level, mode, interrupts, and what the processor does."""
    sregs, regs = states[Sregs], states[Regs]
    activity = states[MpState].activity.name.lower()
    interrupts = "IF" if regs.rflags.interrupt_enable else "no IF"
    return f"CPL {sregs.ss.dpl}", mode(sregs, regs), interrupts, activity


def is_booted(states):
    """Whether the kernel has page tables of its own, or a program runs: before, it looks like one to be entered."""
    return bool(states[Regs].rip >> 63 or states[Sregs].ss.dpl)


def plan_of(machine, states):
    """A plan of all that the machine's RAM holds, and of the first vCPU in these states; the machine stands still."""
    blobs = tuple(Blob("RAM", ram.start, machine.memory.read(ram.start, ram.size_bytes)) for ram in machine.plan.ram)
    first, *others = machine.plan.vcpus
    vcpus = (attrs.evolve(first, states=tuple(states.values())), *others)
    return attrs.evolve(machine.plan, blobs=blobs, vcpus=vcpus)


class Census:
    """Takes the states of a machine from a thread of its own: `with Census(machine) as census: ...`.

    `interval_seconds` is how long the guest runs between two looks. CPUID is asked for as often as `cpuid_every` says.
    """

    def __init__(self, machine, interval_seconds=0.005, plan_every=PLAN_EVERY, cpuid_every=1):
        self.machine = machine
        self.interval_seconds = interval_seconds
        self.plan_every = plan_every
        self.cpuid_every = cpuid_every
        self.seen_states = []
        """The index of a vCPU, and its states."""
        self.plans = 0
        self.alarms = {}
        """What a check said, by who said it, with the states that it said it of."""
        self._over = threading.Event()
        self._cpuids = {}
        self._thread = threading.Thread(target=self._life, name="census")
        self._failure = None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        if self._failure:
            raise self._failure
        for index, states in self.seen_states:
            self._note("entry", entry_checks.check_states(states, vcpu=index), states)

    def check(self, *phases, many_rips=MANY_RIPS):
        """There were many looks at a guest that did all kinds of things, also in these phases, and none had a fault."""
        print(self)
        assert self.alarms == {}
        assert len(self.rips) > many_rips
        assert self.plans
        for wanted in ((KERNEL, "IF"), (KERNEL, "no IF"), (USER, "IF"), ("64-bit",), ("compatibility",), *phases):
            assert self.seen(*wanted), wanted

    @property
    def phases(self):
        """How often the guest was seen at what."""
        return Counter(phase(states) for _, states in self.seen_states)

    @property
    def rips(self):
        """Where it was seen."""
        return {states[Regs].rip for _, states in self.seen_states}

    def __str__(self):
        phases = "\n".join(f"  {count:6} {', '.join(each)}" for each, count in self.phases.most_common())
        counts = f"{len(self.seen_states)} states at {len(self.rips)} RIPs, {self.plans} plans"
        return f"{counts}, alarms {self.alarms}\n{phases}"

    def seen(self, *wanted):
        """Whether some phase has all of these words."""
        return any(set(wanted) <= set(each) for each in self.phases)

    def _life(self):
        try:
            for number in itertools.count():
                if self._over.wait(self.interval_seconds) or self.machine.outcome is not None:
                    break
                self._look(number)
        except BaseException as error:  # noqa: BLE001 - told to who took the census
            self._failure = error

    def _look(self, number):
        plan = None
        with self.machine.held():
            if self.machine.outcome is not None:
                return
            found = [self._states(vcpu, number) for vcpu in self.machine.vcpus]
            if number % self.plan_every == self.plan_every - 1 and is_booted(found[0]):
                plan = plan_of(self.machine, found[0])
        self.seen_states += enumerate(found)
        if plan is not None:
            self.plans += 1
            self._note("plan", [*boot_checks.check_plan(plan), *entry_checks.check_plan(plan)], found[0])

    def _states(self, vcpu, number):
        found = {}
        for kind in KINDS:
            if kind is Cpuid and number % self.cpuid_every:
                found[kind] = self._cpuids[vcpu.index]
                continue
            try:
                found[kind] = vcpu.get(kind)
            except Unsupported:  # the backend has none
                continue
        self._cpuids[vcpu.index] = found[Cpuid]
        return found

    def _note(self, who, findings, states):
        for each in findings:
            self.alarms.setdefault((who, each.check), (str(each), phase(states), states[Regs].rip))
