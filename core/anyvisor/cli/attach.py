"""A guest's console on our own stdin and stdout.

Some facts about threads. The main thread waits for the machine, so that signals reach somebody who can act.
A thread reads stdin and types into the console, whose bounded queue makes it wait: nothing is read that
nobody has room for. Another, the console's tee, writes to stdout. Either may be stuck for as long as the
other side likes, and neither stops the guest.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import sys
import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from anyvisor.cli.streams import descriptor, say, tell
from anyvisor.errors import AnyvisorError, ExpectError
from anyvisor.terminal import ESCAPE_HELP, EscapeKeys, Key, RawTerminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anyvisor.console import Console

READ_BYTES = 4096
PATIENCE_SECONDS = 1.0
"""How long keys wait for a guest that takes none; then they go: the escape key may be behind them."""
POLL_SECONDS = 0.02


class Attachment:
    """A console attached to stdin and stdout. A context manager; leaving it restores the terminal.

    `end` is called, with the reason in a word, when the user wants the machine to end: `quit` by the escape
    key, `unread` when nobody reads stdout any more. It may be called from any thread. `inspect` gives the page
    that the key for it shows.
    """

    def __init__(self, console: Console, end: Callable[[str], None], inspect: Callable[[], object]):
        self._console = console
        self._end = end
        self._inspect = inspect
        self._stack = ExitStack()
        self._patience = PATIENCE_SECONDS
        self._input = descriptor(sys.stdin)
        self._output = descriptor(sys.stdout)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._output >= 0:
                sys.stdout.flush()
                self._tee = self._console.tee(self._write)
                stack.callback(self._tee.close)
            if self._input >= 0:
                self._read_input(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def drain(self, deadline: float | None = None) -> None:
        """Wait until stdout has all that the guest printed, or until `deadline` (monotonic)."""
        while self._output >= 0 and self._tee.running and (deadline is None or time.monotonic() < deadline):
            time.sleep(POLL_SECONDS)

    @property
    def lost(self) -> OSError | None:
        """What went wrong with writing to stdout, other than that nobody reads it; None when nothing did."""
        error = self._tee.error if self._output >= 0 else None
        if not isinstance(error, OSError) or isinstance(error, BrokenPipeError):
            return None
        return OSError(error.errno, error.strerror, "standard output")

    def _read_input(self, stack: ExitStack) -> None:
        if os.isatty(self._input):
            say("the guest's console is this terminal: Ctrl-A x ends the machine, Ctrl-A h helps")
        terminal = stack.enter_context(RawTerminal(self._input))
        self._console.flow_control = not terminal.raw
        detached, detach = os.pipe()
        type_ = functools.partial(self._press, EscapeKeys()) if terminal.raw else self._console.write
        thread = threading.Thread(target=self._pump, args=(detached, type_), name="stdin", daemon=True)
        thread.start()
        stack.callback(thread.join, 2 * PATIENCE_SECONDS if terminal.raw else 0)
        stack.callback(os.close, detach)

    def _pump(self, detached: int, type_: Callable[[bytes], None]) -> None:
        """The thread that types: until the end of stdin, of the machine, or of the attachment."""
        with open(detached, "rb"), contextlib.suppress(OSError, ExpectError):
            while detached not in select.select([self._input, detached], [], [])[0]:
                typed = os.read(self._input, READ_BYTES)
                if not typed:
                    return
                type_(typed)

    def _press(self, keys: EscapeKeys, typed: bytes) -> None:
        """What was typed on a terminal: some of it may be meant for us."""
        for part in keys.feed(typed):
            if part is Key.QUIT:
                self._end("quit")
            elif part is Key.HELP:
                _show(ESCAPE_HELP)
            elif part is Key.INSPECT:
                _show(self._page().splitlines())
            elif isinstance(part, bytes):
                self._type(part)

    def _page(self) -> str:
        """What there is to see of the guest; why not, where there is nothing."""
        try:
            return str(self._inspect())
        except AnyvisorError as error:
            return f"anyvisor: error: {error}"

    def _type(self, keys: bytes) -> None:
        """Type, and drop what a guest that reads nothing has no room for; ExpectError when it has ended."""
        try:
            self._console.write(keys, timeout=self._patience)
            self._patience = PATIENCE_SECONDS
        except ExpectError:
            if self._console.closed:
                raise
            self._patience = 0.0

    def _write(self, data: bytes) -> None:
        """Give stdout the guest's output, waiting as long as it takes; BrokenPipeError ends the machine."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._output, rest) :]
            except BlockingIOError:
                select.select([], [self._output], [])
            except BrokenPipeError:
                self._end("unread")
                raise


def _show(lines: Iterable[str]) -> None:
    """Lines of our own on a raw terminal, which wants CR and LF at the end of each."""
    tell("".join(f"\r\n{line}" for line in (*lines, "")), newline=False)
