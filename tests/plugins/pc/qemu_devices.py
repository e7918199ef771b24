"""QEMU's devices, one port access at a time: a judge for ours that nobody here wrote.

QEMU's test protocol (`-qtest`) takes port accesses as lines of text. The machine's own processor executes the
one instruction its ROM consists of, HLT, so nobody else touches the ports, and time passes as for everybody.

Debian's QEMU is built without the accelerator in which the test protocol turns the clock. In a `StoppedQemu` time
passes only while it is let run, and the HPET, which counts QEMU's own time in units of 10 ns, tells where it stopped.
"""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

QEMU = "qemu-system-x86_64"


class QemuDevices:
    """A PC of QEMU's whose ports are read and written from here.

    `lines` are its interrupt lines, `rises` says how often each one rose.
    """

    def __init__(self, directory: Path, *arguments: str, pass_fds: Iterable[int] = ()):
        rom = directory / "halt.rom"
        rom.write_bytes(b"\xf4" * 0x10000)
        command = [
            QEMU,
            "-M",
            "pc",
            "-accel",
            "tcg",
            "-bios",
            str(rom),
            "-display",
            "none",
            "-nodefaults",
            "-qtest",
            "stdio",
        ]
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            pass_fds=tuple(pass_fds),
        )
        self.lines: dict[int, bool] = {}
        self.rises: dict[int, int] = {}
        self.intercept()

    def intercept(self) -> None:
        """Have the lines told: those that lead to the I/O APIC."""
        self.ask("irq_intercept_in ioapic")

    @staticmethod
    def available() -> bool:
        return shutil.which(QEMU) is not None

    def ask(self, command: str) -> str:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        while True:
            answer = self.process.stdout.readline()
            words = answer.split()
            if words[:1] == ["IRQ"]:
                gsi = int(words[2])
                self.lines[gsi] = words[1] == "raise"
                self.rises[gsi] = self.rises.get(gsi, 0) + self.lines[gsi]
            else:
                assert words[:1] == ["OK"], (command, answer)
                return answer

    def read_port(self, port: int, size_bytes: int = 1) -> int:
        return int(self.ask(f"in{' bw l'[size_bytes]} {port:#x}").split()[1], 16)

    def write_port(self, port: int, size_bytes: int, value: int) -> None:
        self.ask(f"out{' bw l'[size_bytes]} {port:#x} {value:#x}")

    def line_becomes(self, gsi: int, level: bool, seconds: float = 1.0) -> bool:
        """Whether the line is at `level`, or gets there: changes come with the answer to a later access."""
        deadline = time.monotonic() + seconds
        while self.lines.get(gsi, False) != level and time.monotonic() < deadline:
            self.settle()
            self.read_port(0x80)
        return self.lines.get(gsi, False) == level

    def settle(self, seconds: float = 0.002) -> None:
        """Let time pass, so that what a chip does at its own pace is done."""
        time.sleep(seconds)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class StoppedQemu(QemuDevices):
    """The same, with time standing still; `run` lets some pass, and `now` is QEMU's, in nanoseconds."""

    HPET_CONFIGURATION, HPET_COUNTER, HPET_TICK = 0xFED00010, 0xFED000F0, 10

    def __init__(self, directory: Path):
        ours, theirs = socket.socketpair()
        with theirs:
            monitor = ("-chardev", f"socket,id=monitor,fd={theirs.fileno()}", "-mon", "chardev=monitor,mode=control")
            self.monitor = ours
            self.monitor_file = ours.makefile("rw")
            super().__init__(directory, "-S", *monitor, pass_fds=[theirs.fileno()])
        self.ask(f"writel {self.HPET_CONFIGURATION:#x} 1")

    def tell(self, command: str, **arguments):
        """A command to QEMU's monitor, and its answer."""
        self.monitor_file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.monitor_file.flush()
        while True:
            answer = json.loads(self.monitor_file.readline())
            assert "error" not in answer, (command, answer)
            if "return" in answer:
                return answer["return"]

    def intercept(self) -> None:
        self.tell("qmp_capabilities")
        super().intercept()

    def now(self) -> int:
        """The time at which QEMU stopped, rounded down to 10 ns."""
        return int(self.ask(f"readq {self.HPET_COUNTER:#x}").split()[1], 16) * self.HPET_TICK

    def run(self, seconds: float = 0.0) -> int:
        """Let time pass, a third of a millisecond at least; the time at which it stands again."""
        self.tell("cont")
        if seconds:
            time.sleep(seconds)
        self.tell("stop")
        return self.now()

    def close(self) -> None:
        super().close()
        self.monitor_file.close()
        self.monitor.close()


class QemuPic(StoppedQemu):
    """QEMU's two 8259A, with their inputs driven from here; line 0 is the INT output of the first one."""

    def intercept(self) -> None:
        self.tell("qmp_capabilities")
        paths = [
            f"/machine/unattached/{each['name']}"
            for each in self.tell("qom-list", path="/machine/unattached")
            if each["type"] == "child<isa-i8259>"
        ]
        self.chips = sorted(paths, key=lambda path: not self.tell("qom-get", path=path, property="master"))
        assert len(self.chips) == 2
        self.ask(f"irq_intercept_out {self.chips[0]}")

    def set_line(self, gsi: int, level: bool) -> None:
        self.ask(f"set_irq_in {self.chips[gsi // 8]} unnamed-gpio-in {gsi % 8} {int(level)}")
