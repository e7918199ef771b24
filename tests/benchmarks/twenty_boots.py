"""Boots of Debian's kernel to a shell prompt on the emulated processor, one after the other.

    python tests/benchmarks/twenty_boots.py [--boots N] [--busy N] [--generic] [--no-unpack] [--deterministic]

Every boot must reach the prompt and answer a typed command. `--busy N` keeps N processes computing beside them. Times
are from the call of `anyvisor.boot` to the prompt; the memory is the most that this process ever had resident.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "guests"))

import debian
from conversation import INIT

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.initramfs import busybox_initramfs

PROMPT_SECONDS = 120


@contextlib.contextmanager
def busy(processes):
    """Keep that many processors busy, or try to."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for each in spinners:
            each.kill()
            each.wait()


def boot_once(config):
    """The seconds to the prompt, and to the answer of the first command."""
    began = time.monotonic()
    with anyvisor.boot(config, backend="unicorn") as machine:
        machine.console.expect("guest# ", timeout=PROMPT_SECONDS)
        prompt = time.monotonic() - began
        machine.console.write("echo $((6 * 7)) is the answer\n")
        machine.console.expect("\n42 is the answer", timeout=PROMPT_SECONDS)
        return prompt, time.monotonic() - began


def main(options):
    with tempfile.TemporaryDirectory() as folder, busy(options.busy):
        initrd = Path(folder, "initrd.cpio")
        busybox_initramfs(debian.busybox(), INIT).write(initrd)
        kernel = debian.generic_kernel() if options.generic else debian.cloud_kernel()
        config = MachineConfig(
            kernel=kernel.vmlinuz,
            initrd=initrd,
            memory="256M",
            unpack=options.unpack,
            deterministic=options.deterministic,
            command_line=f"{DEFAULT_COMMAND_LINE} quiet",
        )
        prompts = []
        for number in range(1, options.boots + 1):
            prompt, answer = boot_once(config)
            prompts.append(prompt)
            print(f"boot {number:2}: prompt after {prompt:5.2f} s, answer after {answer:5.2f} s", flush=True)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    load = os.getloadavg()[0]
    print(
        f"{kernel.version}: {len(prompts)} of {options.boots} boots reached the prompt, {options.busy} busy beside them"
    )
    print(f"prompt: min {min(prompts):.2f} s, median {statistics.median(prompts):.2f} s, max {max(prompts):.2f} s")
    print(f"peak memory {most} MiB, threads left {threading.active_count() - 1}, load of the host {load:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--boots", type=int, default=20)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--generic", action="store_true")
    parser.add_argument("--unpack", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--deterministic", action="store_true")
    main(parser.parse_args())
