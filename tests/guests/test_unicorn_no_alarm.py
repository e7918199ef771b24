"""No false alarm: no check and no look says anything of a healthy Linux on the emulated processor, at any moment."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from conversation import INIT, ask, greet, part, switch_off

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.initramfs import busybox_initramfs
from no_alarm.census import Census
from no_alarm.looks import check_idle_and_busy, said, spinning_i386

pytestmark = pytest.mark.timeout(240)

GUESTS = {
    "unpacks itself to a random place": ("cloud_kernel", {"unpack": False, "tables": "acpi"}, switch_off),
    "is unpacked": ("generic_kernel", {"unpack": True, "tables": "mptable"}, part),
}
WORK = "sha256sum /bin/busybox; /spin && (sleep 9 & kill $!) && echo done"
APART_SECONDS = 0.006
COUNT = 30_000_000


def boot(kernel, initrd, append="quiet", **more):
    command_line = f"{DEFAULT_COMMAND_LINE} {append} 8250.nr_uarts=1 cryptomgr.notests"
    config = MachineConfig(kernel=kernel.vmlinuz, initrd=initrd, memory="128M", command_line=command_line, **more)
    return anyvisor.boot(config, backend="unicorn")


def counted(kernel, initrd, leave, **more):
    """The census of a boot and of some programs; then the guest is looked at, and leaves."""
    with boot(kernel, initrd, **more) as machine:
        with Census(machine, APART_SECONDS) as census:
            greet(machine, kernel.version)
            assert "done" in ask(machine, WORK)
        check_idle_and_busy(machine)
        leave(machine)
        assert (machine.outcome.panic, machine.outcome.note, said(machine)) == (None, "", [])
    return census


@pytest.fixture(scope="module")
def initrd(busybox, tmp_path_factory):
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    busybox_initramfs(busybox, INIT).file("/spin", spinning_i386(COUNT), mode=0o755).write(path)
    return path


@pytest.fixture(scope="module")
def censuses(initrd, cloud_kernel, generic_kernel):
    """Both guests at once: an engine that runs leaves Python to the others."""
    kernels = {"cloud_kernel": cloud_kernel, "generic_kernel": generic_kernel}
    with ThreadPoolExecutor(len(GUESTS)) as pool:
        yield {
            name: pool.submit(counted, kernels[kernel], initrd, leave, **more)
            for name, (kernel, more, leave) in GUESTS.items()
        }


@pytest.mark.parametrize("guest", GUESTS)
def test_no_check_says_anything_of_a_linux_that_boots_and_works(guest, censuses):
    census = censuses[guest].result(timeout=200)
    print("a kernel that", guest)
    census.check()


def test_no_look_says_anything_of_a_linux_that_prints_while_it_boots(cloud_kernel, initrd, censuses):
    for future in censuses.values():
        future.result(timeout=200)
    with boot(cloud_kernel, initrd, append="", unpack=True) as machine:
        looks = 0
        while "USERSPACE" not in machine.console.text:
            assert said(machine) == []
            looks += 1
        assert looks > 2
