"""One deterministic boot of Linux, all of it as JSON: what it printed, and how often the processor left the guest.

python tests/guests/deterministic_boot.py KERNEL INITRD
"""

from __future__ import annotations

import json
import sys
import time

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
echo "HELLO $(uname -r)"
date -u; cat /proc/uptime /proc/stat /proc/interrupts /proc/loadavg
i=0; sum=0
while [ $i -lt 300 ]; do sum=$((sum * 31 + i)); i=$((i + 1)); done
echo "sum $sum"
seq 1 2000 | sort -r | busybox md5sum
cat /proc/sys/kernel/random/boot_id /proc/self/maps
sleep 0.3
date -u; cat /proc/uptime
dmesg | busybox md5sum
echo GOODBYE
reboot -f
"""
"""It shows what differs between two boots of any other machine: dates, counters, addresses, random numbers."""
QUIET = "quiet cryptomgr.notests 8250.nr_uarts=1 lpj=1000000"
LIMIT_SECONDS = 150


def main(kernel: str, initrd: str) -> None:
    began = time.monotonic()
    command_line = f"{DEFAULT_COMMAND_LINE} {QUIET}"
    config = MachineConfig(
        kernel=kernel, initrd=initrd, memory="128M", unpack=True, command_line=command_line, deterministic=True
    )
    with anyvisor.boot(config, backend="unicorn") as machine:
        outcome = machine.wait(LIMIT_SECONDS)
        exits = machine.vcpus[0].exits  # type: ignore[attr-defined]  # of this backend's vCPUs alone
        console = machine.console.text
    found = {"outcome": outcome.reason, "exits": dict(exits), "console": console}
    json.dump({"same": found, "seconds": time.monotonic() - began}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
