"""QEMU's devices, one port access at a time: a judge for ours that nobody here wrote.

QEMU's test protocol (`-qtest`) takes port accesses as lines of text. The machine's own processor executes the
one instruction its ROM consists of, HLT, so nobody else touches the ports, and time passes as for everybody.
"""

import shutil
import subprocess
import time
from pathlib import Path

QEMU = "qemu-system-x86_64"


class QemuDevices:
    """A PC of QEMU's whose ports are read and written from here; its interrupt lines are in `lines`."""

    def __init__(self, directory: Path, *arguments: str):
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
        )
        self.lines: dict[int, bool] = {}
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
                self.lines[int(words[2])] = words[1] == "raise"
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
