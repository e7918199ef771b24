"""What a guest's kernel says on its console when it gives up, recognised.

Some facts about last words. A kernel prints a message, then what it knows: processor, registers, call trace. Linux
closes a panic with `---[ end Kernel panic`, or, where it is told to reboot at once (`panic=-1`), with the line before
that, `Kernel Offset:`. An oops kills one task and need not be the end; one that is leads to a panic, whose message then
says less than the oops does. The decompressor prints its reason, and behind it `-- System halted`. All of it is found
in a log that somebody merely reads, too: what tells the difference is that nothing comes behind it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from anyvisor.section import readable

PANIC, OOPS, BOOT = "panic", "oops", "boot"
PREFIX = "Kernel panic - not syncing: "

_CLOCK = re.compile(r"(?P<before>.*?)\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? (?P<said>.*)")
_LEVEL = re.compile(r"^(?:<\d+>|\(XEN\) ?(?:\[[^\]]*\] )?)")
_OPENINGS = (
    (PANIC, re.compile(r"Kernel panic - not syncing: |Panic on CPU \d+:$")),
    (BOOT, re.compile(r"\s*-- System halted$|PANIC: early exception 0x")),
    (
        OOPS,
        re.compile(
            r"BUG: unable to handle |BUG: kernel NULL pointer |kernel BUG at \S+!$|PANIC: double fault|"
            r".+: [0-9a-f]{4} \[#\d+\]"
        ),
    ),
)
"""How the blocks of each kind begin. The kernel names each exception before `: 0000 [#1]`, error code and count."""
_DETAIL = re.compile(
    r"$|\s|\*{8}|Call Trace|(?:CPU|Hardware name|Code|Stack|Modules linked in|Workqueue|PKRU|EFLAGS|note|#PF):|"
    r"[A-Z]{2,3}: |[RD]\d+: |CR\d: |ORIG_RAX: |\*?p[gmu]d|PGD |.+: [0-9a-f]{4} \[#\d+\]|kernel BUG at |"
    r"---\[ end trace |Fixing recursive fault|Shutting down cpus with NMI"
)
"""What follows the first line of a block."""
_CLOSING = re.compile(
    r"Kernel Offset: |---\[ end Kernel panic|Rebooting in \d+ seconds|Manual reset required|Reboot in five seconds|"
    r"ACPI MEMORY or I/O RESET_REG"
)
_FORERUNNER = re.compile(
    r"Initramfs unpacking failed|rootfs image is not initramfs|VFS: Cannot open root device|Please append a correct|"
    r"Failed to execute |Requested init |Starting init: |check access for rdinit=|Run \S+ as init process|"
    r"sysrq: |Out of memory|\.\.MP-BIOS bug|-+\[ cut here \]|BUG: unable to handle |BUG: kernel NULL pointer "
)
_INSTRUCTION = re.compile(r"(?:RIP: 0010:|EIP: (?:0060:)?|pc : )([^\s\[]\S*)")
_EARLY_IP = re.compile(r"\bIP \w+:([0-9a-f]+)")
CLOSING_LINES = 200
"""How far behind a panic's message its last line may be, and before it an oops that led to it."""
BLOCK_STARTS = 20
"""How many lines of one block may each look like its first."""


@attrs.frozen
class Panic:
    """A kernel's last words. `kind` is `panic`, `oops` or `boot`, `message` the line that says it, without its clock.

    `lines` are all of its lines, as printed, after those that led to it; `rip` is where it happened as the kernel names
    it (`ksys_sync+0x2/0xa0`), empty where it does not say; `cause` the message of the oops that a panic came of.
    `is_last` when it is complete, and nothing was printed behind it. What cannot be printed is escaped in all
    but `lines`.
    """

    kind: str
    message: str = attrs.field(converter=readable)
    lines: tuple[str, ...] = ()
    rip: str = attrs.field(default="", converter=readable)
    cause: str = attrs.field(default="", converter=readable)
    is_last: bool = False

    @property
    def reason(self) -> str:
        """The message without the words that every panic begins with; that of the oops where there was one."""
        return self.cause or self.message.removeprefix(PREFIX)

    def __str__(self) -> str:
        verb = {PANIC: "panicked", OOPS: "failed (an oops)"}.get(self.kind, "gave up while it was starting")
        return f"the guest's kernel {verb}: {self.reason}{f', at {self.rip}' if self.rip else ''}"


def find_panic(lines: Sequence[str]) -> Panic | None:
    """The last panic in a console's output, with the oops that led to it; else the last oops. None without any.

    Lines may have clocks, levels and caller ids before them, or none. Only lines that begin with the kernel's words
    count: a command line or a log that mentions them does not.
    """
    said = [_said(line) for line in lines]
    starts = [(at, kind) for at, line in enumerate(said) if (kind := _opening(line))]
    if not starts:
        return None
    last, _ = starts[-1]
    around = [(at, kind) for at, kind in starts[-BLOCK_STARTS:] if _end(said, at) > last]
    at, kind = next((each for each in around if each[1] != OOPS), around[0])
    return _panic(lines, said, at, kind)


def _panic(lines: Sequence[str], said: Sequence[str], at: int, kind: str) -> Panic:
    end = _end(said, at)
    begin = _oops_before(said, at) if kind == PANIC else at
    cause = said[begin] if begin < at else ""
    if kind == BOOT and said[at].strip().startswith("--"):
        begin = at = _before(said, at)
    forerunners = [each for each in range(begin) if _FORERUNNER.match(said[each])]
    block = range(begin, end)
    return Panic(
        kind=kind,
        message=_message(said, at),
        lines=tuple(lines[each].rstrip() for each in (*forerunners, *block)),
        rip=_rip(said[begin:end]),
        cause=cause,
        is_last=_is_complete(kind, said[at:end]) and not any(each.strip() for each in said[end:]),
    )


def _said(line: str) -> str:
    """A line of the log without level and clock; behind a prompt, what is behind the clock."""
    line = _LEVEL.sub("", line.rstrip())
    clock = _CLOCK.match(line)
    return clock["said"] if clock and not clock["before"].endswith("kernel: ") else line


def _opening(line: str) -> str:
    """The kind of last words that begin with this line; empty for any other line."""
    return next((kind for kind, pattern in _OPENINGS if pattern.match(line)), "")


def _message(said: Sequence[str], at: int) -> str:
    """The line that says what happened; Xen's is the one after."""
    if said[at].startswith("Panic on CPU") and at + 1 < len(said):
        return said[at + 1]
    return said[at].strip()


def _before(said: Sequence[str], at: int) -> int:
    """The last line before that is not empty: the decompressor's reason."""
    return next((each for each in range(at - 1, -1, -1) if said[each].strip()), at)


def _end(said: Sequence[str], at: int) -> int:
    """The index behind the last line of a block that begins there."""
    end = at + 1
    if said[at].startswith("Panic on CPU"):
        end = min(at + 2, len(said))
    elif said[at].startswith(PREFIX):
        closing = (each for each in range(at, min(at + CLOSING_LINES, len(said))) if _CLOSING.match(said[each]))
        end = next(closing, at) + 1
    while end < len(said) and (_DETAIL.match(said[end]) or _CLOSING.match(said[end])):
        end += 1
    return end


def _oops_before(said: Sequence[str], at: int) -> int:
    """Where the oops begins whose block ends where a panic's begins; the panic itself where there is none."""
    near = range(max(0, at - CLOSING_LINES), at)
    starts = (each for each in near if _opening(said[each]) == OOPS and _end(said, each) >= at)
    return next(starts, at)


def _rip(block: Sequence[str]) -> str:
    """Where in the kernel it happened."""
    for pattern in (_INSTRUCTION, _EARLY_IP):
        if found := next(filter(None, map(pattern.search, block)), None):
            return found[1]
    return ""


def _is_complete(kind: str, block: Sequence[str]) -> bool:
    """Whether a block has what follows a message of the kernel's own."""
    if kind == BOOT or block[0].startswith("Panic on CPU"):
        return True
    return any(line.startswith("CPU: ") or _CLOSING.match(line) for line in block[1:])
