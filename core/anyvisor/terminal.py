"""The user's terminal while it is a guest's console: raw, and certain to be as it was afterwards; and the
escape key.

Some facts about terminals (termios(3), termio(7)). A terminal is cooked by default: it gathers lines,
echoes what is typed, and turns Ctrl-C into a signal. A guest does all that itself, so its console wants
every key at once, and every byte shown as it is: a terminal that makes CR LF of a guest's LF spoils what
full-screen programs draw. The mode belongs to the terminal and not to the process: whoever leaves it raw
leaves the user's shell broken.

Nothing of this exists on Windows; the modules for it are imported when a terminal is made raw.
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

ESCAPE = 0x01
"""Ctrl-A, the key that QEMU's users know."""
ESCAPE_HELP = (
    "Ctrl-A h  this help",
    "Ctrl-A i  show registers, page walk and last exits; the guest goes on",
    "Ctrl-A x  end the machine",
    "Ctrl-A a  send Ctrl-A itself; so does Ctrl-A Ctrl-A",
)


class Key(enum.Enum):
    """What a sequence that begins with the escape key asks for."""

    QUIT = "quit"
    HELP = "help"
    INSPECT = "inspect"


KEYS = {ord(each): key for each, key in (("x", Key.QUIT), ("h", Key.HELP), ("i", Key.INSPECT))}


class EscapeKeys:
    """Tells what is meant for the guest from what is meant for us, across reads.

    >>> list(EscapeKeys().feed(b"ls\\x01\\x01\\x01x"))
    [b'ls\\x01', <Key.QUIT: 'quit'>]
    """

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, typed: bytes) -> Iterator[bytes | Key]:
        """What was typed, in order: bytes for the guest, keys for us. Other keys after Ctrl-A go."""
        for_guest = bytearray()
        for each in typed:
            if not self._escaped and each == ESCAPE:
                self._escaped = True
            elif not self._escaped or each in (ESCAPE, ord("a")):
                for_guest.append(ESCAPE if self._escaped else each)
                self._escaped = False
            else:
                self._escaped = False
                if key := KEYS.get(each):
                    if for_guest:
                        yield bytes(for_guest)
                        for_guest.clear()
                    yield key
        if for_guest:
            yield bytes(for_guest)


class RawTerminal:
    """A terminal in raw mode, as a context manager: `with RawTerminal(0)`; no effect on what is no terminal.

    `restore` puts it back as it was; leaving the block does so, and so does the interpreter's end. While the
    process is suspended from outside (SIGTSTP) the terminal is as it was, and raw again when it goes on.
    """

    def __init__(self, fd: int):
        self.fd = fd
        self.raw = False
        self._before: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if os.isatty(self.fd):
            import termios  # noqa: PLC0415 - Windows has none

            self._before = termios.tcgetattr(self.fd)
            atexit.register(self.restore)
            self._make_raw()
            self._watch_suspension()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        self.restore()
        atexit.unregister(self.restore)

    def restore(self) -> None:
        """Put the terminal back as it was; may be called at any time, and again."""
        if self.raw:
            self._set(self._before)
            self.raw = False

    def _make_raw(self) -> None:
        self.raw = True
        self._set(_raw(self._before))

    def _set(self, modes: list[Any]) -> None:
        """Set the terminal's modes at once: output may never drain. A terminal that is gone stays gone."""
        import termios  # noqa: PLC0415

        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(self.fd, termios.TCSANOW, modes)

    def _watch_suspension(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
            self._handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._go_on)

    def _suspend(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.restore()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _go_on(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Raw again, if in the foreground: the terminal would stop us for touching it from the background."""
        with contextlib.suppress(OSError):
            if os.tcgetpgrp(self.fd) == os.getpgrp():
                self._make_raw()


def _raw(modes: list[Any]) -> list[Any]:
    """The modes of a raw terminal: every key as it is, at once, no echo, and every byte shown as it is."""
    import termios  # noqa: PLC0415

    iflag, oflag, cflag, lflag, input_speed, output_speed, characters = modes
    iflag &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
    iflag &= ~(termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
    oflag &= ~termios.OPOST
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    characters = list(characters)
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, input_speed, output_speed, characters]
