"""A machine on QEMU's emulated x86_64 CPU, in which Linux finds AMD's SVM and /dev/kvm is the real thing.

Some facts about it. QEMU's TCG emulates SVM with nested paging, so kvm-amd loads and its guests run at
hundreds of millions of instructions a second. One CPU is faster than two. A q35 without SATA, SMBus, USB and
HPET boots a second sooner. A VM that is closed waits for RCU; with grace periods expedited, tests with VMs take a fifth
less. The guest sees the host's root directory by 9p: the host's Python, its packages and this repository are there
at once, under the same paths. A second, writable 9p directory, /share in the guest, carries the job and its results.
The host writes the files of both, so their times are the host's.

QEMU 7.2 sometimes loses an interrupt when a guest of the guest is left (SVM in TCG changes the pending interrupts
without the lock that the timers take). A machine that idles tickless then sleeps for ever: the next interrupt of any
kind would show it the lost one, but there is none. So `wait` types a character on the console ten times a second, and
`init` reads them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import attrs
import debian
import outer_kernel

from anyvisor.errors import GuestError, HypervisorUnavailable
from anyvisor.initramfs import Initramfs

QEMU = "qemu-system-x86_64"
INIT = Path(__file__).with_name("init.sh")
MODULES = ("kvm-amd", "virtio_pci", "9pnet_virtio", "9p", "overlay")
DIRECTORIES = ("/bin", "/dev", "/host", "/overlay", "/proc", "/root", "/share", "/sys")
DEBUG_EXIT_PORT = 0xF4
MEMORY = "2G"
POLL_SECONDS = 0.1
TAIL_LINES = 120
"""A kernel's panic with its stack takes half of them."""


@attrs.frozen
class Outcome:
    """How a job ended: its exit status, the host's seconds until it began and until the machine was off."""

    returncode: int
    boot_seconds: float
    seconds: float


class EmulatedMachine:
    """One run of the machine: entering starts QEMU, `wait` gives the job's outcome, leaving kills QEMU.

    `share` is a directory of the host, `job` a shell script that the guest runs in the host's root directory
    with `share` at /share. `visible` names directories that the job needs even if they lie below /tmp or
    /run, where the guest has its own. `init` is the script that runs as process 1. The console goes to
    `serial_log`.
    """

    def __init__(self, share: Path, job: str, *, visible: Iterable[Path] = (), init: Path = INIT):
        self.share = share
        self.job = job
        self.visible = tuple(visible)
        self.init = init
        self.serial_log = share / "serial.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        command = self._prepare()
        with self.serial_log.open("wb") as log:
            self._started = time.time()
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
        os.set_blocking(self._keyboard.fileno(), False)
        return self

    def wait(self, limit_seconds: float, watch: Callable[[], None] = lambda: None) -> Outcome:
        """Wait until the machine is off, calling `watch` again and again; the job's outcome.

        GuestError, with the end of the machine's console, when the limit is reached or there is no result.
        """
        deadline = time.monotonic() + limit_seconds
        while (status := self._poll()) is None:
            self._poke()
            watch()
            if time.monotonic() > deadline:
                self.close()
                raise GuestError(f"the emulated machine was still running after {limit_seconds} s\n{self._tail()}")
        watch()
        return self._outcome(status)

    @property
    def running(self) -> bool:
        """Whether QEMU is there."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Kill QEMU if it still runs. May be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(BrokenPipeError):
                self._keyboard.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> list[str]:
        """Write what the machine boots and runs; the command that starts it."""
        qemu = find_qemu()
        kernel = debian.generic_kernel()
        for name in ("returncode", "started"):
            (self.share / name).unlink(missing_ok=True)
        (self.share / "job").write_text(self.job)
        (self.share / "visible").write_text("".join(f"{path}\n" for path in self.visible))
        initrd = self.share / "initramfs.cpio"
        initrd.write_bytes(initramfs(kernel, self.init))
        return _command(qemu, outer_kernel.vmlinux_file(kernel.vmlinuz), initrd, self.share)

    def _poll(self) -> int | None:
        assert self._process is not None, "enter the machine first"
        try:
            return self._process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def _poke(self) -> None:
        """Give the machine an interrupt; see the module's facts."""
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._keyboard.fileno(), b"\n")

    @property
    def _keyboard(self) -> IO[bytes]:
        assert self._process is not None and self._process.stdin is not None, "enter the machine first"
        return self._process.stdin

    def _outcome(self, status: int) -> Outcome:
        seconds = time.time() - self._started
        try:
            returncode = int((self.share / "returncode").read_text())
            boot_seconds = (self.share / "started").stat().st_mtime - self._started
        except (OSError, ValueError):
            raise GuestError(
                f"the emulated machine went off without a result, status {status}\n{self._tail()}"
            ) from None
        if status != (2 * returncode + 1) & 0xFF:
            raise GuestError(f"the job ended with {returncode}, but QEMU with {status}\n{self._tail()}")
        return Outcome(returncode, boot_seconds, seconds)

    def _tail(self) -> str:
        lines = self.serial_log.read_text(errors="replace").splitlines()
        return "\n".join([f"the last lines of {self.serial_log}:", *lines[-TAIL_LINES:]])


def find_qemu() -> str:
    """The path of QEMU; HypervisorUnavailable when it is not installed."""
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise HypervisorUnavailable(f"no {QEMU} here; install the package qemu-system-x86")
    return qemu


def initramfs(kernel: debian.DebianKernel, init: Path) -> bytes:
    """The machine's first files: BusyBox, the modules with their order, and `init`."""
    archive = Initramfs().device("/dev/console", "c", 5, 1)
    for directory in DIRECTORIES:
        archive.directory(directory)
    archive.file("/bin/busybox", debian.busybox().read_bytes(), 0o755)
    modules = outer_kernel.load_order(kernel.modules, MODULES)
    for module in modules:
        archive.file(f"/modules/{module.name}.ko", module.elf)
    archive.file("/modules/order", "".join(f"{module.name}\n" for module in modules).encode())
    return archive.file("/init", init.read_bytes(), 0o755).to_bytes()


def _command(qemu: str, kernel: Path, initrd: Path, share: Path) -> list[str]:
    """QEMU's command line, under a setpriv that kills QEMU should this process die without a word."""
    return [
        "setpriv", "--pdeathsig", "KILL", qemu,
        "-M", "q35,sata=off,smbus=off,usb=off,vmport=off,hpet=off",
        "-accel", "tcg,thread=single,tb-size=512", "-cpu", "EPYC,+svm,+npt", "-smp", "1", "-m", MEMORY,
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-device", f"isa-debug-exit,iobase={DEBUG_EXIT_PORT:#x},iosize=1",
        *_export("share", share),
        *_export("host", Path("/"), ",readonly=on"),
        "-kernel", str(kernel), "-initrd", str(initrd),
        "-append", "console=ttyS0 panic=-1 quiet rcupdate.rcu_expedited=1",
    ]  # fmt: skip


def _export(tag: str, path: Path, option: str = "") -> list[str]:
    """A directory of the host that the guest can mount by 9p; QEMU wants commas doubled."""
    escaped = str(path.absolute()).replace(",", ",,")
    local = f"local,id={tag},path={escaped},security_model=none,multidevs=remap{option}"
    return ["-fsdev", local, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
