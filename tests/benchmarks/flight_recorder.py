"""What the flight recorder costs: port exits a second with it on and off, in one run.

    python tests/benchmarks/flight_recorder.py [ROUNDS [BACKEND...]]

Each row is a way to record, on a vCPU of its own. All take turns in every round, in an order that changes, so that
whatever else the machine is doing hits all of them; a ratio is that to `off` in the same round: its median, and the
middle half of all rounds. Times are those of the vCPU's thread.

`state before` also keeps the registers of each exit, as is done where KVM destroys them at a death. `kvm loop` is KVM's
run loop alone: KVM_RUN does nothing and leaves the same exit in the run page again, so that what noting costs is not
lost in the noise of the exits.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import sys
import time
from unittest import mock

from anyvisor import open_hypervisor
from anyvisor.bus import Bus
from anyvisor.exit_trace import ExitTrace
from anyvisor.exits import Kicked
from anyvisor.flight import ExitRing
from anyvisor.tapped_bus import TappedBus
from anyvisor.testing.bench import PORTS, Bench
from anyvisor.testing.x86_64.guests import everywhere

EXITS = 5000
# fmt: off
GUESTS = {
    "out": everywhere(bytes([0xE6, PORTS.start,   # again: out PORT, al
                             0xEB, 0xFC])),       # jmp again
    "in": everywhere(bytes([0xE4, PORTS.start,    # again: in al, PORT
                            0xEB, 0xFC])),        # jmp again
}
# fmt: on


class Counter:
    """Answers, and kicks its vCPU when it has been asked often enough."""

    def __init__(self, kick):
        self.kick = kick
        self.left = 0

    def count(self):
        self.left -= 1
        if self.left == 0:
            self.kick()

    def read(self, offset, size_bytes):
        self.count()
        return 0

    def write(self, offset, size_bytes, value):
        self.count()


class Lane:
    """One vCPU with its way to record."""

    def __init__(self, made, guest, wire):
        self.vcpu = made.vcpu
        self.counter = Counter(made.vcpu.kick)
        bus = Bus()
        bus.add_ports(PORTS, self.counter)
        self.bus = wire(made.vcpu, bus)
        made.enter(guest)

    def exits_per_second(self):
        self.counter.left = EXITS
        start = time.thread_time()
        found = self.vcpu.run(self.bus)
        spent = time.thread_time() - start
        if found != Kicked():
            raise SystemExit(f"the guest stopped: {found.describe()}")
        return EXITS / spent


def recorded(vcpu, bus):
    if not vcpu.record_exits(ExitRing()):
        raise SystemExit("this vCPU does not record its exits")
    return bus


def traced(per_second):
    def wire(vcpu, bus):
        vcpu.record_exits(ExitTrace("/dev/null", per_second=per_second).ring(0, bus))
        return bus

    return wire


def with_state_before(vcpu, bus):
    """As on a processor with SVM, whatever this host has."""
    with mock.patch("anyvisor_kvm.x86_64.sync.host_extension", return_value="svm"):
        return recorded(vcpu, bus)


WAYS = {
    "off": lambda vcpu, bus: bus,
    "off again": lambda vcpu, bus: bus,
    "on": recorded,
    "by the bus": lambda vcpu, bus: TappedBus(bus, ExitRing()),
    "traced, 10 000/s": traced(10_000),
    "traced, all": traced(1e9),
}
KVM_WAYS = {**WAYS, "state before": with_state_before}


@contextlib.contextmanager
def opened(backend, guest):
    """A lane for each way to record."""
    ways = KVM_WAYS if backend == "kvm" else WAYS
    with contextlib.ExitStack() as stack:
        lanes = {}
        for name, wire in ways.items():
            hypervisor = stack.enter_context(open_hypervisor(backend))
            lanes[name] = Lane(stack.enter_context(Bench(hypervisor)), GUESTS[guest], wire)
        yield lanes


def measure(lanes, rounds, exits_per_second):
    seen = {name: [] for name in lanes}
    for _ in range(rounds):
        for name in random.sample(list(lanes), len(lanes)):
            seen[name].append(exits_per_second(lanes[name]))
    return seen


def loop_per_second(lane):
    """Exits a second of the run loop alone; a device ends it."""
    with mock.patch("anyvisor_kvm.vcpu.ioctl", divmod), mock.patch.object(lane.counter, "kick", stop):
        lane.counter.left = EXITS
        start = time.thread_time()
        with contextlib.suppress(StopIteration):
            lane.vcpu._loop(lane.bus)
        return EXITS / (time.thread_time() - start)


def stop():
    raise StopIteration


def show(title, seen):
    print(f"{title:<20} exits/s    us/exit    ratio to off (middle half)")
    for name, rates in seen.items():
        rate = statistics.median(rates)
        ratios = [one / off for one, off in zip(rates, seen["off"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"  {name:<16} {rate:>10,.0f} {1e6 / rate:>9.3f}    {middle:.3f} ({low:.3f} to {high:.3f})")


def main(rounds, backends):
    for backend in backends:
        for guest in GUESTS:
            with opened(backend, guest) as lanes:
                show(f"{backend}, {guest}", measure(lanes, rounds, Lane.exits_per_second))
                if backend == "kvm":
                    show(f"kvm loop, {guest}", measure(lanes, rounds, loop_per_second))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15, sys.argv[2:] or ["kvm", "unicorn"])
