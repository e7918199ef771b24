"""The main job: a kernel that nobody here built, from file to userspace, by anyvisor on real KVM.

Debian's kernel for real machines, as the file that Debian ships: it unpacks itself. Its kernel for virtual machines is
booted by `test_entries`, `test_firmware_tables` and `test_plan_for_both`.
"""

from conversation import complaints, converse, shows_memory_map, switch_off

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig


def test_the_generic_kernel_boots_from_its_bzimage_to_userspace_on_two_processors_and_answers(
    generic_kernel, shell_initrd
):
    command_line = f"{DEFAULT_COMMAND_LINE} quiet 8250.nr_uarts=1"
    files = {"kernel": generic_kernel.vmlinuz, "initrd": shell_initrd, "unpack": False}
    config = MachineConfig(**files, memory="256M", vcpus=2, command_line=command_line)
    with anyvisor.boot(config, backend="kvm") as machine:
        log = converse(machine, generic_kernel.version, vcpus=2, leave=switch_off)
    assert b"Using ACPI (MADT) for SMP configuration information" in log
    assert b"Total of 2 processors activated" in log
    assert not complaints(log)
    assert shows_memory_map(log)
