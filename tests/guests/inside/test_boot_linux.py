"""The main job: kernels that nobody here built, from file to userspace, by anyvisor on real KVM."""

import pytest
from conversation import INIT, complaints, converse, shows_memory_map

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.initramfs import busybox_initramfs


@pytest.fixture(scope="module")
def initrd(busybox, tmp_path_factory):
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(path)
    return path


def boot(kernel, initrd, **more):
    command_line = f"{DEFAULT_COMMAND_LINE} quiet 8250.nr_uarts=1"
    return anyvisor.boot(
        MachineConfig(kernel=kernel, initrd=initrd, memory="256M", command_line=command_line, **more),
        backend="kvm",
    )


@pytest.mark.parametrize("flavour", ["generic", "cloud"])
def test_a_debian_kernel_boots_from_its_bzimage_to_userspace_and_answers(flavour, initrd, request):
    """As a vmlinux, unpacked here, each is booted for `test_firmware_tables`."""
    kernel = request.getfixturevalue(f"{flavour}_kernel")
    with boot(kernel.vmlinuz, initrd, unpack=False) as machine:
        log = converse(machine, kernel.version)
    assert not complaints(log)
    assert shows_memory_map(log)
