"""Where a recorder writes: lines in memory, or in a file that is never far behind.

Some facts about speed. A guest makes hundreds of thousands of accesses a second, and each is a line. Adding a line to a
list costs a tenth of writing it, needs no lock, and keeps the order; so that is what recorders do, and a thread takes
the lines to the file a few times a second. A process that is killed loses what came after that.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from anyvisor.facts import HostFacts
from anyvisor.recording.format import encode, header
from anyvisor.recording.trace import Event, Trace

FLUSH_SECONDS = 0.25


class Log:
    """The lines of one trace. `add` takes the line of an event, from any thread; numbers come from `new_subject`."""

    def __init__(self, facts: HostFacts, path: os.PathLike[str] | str | None):
        self._lines = [header(facts)]
        self.add: Callable[[str], None] = self._lines.append
        self._path = path
        self._file: TextIO | None = None
        self._error: OSError | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._subjects = 0
        if path is not None:
            self._file = Path(path).open("w", encoding="utf-8", newline="\n")  # noqa: SIM115 - `close` closes it
            self._thread = threading.Thread(target=self._life, name="recorder", daemon=True)
            self._thread.start()

    def note(self, event: Event) -> None:
        """Add an event."""
        self.add(encode(event))

    def new_subject(self) -> int:
        """The number of a VM or vCPU that was made."""
        with self._lock:
            self._subjects += 1
            return self._subjects

    def trace(self) -> Trace:
        """What was noted so far, as a value."""
        if self._path is None:
            return Trace.from_json("".join(self._lines))
        self.flush()
        return Trace.load(self._path)

    def flush(self) -> None:
        """Take what was noted to the file. The first error ends the recording, and `close` tells it."""
        with self._lock:
            if self._file is None:
                return
            count = len(self._lines)
            data = "".join(self._lines[:count])
            del self._lines[:count]
            try:
                if self._error is None:
                    self._file.write(data)
                    self._file.flush()
            except OSError as error:
                self._error = OSError(error.errno, f"the recording ended early: {error.strerror}", self._path)

    def close(self) -> None:
        """Write the rest; may be called twice. OSError when something could not be written."""
        if self._file is None or self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        self.flush()
        file, self._file = self._file, None
        with contextlib.suppress(OSError):  # it is told below
            file.close()
        if self._error is not None:
            raise self._error

    def _life(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            self.flush()
