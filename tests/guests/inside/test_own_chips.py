"""A real kernel on real KVM without KVM's interrupt chips: the machine's own 8259 pair and 8254 serve it."""

import attrs
import pytest
from conversation import INIT, complaints, converse

from anyvisor.assemble import assemble
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.facts import Capability, HostFacts
from anyvisor.initramfs import busybox_initramfs
from anyvisor.launch import launch
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor_kvm.hypervisor import open_kvm

IN_KVM = {Capability.IRQCHIP, Capability.PIT, Capability.IRQFD, Capability.TSC_DEADLINE}
"""What there is no more of when the chips are the machine's own."""


@pytest.fixture
def initrd(busybox, tmp_path):
    path = tmp_path / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(path)
    return path


def without_chips(facts: HostFacts) -> HostFacts:
    """The facts of that host if its KVM had no interrupt chips, and its processor no local APIC."""
    cpuid = facts.supported_state(Cpuid).without(Feature.APIC)
    supported = tuple(cpuid if isinstance(each, Cpuid) else each for each in facts.supported)
    return attrs.evolve(facts, capabilities=facts.capabilities - IN_KVM, supported=supported)


def test_the_cloud_kernel_boots_on_kvm_with_the_machines_own_interrupt_chips_and_timer(cloud_kernel, initrd):
    command_line = f"{DEFAULT_COMMAND_LINE} quiet 8250.nr_uarts=1"
    config = MachineConfig(kernel=cloud_kernel.vmlinuz, initrd=initrd, memory="256M", command_line=command_line)
    with open_kvm() as kvm:
        plan = assemble(config, without_chips(kvm.facts))
        assert {"pic", "pit"} <= {device.kind for device in plan.devices}
        assert not plan.vm_states_before
        with launch(plan, kvm) as machine:
            machine.start()
            log = converse(machine, cloud_kernel.version)
    assert b"No local APIC present" in log
    assert not complaints(log)
