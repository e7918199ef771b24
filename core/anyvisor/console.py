"""The console: the host's end of a guest's serial line.

    machine.console.expect("login: ")
    machine.console.write("root\\n")

Some facts about bounds. The guest decides how much it prints, so output is kept in a buffer of fixed size:
the oldest bytes go first, and are counted. Every byte has an absolute offset, from 0 at power-on, which stays
true when older ones are gone. The host decides how much it types, so input waits in a queue of fixed size,
and `write` waits for the guest to read.

Some facts about speed. A UART is written byte by byte, so `output` is called for each. It appends under a
lock, and wakes somebody only if somebody waits; who waits is woken once and then looks at all that came in
the meantime.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anyvisor.errors import ExpectError
from anyvisor.memory import KIB, MIB

if TYPE_CHECKING:
    from anyvisor.tee import Sink, Tee

Pattern = str | bytes | re.Pattern[str] | re.Pattern[bytes]

OUTPUT_BYTES = 1 * MIB
INPUT_BYTES = 64 * KIB
PAUSE_SECONDS = 0.005
"""How long `expect` lets output gather before it looks again: each look takes the interpreter from the vCPUs."""
ERROR_LINES = 20
ERROR_BYTES = 4 * KIB
"""How much of the last output an error message may show."""


class Console:
    """A serial line of the guest, as the host sees it. All methods may be called from any thread.

    Methods for the host: `expect`, `write`, `text`, `last_lines`, `read_output`, `tee`. For the device:
    `output`, `take_input`, `on_input`. At most `output_bytes` of output are kept and at most `input_bytes` of
    input wait.
    """

    def __init__(self, name: str = "console", *, output_bytes: int = OUTPUT_BYTES, input_bytes: int = INPUT_BYTES):
        self.name = name
        self.closed = ""
        """Why the console was closed; empty while it is open."""
        self.flow_control = False
        """Whether input waits until somebody in the guest listens. Without it, it comes as it is typed, and a driver
        that has yet to begin throws it away, as one does on a real port. To be set before anything is written."""
        self._lock = threading.Lock()
        self._output_came = threading.Condition(self._lock)
        self._input_went = threading.Condition(self._lock)
        self._output_bytes = output_bytes
        self._input_bytes = input_bytes
        self._kept = bytearray()
        self._dropped = 0
        self._awaited = False
        self._expected = 0
        self._input = bytearray()
        self._notify_device: Callable[[], None] | None = None
        self._tees: list[Tee] = []

    # -- for the host ----------------------------------------------------------------------------------------

    def expect(self, pattern: Pattern, timeout: float | None = 60.0) -> re.Match[Any]:
        """Wait until the guest has printed `pattern`, and return the match.

        Text and bytes are searched for as they are; give `re.compile(...)` for a regular expression. The
        search starts where the last match ended, so calls follow the conversation. `timeout` is in seconds;
        None waits as long as the machine lives. In text, bytes that are not UTF-8 appear as lone surrogates.

        Raises ExpectError, with the last lines, when the time is over or the machine has stopped.
        """
        regex, literal_bytes = _compiled(pattern)
        deadline = _deadline(timeout)
        since = self._expected
        while True:
            closed, began = self.closed, time.monotonic()
            data, end = self.read_output(since)
            if match := self._search(regex, data, end - len(data)):
                return match
            if closed:
                raise ExpectError(self._complaint(pattern, f"the machine stopped: {closed}"))
            if (now := time.monotonic()) >= deadline:
                raise ExpectError(self._complaint(pattern, f"{timeout:g} s are over"))
            if literal_bytes:
                since = max(since, end - literal_bytes + 1)
            self.wait_output(end, _left(deadline))
            time.sleep(min(max(2 * (now - began), PAUSE_SECONDS), _left(deadline)))

    def write(self, data: str | bytes, timeout: float | None = None) -> None:
        """Type `data`: wait until all of it is queued for the guest.

        Raises ExpectError when `timeout` seconds are over, or the machine has stopped, and the guest has left
        no room for the rest; what was queued until then stays queued.
        """
        rest = memoryview(data.encode() if isinstance(data, str) else bytes(data))
        deadline = _deadline(timeout)
        while rest:
            with self._lock:
                if not (room := self._wait_room(deadline)):
                    raise ExpectError(self._refusal(len(rest), timeout))
                self._input += rest[:room]
                notify = self._notify_device
            rest = rest[room:]
            if notify:
                notify()

    @property
    def text(self) -> str:
        """All output that is kept, as text."""
        return self.read_output(0)[0].decode("utf-8", "replace")

    def last_lines(self, count: int = ERROR_LINES) -> list[str]:
        """The last lines of output, fit to be shown: 4 KiB at most, control characters written as escapes."""
        data, _ = self.read_output(max(0, self.end - ERROR_BYTES))
        lines = data.decode("utf-8", "replace").replace("\r", "").rstrip("\n").split("\n")
        return [_printable(line) for line in lines[-count:]]

    def read_output(self, since: int = 0) -> tuple[bytes, int]:
        """The output from offset `since` on, and the offset to go on from.

        Where output was dropped in between, the bytes are fewer than the offsets between `since` and the end.
        """
        with self._lock:
            start = max(since - self._dropped, 0)
            return bytes(self._kept[start:]), self._dropped + len(self._kept)

    @property
    def end(self) -> int:
        """How many bytes the guest has printed: the offset of the next one."""
        with self._lock:
            return self._dropped + len(self._kept)

    @property
    def dropped_bytes(self) -> int:
        """How many of the oldest bytes of output are not kept any more."""
        return self._dropped

    def tee(self, sink: Sink) -> Tee:
        """Pass all output on, from the oldest kept byte, to a binary file or a function taking bytes.

        A thread of its own does it, so a sink that blocks stops nobody else: when it goes on it is told, in a
        line of its own, how much it missed. `Tee.close` ends it, and so does the console's end.
        """
        from anyvisor.tee import Tee  # noqa: PLC0415 - only here are threads needed

        tee = Tee(self, sink)
        self._tees.append(tee)
        tee.start()
        return tee

    def wait_output(self, since: int, timeout: float | None = None) -> None:
        """Wait for output beyond offset `since`, for the console's end, or for `timeout` seconds.

        May return early: look again.
        """
        with self._lock:
            if self._dropped + len(self._kept) <= since and not self.closed:
                self._awaited = True
                self._output_came.wait(timeout)

    def wake(self) -> None:
        """Let everyone in `wait_output` return."""
        with self._lock:
            self._output_came.notify_all()

    def close(self, reason: str = "closed") -> None:
        """The machine has ended: tell who waits, and why. Output stays readable. May be called twice."""
        with self._lock:
            self.closed = self.closed or reason or "closed"
            self._output_came.notify_all()
            self._input_went.notify_all()
        while self._tees:
            self._tees.pop().close()

    # -- for the device --------------------------------------------------------------------------------------

    def output(self, data: bytes) -> None:
        """The guest printed `data`."""
        with self._lock:
            self._kept += data
            if len(self._kept) > self._output_bytes:
                self._drop()
            if self._awaited:
                self._awaited = False
                self._output_came.notify_all()

    def take_input(self, max_bytes: int) -> bytes:
        """Up to `max_bytes` of what the host typed, oldest first; empty when there is nothing."""
        if not self._input:
            return b""
        with self._lock:
            taken = bytes(self._input[:max_bytes])
            del self._input[:max_bytes]
            self._input_went.notify_all()
            return taken

    def on_input(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` whenever input was queued, from the thread that wrote it, with no lock held."""
        with self._lock:
            self._notify_device = callback

    # -- inside ----------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        """Forget the oldest output, an eighth of the room at a time."""
        count = len(self._kept) - self._output_bytes * 7 // 8
        del self._kept[:count]
        self._dropped += count

    def _wait_room(self, deadline: float) -> int:
        """How many bytes of input fit, once any do; 0 when the console is closed or the time is over."""
        while not self.closed and len(self._input) >= self._input_bytes:
            if time.monotonic() >= deadline:
                return 0
            self._input_went.wait(_left(deadline))
        return 0 if self.closed else self._input_bytes - len(self._input)

    def _search(self, regex: re.Pattern[Any], data: bytes, start: int) -> re.Match[Any] | None:
        """The first match in `data`, which begins at offset `start`; the next search begins after it."""
        searched = data if isinstance(regex.pattern, bytes) else data.decode("utf-8", "surrogateescape")
        if match := regex.search(searched):
            passed = searched[: match.end()]
            self._expected = start + len(
                passed.encode("utf-8", "surrogateescape") if isinstance(passed, str) else passed
            )
        return match

    def _complaint(self, pattern: Pattern, cause: str) -> str:
        wanted = _printable(f"/{pattern.pattern}/" if isinstance(pattern, re.Pattern) else repr(pattern))  # type: ignore[str-bytes-safe]
        waited = f"console {self.name}: waited for {wanted}, but {cause}"
        if not self.end:
            hint = "" if self.closed else ": is it on the command line, as in console=ttyS0?"
            return f"{waited}; nothing was ever printed{hint}"
        return "\n  | ".join([f"{waited}; its last lines:", *self.last_lines()])

    def _refusal(self, size_bytes: int, timeout: float | None) -> str:
        rest = f"console {self.name}: {size_bytes} byte(s) could not be typed"
        if self.closed:
            return f"{rest}: the machine stopped: {self.closed}"
        return f"{rest} in {timeout:g} s: the guest does not read and the queue is full; wait for a prompt"


def _compiled(pattern: Pattern) -> tuple[re.Pattern[Any], int]:
    """The pattern as a regular expression, and its length in bytes if it is a literal, else 0."""
    if isinstance(pattern, re.Pattern):
        return pattern, 0
    if isinstance(pattern, bytes):
        return re.compile(re.escape(pattern)), len(pattern)
    return re.compile(re.escape(pattern)), len(pattern.encode("utf-8", "surrogateescape"))


def _deadline(timeout: float | None) -> float:
    return math.inf if timeout is None else time.monotonic() + timeout


def _left(deadline: float) -> float:
    return min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() or each == "\t" else repr(each)[1:-1] for each in text)
