"""Passing console output on to a file or function, by a thread that may be blocked as long as it likes.

Some facts about blocked readers. Nobody may read the pipe that stdout is, for ever. The guest must not stop
for that, memory must not grow, and the process must still be able to end. So a tee has no buffer of its own:
it reads from the console's, which is bounded, and tells how much it missed. A file with a descriptor is
written to through that descriptor, when it has room: a thread stuck inside `sys.stdout.buffer.write` would
hold a lock that the interpreter wants at exit.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from anyvisor.errors import ConfigError

if TYPE_CHECKING:
    from anyvisor.console import Console

Sink = Callable[[bytes], object] | BinaryIO

GATHER_SECONDS = 0.005
"""How long output is gathered before it is passed on: guests write byte by byte."""
GRACE_SECONDS = 1.0
"""How long `close` waits for a slow sink to take the rest."""
PIECE_BYTES = 512
"""The most given to a descriptor at once: no more than POSIX lets a writable pipe refuse."""
POLL_MILLISECONDS = 100
WAKE_SECONDS = 0.02


class Tee:
    """A thread that passes a console's output on, in order; made by `Console.tee`.

    `missed_bytes` counts what a slow sink missed. `error` is what ended it early: an exception of the sink,
    else None.
    """

    def __init__(self, console: Console, sink: Sink):
        self.missed_bytes = 0
        self.error: Exception | None = None
        self._console = console
        self._fd = _descriptor(sink)
        self._put = self._put_descriptor if self._fd >= 0 else _writer(sink)
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"tee of {console.name}", daemon=True)

    def start(self) -> None:
        """Begin with the oldest output that is kept."""
        self._thread.start()

    def close(self) -> None:
        """Pass on what is left, for at most a second, and end the thread. May be called twice.

        A thread stuck inside a function that never returns cannot be ended; it is left behind, and dies with
        the process.
        """
        if self._deadline is None:
            self._deadline = time.monotonic() + GRACE_SECONDS
        latest = self._deadline + 2 * POLL_MILLISECONDS / 1000
        while self.running and self._thread is not threading.current_thread() and time.monotonic() < latest:
            self._console.wake()
            self._thread.join(WAKE_SECONDS)

    @property
    def running(self) -> bool:
        """Whether the thread is still there."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._pass_on()
        except Exception as error:  # noqa: BLE001 - whatever a sink raises ends this tee and nothing else
            self.error = error
        finally:
            if self._fd >= 0:
                os.close(self._fd)

    def _pass_on(self) -> None:
        since = self._console.dropped_bytes
        while True:
            closing = self._deadline is not None or bool(self._console.closed)
            data, end = self._console.read_output(since)
            if missed := end - since - len(data):
                self.missed_bytes += missed
                data = _notice(missed) + data
            if data:
                self._put(data)
            elif closing:
                return
            else:
                self._console.wait_output(end)
                time.sleep(GATHER_SECONDS)
            since = end

    def _put_descriptor(self, data: bytes) -> None:
        rest = memoryview(data)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while rest:
            if poll.poll(POLL_MILLISECONDS):
                rest = rest[_write_some(self._fd, rest[:PIECE_BYTES]) :]
            elif self._deadline is not None and time.monotonic() > self._deadline:
                raise TimeoutError(
                    f"the sink did not take the last {len(rest)} byte(s) of console {self._console.name}"
                )


def _write_some(fd: int, piece: memoryview) -> int:
    try:
        return os.write(fd, piece)
    except BlockingIOError:
        return 0


def _descriptor(sink: Sink) -> int:
    """A descriptor of our own for the sink's file; -1 when it has none or this system cannot wait for it."""
    fileno, flush = getattr(sink, "fileno", None), getattr(sink, "flush", None)
    if fileno is None or flush is None or not hasattr(select, "poll"):
        return -1
    try:
        flush()
        return os.dup(fileno())
    except (OSError, ValueError):
        return -1


def _writer(sink: Sink) -> Callable[[bytes], object]:
    write = getattr(sink, "write", sink)
    if not callable(write):
        raise ConfigError(f"{sink!r} cannot be a console's sink; give a binary file or a function taking bytes")
    return write


def _notice(missed: int) -> bytes:
    return f"\r\n[anyvisor: {missed} bytes of output are missing here: the reader was too slow]\r\n".encode()
