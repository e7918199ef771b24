"""What one port exit costs through `Vcpu.run` on KVM, bare and recorded, in memory and to a file.

    python tests/benchmarks/recorded_exit.py [ROUNDS]

The three take turns, so that whatever else the machine is doing hits all; the figures are medians over the rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from port_exit import EXITS, PORT, Counter, start_guest

from anyvisor.bus import Bus
from anyvisor.memory import GuestMemory, Region
from anyvisor.recording.recorder import Recorder
from anyvisor_kvm.hypervisor import open_kvm


def spent(vcpu, bus, counter):
    counter.left = EXITS
    start = time.perf_counter()
    vcpu.run(bus)
    return time.perf_counter() - start


def main(rounds):
    with tempfile.TemporaryDirectory() as folder, GuestMemory([Region(0, 4096)]) as memory:
        ways = {
            "bare": open_kvm(),
            "in memory": Recorder(open_kvm()),
            "to a file": Recorder(open_kvm(), Path(folder, "trace")),
        }
        guests = {}
        for name, hypervisor in ways.items():
            vcpu, bus = start_guest(hypervisor, memory), Bus()
            counter = Counter(vcpu)
            bus.add_ports(Region(PORT, 1, "counter"), counter)
            guests[name] = (vcpu, bus, counter)
        times = {name: [] for name in ways}
        for _ in range(rounds):
            for name, guest in guests.items():
                times[name].append(spent(*guest))
        for hypervisor in ways.values():
            hypervisor.close()
    for name, each in times.items():
        median = statistics.median(each) / EXITS
        print(f"{name:10} {median * 1e6:7.2f} us an exit, {1 / median:9,.0f} exits a second")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
