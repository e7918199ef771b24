"""What the well-known last words of a Linux mean, and what to do about them.

Some facts about how Linux finds its first program (init/main.c, init/do_mounts.c). With an initrd it runs `/init` from
it, or what `rdinit=` names. If that is not there it says nothing and goes on as if there were no initrd: it mounts the
file system that `root=` names. So of a forgotten, a truncated and an empty initrd the last words are the same, and only
what was printed long before tells them apart.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from anyvisor.panics import BOOT, Panic

Advice = tuple[str, str]
"""What happened, and what to do about it: a sentence each."""
SIGNAL_MASK = 0x7F
EXIT_SHIFT = 8


def advice(panic: Panic) -> Advice | None:
    """What a panic means in plain words, and what to do; None for one that says enough itself, or is not known."""
    words = "\n".join((panic.message, panic.cause, *(panic.lines if panic.kind == BOOT else ())))
    for pattern, explain in _KNOWN:
        if found := pattern.search(words):
            return explain(found, panic) if callable(explain) else explain
    return None


def _no_root(_found: re.Match[str], panic: Panic) -> Advice:
    """There was neither an /init nor a root file system."""
    words = "\n".join(panic.lines)
    if broken := re.search(r"Initramfs unpacking failed: (.+)|rootfs image is not initramfs \((.+)\)", words):
        why = (broken[1] or broken[2]).strip()
        return (
            f"the kernel could not unpack its initrd ({why}), so it had no /init to run and no root file system",
            "make the initrd again: it is truncated, or packed in a way that this kernel does not know",
        )
    device = re.search(r'VFS: Cannot open root device "([^"]*)"', words)
    if device and device[1] not in ("", "(null)"):
        return (
            f"the kernel found neither an /init in an initrd nor its root device {device[1]}",
            "give an initrd with the driver for that device and an executable /init; anyvisor's machines have no disk "
            "unless a plugin adds one",
        )
    return (
        "the kernel had no first program to run: no initrd with an executable /init, and no root device",
        "give an initrd (--initrd FILE, MachineConfig(initrd=...)); if there is one, see that it is complete, that it "
        "has an executable /init or what rdinit= names, and that it is a cpio archive in the newc format",
    )


def _no_init(_found: re.Match[str], panic: Panic) -> Advice:
    """There is a root file system, and nothing in it could be run."""
    words = "\n".join(panic.lines)
    failed = re.search(r"Failed to execute (\S+) \(error (-\d+)\)|Requested init (\S+) failed \(error (-\d+)\)", words)
    which = f" ({failed[1] or failed[3]}: error {failed[2] or failed[4]})" if failed else ""
    return (
        f"the kernel found no first program that it could run{which}",
        "see that the file is there and executable, for this architecture, and that its interpreter and libraries are "
        "there too; error -2 is a missing file, -8 one of the wrong format, -13 one that is not executable",
    )


def _init_died(found: re.Match[str], panic: Panic) -> Advice:
    """The exit code is as wait(2) gives it."""
    code = int(found[1], 16)
    if panic.cause:
        return "an oops of the kernel killed the first program", "see the oops: its first line and its call trace"
    if number := code & SIGNAL_MASK:
        return (
            f"the first program was killed by {_signal_name(number)}",
            "run it in a shell to see why: SIGILL is often a CPU feature that the guest does not have, "
            "SIGSEGV and SIGBUS a program or library that is broken or truncated",
        )
    status = code >> EXIT_SHIFT & 0xFF
    shell = f"; a shell's status {status} means {_shell_status(status)}" if _shell_status(status) else ""
    return (
        f"the first program ended, with status {status}, and it never may{shell}",
        "let init end the machine (reboot -f, poweroff -f) or run for ever: exec a shell at its end",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _shell_status(status: int) -> str:
    """What a shell means by it."""
    known = {126: "a command that cannot be executed", 127: "a command that was not found"}
    if status in known:
        return known[status]
    return f"that its last command was killed by {_signal_name(status - 128)}" if 128 < status < 128 + 65 else ""


_MEMORY: Advice = ("the guest ran out of memory", "give it more (--memory, MachineConfig(memory=...))")
_IMAGE: Advice = (
    "the kernel could not unpack itself: its compressed image is damaged, or was overwritten in memory",
    "get the kernel's file again; if it is whole, see with `anyvisor plan` what else is placed over it",
)

_KNOWN: tuple[tuple[re.Pattern[str], Advice | Callable[[re.Match[str], Panic], Advice]], ...] = (
    (re.compile(r"VFS: Unable to mount root fs"), _no_root),
    (re.compile(r"No working init found|No init found|Requested init \S+ failed"), _no_init),
    (re.compile(r"Attempted to kill init! exitcode=0x([0-9a-f]+)"), _init_died),
    (re.compile(r"Out of memory|System is deadlocked on memory|out of memory\s*(?:\n\s*)*-- System halted"), _MEMORY),
    (
        re.compile(r"IO-APIC \+ timer doesn't work"),
        (
            "the timer's interrupt does not reach the kernel through the I/O APIC",
            "see that the tables (MP table, MADT) route ISA interrupt 0 to the pin that the PIT drives, "
            "or boot with noapic",
        ),
    ),
    (
        re.compile(r"corrupted stack end|stack-protector: Kernel stack is corrupted|stack guard page was hit"),
        (
            "a kernel stack overflowed or was overwritten",
            "look at the call trace for the function; a device that writes to the wrong guest memory does this, too",
        ),
    ),
    (
        re.compile(r"Fatal exception in interrupt"),
        (
            "the kernel failed while it served an interrupt, where no task can be blamed and killed",
            "see the oops: its first line and its call trace name the handler",
        ),
    ),
    (re.compile(r"sysrq triggered crash"), ("the guest was told to crash, by SysRq c", "")),
    (re.compile(r"(?:corrupt|ecoding failed|incorrect data|length error).*\s+-- System halted"), _IMAGE),
    (re.compile(r"-- System halted"), ("the kernel's decompressor gave up", "see the line before: it is the reason")),
    (
        re.compile(r"PANIC: early exception 0x([0-9a-f]+)"),
        (
            "an exception came before the kernel could handle any",
            "see RIP and CR2: memory that the kernel was told of and that is not there, or an instruction that this "
            "processor does not have",
        ),
    ),
    (
        re.compile(r"Fatal exception\b|\[#\d+\]"),
        ("an exception in the kernel itself", "see the oops: its first line and its call trace name the function"),
    ),
)
"""What is looked for, the most telling first, and what to say about it."""
