"""Xen, a multiboot kernel that nobody here built, on real KVM: what it lacks, and what it does with a dom0.

Some facts about QEMU 7.2, the machine around it. An IRET in ring 3 reads the stack as ring 0 would, which SMAP forbids;
a paravirtual Linux does one of its first steps so. Hence `smap=0`.
"""

import re

from xen_log import COMMAND_LINE, DOM0_MISSING, MEMORY_MAP, complaints, shows_handover, text

import anyvisor
from anyvisor.config import MachineConfig

WITHOUT_SMAP = f"{COMMAND_LINE} smap=0"
FOR_DOM0 = "console=hvc0 earlyprintk=xen panic=-1"


def boot(xen, **more):
    return anyvisor.boot(MachineConfig(kernel=xen, memory="768M", **more), backend="kvm")


def test_xen_says_who_it_is_and_that_it_has_no_dom0(xen):
    with boot(xen, command_line=COMMAND_LINE) as machine:
        machine.console.expect(DOM0_MISSING, timeout=120)
        assert shows_handover(machine.console.text, COMMAND_LINE)
        assert machine.wait(60).reason == "reset"


def test_xen_boots_its_first_module_as_dom0(xen, generic_kernel):
    command_line = f"{WITHOUT_SMAP} dom0_mem=256M -- {FOR_DOM0}"
    with boot(xen, initrd=generic_kernel.vmlinuz, command_line=command_line) as machine:
        machine.console.expect("*** Building a PV Dom0 ***", timeout=120)
        machine.console.expect(f"Linux version {generic_kernel.version} ", timeout=120)
        machine.console.expect(re.compile(rf"Command line: +{FOR_DOM0}"), timeout=60)
        log = machine.console.text
    assert shows_handover(log, f"{WITHOUT_SMAP} dom0_mem=256M")
    assert MEMORY_MAP in text(log)
    assert not complaints(log)
