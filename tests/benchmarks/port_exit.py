"""What one port exit costs through `Vcpu.run`, beside a C loop that makes the same ioctl on the same vCPU.

    python tests/benchmarks/port_exit.py [ROUNDS]

The two take turns, so that whatever else the machine is doing hits both; the figures are medians over the
rounds.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs

from anyvisor.bus import Bus
from anyvisor.exits import Kicked
from anyvisor.memory import GuestMemory, Region
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs
from anyvisor_kvm.hypervisor import open_kvm

EXITS = 5000
PORT = 0x3F8
GUEST = bytes([0xEE,          # again: out dx, al
               0xEB, 0xFD])  # jmp again  # fmt: skip

C_LOOP = r"""
#include <linux/kvm.h>
#include <sys/ioctl.h>
long exits(int fd, struct kvm_run *run, long count) {
    long sum = 0;
    while (count--) {
        if (ioctl(fd, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_IO)
            return -1;
        sum += *((unsigned char *)run + run->io.data_offset);
    }
    return sum;
}
"""


class Counter:
    """Takes bytes, and kicks its vCPU when it has had enough of them."""

    def __init__(self, vcpu):
        self.vcpu = vcpu
        self.left = 0

    def read(self, offset, size_bytes):
        return 0

    def write(self, offset, size_bytes, value):
        self.left -= 1
        if not self.left:
            self.vcpu.kick()


def compiled(folder):
    source, library = Path(folder, "loop.c"), Path(folder, "loop.so")
    source.write_text(C_LOOP)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    loop = ctypes.CDLL(str(library)).exits
    loop.restype = ctypes.c_long
    loop.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_long)
    return loop


def in_c(loop, vcpu, page):
    start = time.perf_counter()
    if loop(vcpu._fd.number, page, EXITS) < 0:
        raise SystemExit("the C loop met an exit that is no port access")
    return time.perf_counter() - start


def in_python(vcpu, bus, counter):
    counter.left = EXITS
    start = time.perf_counter()
    found = vcpu.run(bus)
    spent = time.perf_counter() - start
    if found != Kicked():
        raise SystemExit(f"the guest stopped: {found.describe()}")
    return spent


def start_guest(hypervisor, memory):
    vm = hypervisor.create_vm()
    for ram in memory:
        vm.map_memory(ram)
    memory.write(0, GUEST)
    vcpu = vm.create_vcpu(0)
    flat = SegmentRegister(limit=0xFFFF, type=0xB, s=True, present=True)
    vcpu.put(attrs.evolve(vcpu.get(Sregs), cs=flat))
    vcpu.put(Regs(rdx=PORT))
    return vcpu


def main(rounds):
    with tempfile.TemporaryDirectory() as folder, GuestMemory([Region(0, 4096)]) as memory, open_kvm() as kvm:
        loop, vcpu = compiled(folder), start_guest(kvm, memory)
        counter, bus = Counter(vcpu), Bus()
        bus.add_ports(Region(PORT, 1, "counter"), counter)
        page = ctypes.addressof(keep := ctypes.c_char.from_buffer(vcpu._page.mapping))
        times = [(in_c(loop, vcpu, page), in_python(vcpu, bus, counter)) for _ in range(rounds)]
        del keep
    c = [each[0] / EXITS * 1e6 for each in times]
    python = [each[1] / EXITS * 1e6 for each in times]
    extra = [b - a for a, b in zip(c, python, strict=True)]
    print(f"C loop          {statistics.median(c):7.2f} us an exit (best {min(c):.2f})")
    print(f"Vcpu.run        {statistics.median(python):7.2f} us an exit (best {min(python):.2f})")
    print(f"difference      {statistics.median(extra):7.2f} us an exit, of {rounds} rounds of {EXITS} exits")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
