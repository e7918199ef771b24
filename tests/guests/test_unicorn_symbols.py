"""The symbols in Debian's kernels, judged by those kernels themselves: by what they say in /proc/kallsyms."""

import time

import pytest
from conversation import INIT, ask

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.initramfs import busybox_initramfs
from anyvisor.memory import MIB
from anyvisor.symbols import Symbols
from anyvisor.x86_64.kaslr import slide
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import Regs, Sregs

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]

HOLE = 128 * MIB
"""Memory that the kernel is told to leave alone, so that the guest can put there what we are to read."""
COMMAND_LINE = f"{DEFAULT_COMMAND_LINE} quiet 8250.nr_uarts=1 memmap=32M${HOLE >> 20}M"
TELL = (
    "echo 0 >/proc/sys/kernel/kptr_restrict; mknod /memory c 1 1; cat /proc/kallsyms >/kallsyms; "
    f"dd if=/kallsyms of=/memory bs=4096 seek={HOLE >> 12} conv=notrunc; wc -c </kallsyms"
)


@pytest.fixture(scope="module")
def initrd(busybox, tmp_path_factory):
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(path)
    return path


def pause_in_kernel(machine):
    """Pause it while it runs no program, as it soon does at its prompt."""
    for _ in range(200):
        machine.pause()
        if machine.vcpus[0].get(Regs).rip >> 63:
            return
        machine.resume()
        time.sleep(0.02)
    raise AssertionError("the guest does not come to rest")


@pytest.fixture(params=[False, True], ids=["moved", "nokaslr"])
def told(request, cloud_kernel, initrd):
    """What a kernel says of its symbols, and the states and memory that it says it from.

    A bzImage moves itself to a random place; the vmlinux in it does not, whatever it would like to.
    """
    append = " nokaslr" if request.param else ""
    config = MachineConfig(kernel=cloud_kernel.vmlinuz, initrd=initrd, memory="256M", unpack=request.param)
    with anyvisor.boot(config.replace(command_line=COMMAND_LINE + append), backend="unicorn") as machine:
        machine.console.expect("guest# ", timeout=180)
        size_bytes = int(ask(machine, TELL).split()[-1])
        pause_in_kernel(machine)
        text = machine.memory.read(HOLE, size_bytes).decode()
        states = {kind: machine.vcpus[0].get(kind) for kind in (Regs, Sregs, Msrs)}
        yield [line.split() for line in text.splitlines()], states, machine.memory.read
        machine.resume()


def test_a_kernel_says_the_same_of_its_symbols_as_its_image(told, cloud_kernel):
    lines, states, read = told
    said = [(int(line[0], 16), line[2]) for line in lines if len(line) == 3]  # those with a fourth are of modules
    symbols = Symbols.load(cloud_kernel.vmlinuz)
    base = next(address for address, name in said if name == "_text")
    assert len(said) > 80_000
    for which in (states, {Sregs: states[Sregs]}):  # by its registers, or only by its IDT
        assert slide(symbols, which, read) == base - symbols.address("_text")
    assert list(symbols.moved(slide(symbols, states, read))) == said
    assert symbols.moved(slide(symbols, states, read)).name(states[Regs].rip) is not None
