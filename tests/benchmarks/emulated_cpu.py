"""How fast the emulated processor is, beside QEMU's TCG on the same bytes.

    python tests/benchmarks/emulated_cpu.py [ROUNDS]

The kernel (emulated_cpu.S) does one piece of work after the other, and writes a letter to a port before each; the time
between two letters is the work's. The two processors take turns, so that whatever else the machine is doing hits both;
figures are medians over the rounds. QEMU answers port 0x80 in C, we by a device in Python, its lock and all. One timer
event is programming the timer for 100 us, waiting, and the handler's end of interrupt: the 100 us are taken off.
Needs gcc and qemu-system-x86_64.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.hookspecs import hookimpl
from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec
from anyvisor.plugins import load_plugins

SOURCE = Path(__file__).with_suffix(".S")
QEMU = "qemu-system-x86_64"
MARK_PORT = 0x5E0
TIMER_SECONDS = 119 / 1_193_182
LIMIT_SECONDS = 120
TWO_WAYS = ("unicorn", "QEMU TCG")


@attrs.frozen
class Work:
    """A piece of the kernel's work: how often it does it, by the name that the assembly has for that number."""

    title: str
    constant: str
    times: int
    instructions: int = 0
    """In one loop, where it is these that are counted; else loops are events."""
    waits_seconds: float = 0.0


WORKS = {
    "a": Work("registers only", "ALU_LOOPS", 30_000_000, 4),
    "b": Work("loads and stores", "MEMORY_LOOPS", 10_000_000, 6),
    "B": Work("the same, executable", "MIXED_LOOPS", 2_000_000, 6),
    "c": Work("calls and returns", "CALL_LOOPS", 5_000_000, 5),
    "d": Work("port exit (OUT)", "PORT_LOOPS", 100_000),
    "e": Work("page fault and IRET", "FAULT_LOOPS", 10_000),
    "f": Work("SYSCALL and SYSRET", "SYSTEM_CALLS", 20_000),
    "g": Work("timer, halted", "TIMER_LOOPS", 500, waits_seconds=TIMER_SECONDS),
    "h": Work("timer, busy", "TIMER_LOOPS", 500, waits_seconds=TIMER_SECONDS),
}
END = "z"


class Stopwatch:
    """The device at the kernel's port: when which letter was written."""

    def __init__(self, times):
        self.times = times

    def read(self, offset, size_bytes):
        return 0xFF

    def write(self, offset, size_bytes, value):
        self.times[chr(value)] = time.perf_counter()

    def close(self):
        pass


class StopwatchPlugin:
    """Puts a stopwatch into every machine."""

    times: dict[str, float] = {}

    @hookimpl
    def anyvisor_devices(self, config, facts):
        return (DeviceSpec("stopwatch", "stopwatch", ports=(Region(MARK_PORT, 1),)),)

    @hookimpl
    def anyvisor_device_factories(self):
        return {"stopwatch": f"{__name__}:open_stopwatch"}


def open_stopwatch(spec, context):
    return Stopwatch(StopwatchPlugin.times)


def build(folder):
    """The kernel as an ELF file that both can boot."""
    kernel = Path(folder, "kernel.elf")
    constants = [f"-Wa,--defsym,{work.constant}={work.times}" for work in WORKS.values()]
    layout = ["-Wl,--build-id=none", "-Wl,-N", "-Wl,--no-warn-rwx-segments", "-Wl,-Ttext=0x200000", "-Wl,-e,entry64"]
    command = ["gcc", "-nostdlib", "-static", "-no-pie", *constants, *layout, SOURCE, "-o", kernel]
    subprocess.run(command, check=True, timeout=60)
    return kernel


def on_unicorn(kernel, plugins):
    """When each letter came, on our emulated processor."""
    StopwatchPlugin.times.clear()
    with anyvisor.boot(MachineConfig(kernel=kernel, memory="64M"), backend="unicorn", plugins=plugins) as machine:
        machine.wait(LIMIT_SECONDS)
    return dict(StopwatchPlugin.times)


def on_qemu(kernel):
    """When each letter came, out of QEMU: the debug console writes each at once."""
    reader, writer = os.pipe()
    command = [
        QEMU, "-accel", "tcg", "-cpu", "qemu64,+nx,+syscall", "-machine", "pc", "-m", "64M",
        "-nodefaults", "-display", "none", "-no-reboot", "-chardev", f"file,id=marks,path=/dev/fd/{writer}",
        "-device", f"isa-debugcon,iobase={MARK_PORT:#x},chardev=marks", "-kernel", str(kernel),
    ]  # fmt: skip
    times = {}
    with subprocess.Popen(command, pass_fds=[writer]) as process, os.fdopen(reader, "rb", buffering=0) as marks:
        os.close(writer)
        try:
            while letter := marks.read(1):
                times[letter.decode()] = time.perf_counter()
            process.wait(LIMIT_SECONDS)
        finally:
            process.kill()
    return times


def spent(times):
    """The seconds that each piece of work took, once or an instruction of it."""
    if list(times) != [*WORKS, END]:
        raise SystemExit(f"the kernel got no further than {''.join(times)!r} of {''.join(WORKS)}{END}")
    after = [*WORKS, END][1:]
    return {
        letter: (times[next_letter] - times[letter]) / (work.times * (work.instructions or 1)) - work.waits_seconds
        for (letter, work), next_letter in zip(WORKS.items(), after, strict=True)
    }


def figure(work, seconds):
    if work.instructions:
        return f"{1e-6 / seconds:7.0f} M/s"
    return f"{seconds * 1e6:7.2f} us"


def main(rounds):
    plugins = load_plugins([StopwatchPlugin()])
    with tempfile.TemporaryDirectory() as folder:
        kernel = build(folder)
        runs = [(spent(on_unicorn(kernel, plugins)), spent(on_qemu(kernel))) for _ in range(rounds)]
    print(f"{'':24}{TWO_WAYS[0]:>14}{TWO_WAYS[1]:>14}{'time, times':>16}   medians of {rounds} rounds")
    for letter, work in WORKS.items():
        ours, theirs = ([run[way][letter] for run in runs] for way in (0, 1))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        cells = [figure(work, statistics.median(each)) for each in (ours, theirs)]
        print(f"{work.title:24}{cells[0]:>14}{cells[1]:>14}{ratio:>15.2f}x")
    print("M/s: million instructions a second; us: a piece")
    ports = statistics.median(run[0]["d"] for run in runs)
    print(f"port exits through a Python device: {1 / ports:,.0f} a second")


if __name__ == "__main__":
    if not (shutil.which("gcc") and shutil.which(QEMU)):
        raise SystemExit(f"gcc and {QEMU} are needed")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
