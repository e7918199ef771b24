"""How a Linux on the emulated processor ends: by its own hand, by ours, and by accident; nothing is left behind."""

import re
import subprocess
import sys
import threading
import time

import pytest
from by_hand import use_and_leave
from conversation import INIT

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.diagnosis.live import describe_hang, watch
from anyvisor.errors import GuestError
from anyvisor.exits import Shutdown
from anyvisor.hookspecs import hookimpl
from anyvisor.initramfs import busybox_initramfs
from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec
from anyvisor.plugins import load_plugins

pytestmark = pytest.mark.timeout(120)

BROKEN_ADDRESS = 0xD000_0000
BOOT_SECONDS = 60


class BrokenDevice:
    """Raises what no device should."""

    def read(self, offset, size_bytes):
        return 0

    def write(self, offset, size_bytes, value):
        raise LookupError(f"no such part: {value:#x}")

    def close(self):
        pass


def open_broken_device(spec, context):
    return BrokenDevice()


class BrokenDevicePlugin:
    """Puts the broken device into every machine."""

    @hookimpl
    def anyvisor_devices(self, config, facts):
        return (DeviceSpec("broken", "broken0", mmio=(Region(BROKEN_ADDRESS, 0x1000),)),)

    @hookimpl
    def anyvisor_device_factories(self):
        return {"broken": f"{__name__}:open_broken_device"}


@pytest.fixture(scope="module")
def initrd(busybox, tmp_path_factory):
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    busybox_initramfs(busybox, INIT).device("/dev/mem", "c", 1, 1).write(path)
    return path


@pytest.fixture
def shell(cloud_kernel, initrd):
    """A function that boots to the prompt; the test leaves no thread behind."""
    before = set(threading.enumerate())
    machines = []

    def start(append="", plugins=None):
        command_line = f"{DEFAULT_COMMAND_LINE} quiet 8250.nr_uarts=1 cryptomgr.notests {append}"
        config = MachineConfig(
            kernel=cloud_kernel.vmlinuz, initrd=initrd, memory="256M", unpack=True, command_line=command_line
        )
        machine = anyvisor.boot(config, backend="unicorn", plugins=plugins)
        machines.append(machine)
        machine.console.expect("guest# ", timeout=BOOT_SECONDS)
        return machine

    yield start
    for machine in machines:
        machine.close()
    assert set(threading.enumerate()) <= before


@pytest.fixture
def busy_core():
    """Another process that keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield
        process.kill()


def test_halt_is_the_end_of_a_machine_without_power_management_beside_a_busy_core_too(shell, busy_core):
    machine = shell()
    machine.console.write("halt -f\n")
    assert machine.wait(20).reason == "halted"
    assert "System halted" in machine.console.text
    assert machine.outcome.panic is None
    assert machine.outcome.note.startswith("vCPU 0 halted with interrupts off, before rip 0xffffffff")


def test_a_panic_resets_the_machine(shell):
    machine = shell()
    machine.console.write("echo c >/proc/sysrq-trigger\n")
    assert machine.wait(20).reason == "reset"
    assert "Kernel panic - not syncing: sysrq triggered crash" in machine.console.text
    assert machine.outcome.panic.reason == "sysrq triggered crash"


def test_a_triple_fault_is_the_guests_death_with_its_registers(shell):
    machine = shell("reboot=triple")
    machine.console.write("reboot -f\n")
    with pytest.raises(GuestError, match="triple fault") as caught:
        machine.wait(20)
    assert isinstance(caught.value.exit, Shutdown)
    assert caught.value.vcpu == 0
    assert re.search(r"rip +(0x)?f{8}", str(caught.value))  # Linux died in its own half of the address space
    assert machine.outcome.reason == "died"


def test_an_exception_in_a_device_is_told_to_who_waits(shell):
    machine = shell(plugins=load_plugins([BrokenDevicePlugin()]))
    machine.console.write(f"busybox devmem {BROKEN_ADDRESS + 4:#x} 32 0x55\n")
    with pytest.raises(GuestError, match="no such part: 0x55") as caught:
        machine.wait(20)
    assert isinstance(caught.value.__cause__, LookupError)
    assert machine.outcome.reason == "died"


def test_a_shell_that_waits_is_idle_and_computes_and_pauses_and_is_stopped_while_it_sleeps(shell):
    machine = shell()
    check_idle(machine)
    check_pauses(machine)
    machine.console.write("sleep 1000\n")
    machine.console.expect("sleep 1000\r\n", timeout=20)
    time.sleep(0.5)
    runs = machine.vcpus[0].exits["run"]
    time.sleep(0.5)
    assert machine.vcpus[0].exits["run"] - runs < 500  # it does not spin
    assert machine.stop().reason == "stopped"


def check_idle(machine):
    """It waits, is told to, and goes on after the look."""
    deadline = time.monotonic() + 20
    while not (cause := describe_hang(watch(machine)[0])):  # it may still be busy with its prompt
        assert time.monotonic() < deadline
    assert cause.name == "halted-waiting"
    page = str(machine.inspect())
    assert "vCPU 0 is looked at, at RIP 0xffffffff" in page
    machine.console.write("echo $((6 * 7)) is the answer\n")
    machine.console.expect("\n42 is the answer", timeout=20)


def check_pauses(machine):
    """It prints nothing while it is paused, and all afterwards."""
    machine.console.write("n=0; while [ $n -lt 4000 ]; do echo $((n += 1)); done\n")
    machine.console.expect("\n100\r", timeout=20)
    machine.pause()
    shown = machine.console.end
    time.sleep(0.2)
    assert machine.console.end == shown
    machine.resume()
    machine.console.expect(re.compile(r"\n\d+\r\n\d+\r"), timeout=20)
    machine.console.expect("\n4000\r\n", timeout=30)


def test_it_is_used_from_a_terminal_and_left_by_the_escape_key(cloud_kernel, busybox, tmp_path):
    use_and_leave("unicorn", cloud_kernel, busybox, tmp_path, BOOT_SECONDS)


def test_a_timeout_ends_the_command(cloud_kernel, initrd):
    arguments = ["--initrd", str(initrd), "--memory", "256M", "--backend", "unicorn", "--timeout", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "anyvisor", "boot", str(cloud_kernel.vmlinuz), *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 4
    assert "Linux version" in done.stdout
    assert "the machine was still running after 2 s (--timeout)" in done.stderr
