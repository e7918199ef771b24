"""What tests of scripts share: the mock with RAM, devices and vCPUs."""

import threading

import pytest

from anyvisor.bus import Bus
from anyvisor.memory import PAGE_BYTES, GuestMemory, Region
from anyvisor.testing.listener import Listener
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.state import Regs
from anyvisor_mock import MockHypervisor

INTERRUPTS_ON = Regs(rflags=0x202)
MMIO = 0xD0000000


class Made:
    """The mock with two pages of RAM, listeners at ports 0x10 and from MMIO up, and one vCPU."""

    def __init__(self, script=(), *, irqchip=False, source=None, readonly=False, facts=None, vcpus=1):
        self.mock = MockHypervisor(facts, script)
        self.vm = self.mock.create_vm()
        self.memory = GuestMemory([Region(0, 2 * PAGE_BYTES, "RAM")])
        for ram in self.memory:
            self.vm.map_memory(ram, readonly=readonly)
        if irqchip:
            self.vm.put(Irqchip())
        self.vcpus = [self.vm.create_vcpu(index) for index in range(vcpus)]
        self.vcpu = self.vcpus[0]
        if source is not None:
            self.vcpu.take_interrupts_from(source)
        self.bus, self.ports, self.mmio = Bus(), Listener(), Listener()
        self.bus.add_ports(Region(0x10, 8, "ports"), self.ports)
        self.bus.add_mmio(Region(MMIO, 0x1000, "mmio"), self.mmio)
        self.bus.add_mmio(Region(2 * PAGE_BYTES, 0x1000, "behind RAM"), self.mmio, offset=0x100)

    def run(self, vcpu=0):
        return self.vcpus[vcpu].run(self.bus)

    def start(self, vcpu=0):
        found = []
        thread = threading.Thread(target=lambda: found.append(self.run(vcpu)))
        thread.start()
        return thread, found


@pytest.fixture
def made():
    everything = []

    def make(*script, **options):
        everything.append(Made(list(script), **options))
        return everything[-1]

    yield make
    for each in everything:
        each.mock.close()
        each.memory.close()
