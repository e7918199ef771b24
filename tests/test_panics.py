"""A kernel's last words are recognised, and only those.

The consoles in panics/ are of real guests: kernels of Debian 12 (6.1, amd64 and i386) and Xen 4.17 on the emulated
processor, without an initrd, with a broken one, with an init that ends, with a byte of the kernel changed while it ran.
They begin a few lines before the panic, and with the lines of the log that led to it.
"""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.panic_advice import advice
from anyvisor.panics import Panic, find_panic

CONSOLES = {path.stem: path.read_text().splitlines() for path in sorted((Path(__file__).parent / "panics").iterdir())}
NO_ROOT = "VFS: Unable to mount root fs on unknown-block(0,0)"
SYSRQ = "sysrq triggered crash"

PANICS = {  # console: what the kernel says, where it was, the oops before, what the advice must mention
    "no-initrd": (NO_ROOT, "", "", "no initrd with an executable /init"),
    "no-root-device": (NO_ROOT, "", "", "root device vda1"),
    "init-nonexistent": (NO_ROOT, "", "", "what rdinit= names"),
    "truncated-archive": (NO_ROOT, "", "", "see that it is complete"),
    "truncated-initrd": (NO_ROOT, "", "", "could not unpack its initrd (read error)"),
    "garbage-initrd": (NO_ROOT, "", "", "(invalid magic at start of compressed archive)"),
    "no-clock": (NO_ROOT, "", "", "no initrd"),
    "quiet": (NO_ROOT, "", "", "no initrd"),
    "i386": (NO_ROOT, "", "", "no initrd"),
    "init-exits": ("Attempted to kill init! exitcode=0x00000300", "", "", "with status 3"),
    "survived-oops": ("Attempted to kill init! exitcode=0x00008900", "", "", "killed by SIGKILL"),
    "oops-in-init": (
        "Attempted to kill init! exitcode=0x0000000b",
        "ksys_sync+0x0/0xa0",
        "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
        "an oops of the kernel killed the first program",
    ),
    "sysrq-crash": (SYSRQ, "", "", "SysRq"),
    "panic-waits": (SYSRQ, "", "", "SysRq"),
    "panic-reboots-later": (SYSRQ, "", "", "SysRq"),
    "out-of-memory": ("Out of memory: system-wide panic_on_oom is enabled", "", "", "--memory"),
    "deadlocked-on-memory": ("System is deadlocked on memory", "", "", "--memory"),
    "null-pointer": (
        "Fatal exception",
        "ksys_sync+0x2/0xa0",
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "call trace",
    ),
    "page-fault": (
        "Fatal exception",
        "ksys_sync+0x7/0xa0",
        "BUG: unable to handle page fault for address: ffffffffe0000000",
        "call trace",
    ),
    "invalid-opcode": ("Fatal exception", "ksys_sync+0x0/0xa0", "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI", "oops"),
    "general-protection": (
        "Fatal exception",
        "ksys_sync+0xa/0xa0",
        "general protection fault, probably for non-canonical address 0x8000000000000000: 0000 [#1] PREEMPT SMP NOPTI",
        "oops",
    ),
    "kernel-bug": (
        "Fatal exception",
        "topa_insert_table+0xc4/0xf0",
        "kernel BUG at arch/x86/events/intel/pt.c:717!",
        "oops",
    ),
    "in-interrupt": (
        "Fatal exception in interrupt",
        "scheduler_tick+0x0/0x270",
        "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
        "while it served an interrupt",
    ),
}
CLOCK = re.compile(r"^\[ *\d+\.\d{6}\] ", re.MULTILINE)


def found(lines):
    panic = find_panic(lines)
    assert panic is not None
    return panic


@pytest.mark.parametrize("name", PANICS)
def test_a_real_panic_is_recognised_with_its_place_its_cause_and_what_to_do(name):
    message, rip, cause, wanted = PANICS[name]
    panic = found(CONSOLES[name])
    assert (panic.kind, panic.message, panic.rip) == ("panic", f"Kernel panic - not syncing: {message}", rip)
    assert panic.cause == cause
    assert panic.reason == (cause or message)
    assert panic.is_last
    assert wanted in " ".join(advice(panic))


def test_each_console_is_in_the_table_or_in_a_test_of_its_own():
    assert set(CONSOLES) == {*PANICS, "early-exception", "damaged-image", "xen"}


@pytest.mark.parametrize("name", PANICS)
def test_the_whole_block_is_kept_as_it_was_printed(name):
    console, panic = CONSOLES[name], found(CONSOLES[name])
    start = next(at for at, line in enumerate(console) if (panic.cause or panic.message) in line)
    assert panic.lines[-len(console[start:]) :] == tuple(console[start:])


def test_the_lines_that_led_to_a_panic_are_kept_too():
    lines = "\n".join(found(CONSOLES["truncated-initrd"]).lines)
    assert "Initramfs unpacking failed: read error" in lines
    assert "Kernel command line" not in lines


def test_an_early_exception_tells_where_it_was():
    panic = found(CONSOLES["early-exception"])
    assert (panic.kind, panic.rip, panic.is_last) == ("boot", "init_mem_mapping+0x0/0x30e", True)
    assert panic.message.startswith("PANIC: early exception 0x06 IP 10:ffffffff8306ef1f")
    assert "before the kernel could handle any" in advice(panic)[0]
    assert found(CONSOLES["early-exception"][:13]).rip == "ffffffff8306ef1f"  # an earlier kernel prints no more


def test_a_damaged_image_is_told_by_the_decompressor():
    panic = found(CONSOLES["damaged-image"])
    assert (panic.kind, panic.message, panic.lines[-1], panic.is_last) == (
        "boot",
        "Decoding failed",
        " -- System halted",
        True,
    )
    assert "image is damaged" in advice(panic)[0]


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("XZ-compressed data is corrupt", "image is damaged"),
        ("Out of memory while allocating output buffer", "memory"),
        ("Destination address too large", "gave up"),
    ],
)
def test_other_words_of_the_decompressor(reason, wanted):
    panic = found(["", "Decompressing Linux...", "", reason, "", " -- System halted"])
    assert (panic.kind, panic.message) == ("boot", reason)
    assert wanted in " ".join(advice(panic))


def test_xen_panics_too():
    panic = found(CONSOLES["xen"])
    assert (panic.kind, panic.message) == ("panic", "dom0 kernel not specified. Check bootloader configuration")
    assert panic.is_last
    assert advice(panic) is None


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("No working init found.  Try passing init= option to kernel.", "no first program that it could run"),
        ("Attempted to kill init! exitcode=0x00000004", "SIGILL"),
        ("Attempted to kill init! exitcode=0x00007f00", "a command that was not found"),
        ("IO-APIC + timer doesn't work!  Boot with apic=debug and send a report.", "interrupt 0"),
        ("corrupted stack end detected inside scheduler", "stack overflowed"),
    ],
)
def test_well_known_panics_are_explained(message, wanted):
    assert wanted in " ".join(advice(Panic("panic", f"Kernel panic - not syncing: {message}")))


def test_an_init_that_cannot_be_executed_is_named():
    lines = [
        "Failed to execute /init (error -8)",
        "Kernel panic - not syncing: No working init found.",
        "CPU: 0 PID: 1",
    ]
    assert "(/init: error -8)" in advice(found(lines))[0]


def with_clocks(prefix):
    return lambda text: CLOCK.sub(prefix, text)


@pytest.mark.parametrize(
    "change",
    [
        with_clocks(""),
        with_clocks("<0>[    1.234567] "),
        with_clocks("[    1.234567][    T1] "),
        with_clocks("[    1.234567][  C0] "),
        lambda text: text.replace("\n", "\r\n"),
    ],
    ids=["no clock", "level", "task id", "CPU id", "CR LF"],
)
@pytest.mark.parametrize("name", PANICS)
def test_it_makes_no_difference_what_the_log_puts_before_its_lines(name, change):
    before, after = found(CONSOLES[name]), found(change("\n".join(CONSOLES[name])).split("\n"))
    assert (after.kind, after.message, after.rip, after.cause, after.is_last) == (
        before.kind,
        before.message,
        before.rip,
        before.cause,
        before.is_last,
    )


def test_a_panic_behind_a_prompt_is_one():
    assert found(["guest# [   10.000001] Kernel panic - not syncing: Fatal exception"]).reason == "Fatal exception"


@pytest.mark.parametrize(
    "line",
    [
        "[    0.000000] Kernel command line: console=ttyS0 panic=-1 oops=panic panic_on_oops=1",
        "kernel.panic_on_oops = 1",
        "the docs say: Kernel panic - not syncing: VFS: Unable to mount root fs",
        "Nov  4 16:52:28 host kernel: [    1.809927] Kernel panic - not syncing: Fatal exception",
        "[    3.172885] reboot: System halted",
        "traps: sh[82] general protection fault ip:461189 sp:7ffe error:0",
        "grep -r 'BUG: unable to handle' /var/log",
        "[    1.000000] Out of memory: Killed process 82 (dd)",
    ],
)
def test_a_line_that_mentions_the_words_is_no_panic(line):
    assert find_panic([line]) is None


def test_a_panic_that_somebody_reads_in_a_log_is_not_the_last():
    for after in ("guest# reboot -f", "[    9.000000] reboot: Restarting system", "Linux version 6.1"):
        assert not found([*CONSOLES["no-initrd"], after]).is_last


def test_an_oops_that_the_kernel_survived_is_an_oops():
    console = CONSOLES["survived-oops"]
    (end,) = (at for at, line in enumerate(console) if line == "after the oops")
    panic = found(console[: end + 1])
    assert (panic.kind, panic.rip, panic.is_last) == ("oops", "ksys_sync+0x2/0xa0", False)
    assert panic.message == "BUG: kernel NULL pointer dereference, address: 0000000000000000"
    assert found(console[: end - 1]).is_last


def test_a_message_alone_is_not_complete():
    """Anybody can print a line; the kernel prints more."""
    assert not found(["Kernel panic - not syncing: boo"]).is_last


def test_nothing_is_found_in_nothing():
    assert find_panic([]) is None
    assert find_panic(["", "hello"]) is None


@given(st.sampled_from(sorted(CONSOLES)), st.data())
def test_any_part_of_a_console_can_be_read(name, data):
    console = CONSOLES[name]
    first = data.draw(st.integers(0, len(console)))
    last = data.draw(st.integers(first, len(console)))
    panic = find_panic(console[first:last])
    assert panic is None or set(panic.lines) <= {line.rstrip() for line in console}
    assert panic is None or advice(panic) is None or len(advice(panic)) == 2


@given(st.lists(st.text(max_size=60), max_size=20))
def test_any_lines_can_be_read(lines):
    panic = find_panic(lines)
    assert panic is None or str(panic)


def test_what_a_guest_prints_for_the_terminal_is_escaped_where_it_is_told_again():
    escape = "\x1b]0;title\x07\x1b[2J\u202e"
    panic = find_panic(
        [f"BUG: unable to handle {escape}", f"RIP: 0010:{escape}", f"Kernel panic - not syncing: {escape}"]
    )
    assert panic.cause and panic.rip
    assert all(each.isprintable() for each in (str(panic), panic.message, panic.cause, panic.rip, panic.reason))
    assert "\\x1b[2J" in panic.message
