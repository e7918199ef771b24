"""Python's signal handlers, while the main thread runs a vCPU.

Some facts about them. The handler in C that a signal meets only notes that it came; Python looks at that note between
two of its instructions, and calls the handler in Python. A signal that comes behind the last look and before KVM_RUN is
inside is noted, and interrupts nothing: with a guest that spins, Ctrl-C would do nothing for ever. But the handler in C
also writes a byte to the descriptor that `signal.set_wakeup_fd` was given, and a pipe can be told to send a signal of
choice to one thread when it has something to read (O_ASYNC, F_SETSIG, F_SETOWN_EX; fcntl(2)). The kick signal is
blocked but for the inside of KVM_RUN, so it stays pending until it can interrupt that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import threading

from anyvisor.errors import HypervisorError

F_SETOWN_EX = 15
F_OWNER_TID = 0
"""Linux's own; the fcntl module does not have them."""
MOST_BYTES = 4096


class Wakeup:
    """From here to `close`, a signal that Python handles brings the main thread `kick_signal` as well.

    HypervisorError when the process may have no more descriptors.
    """

    def __init__(self, kick_signal: int):
        try:
            self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise HypervisorError("pipe2", error.errno or 0, "to hear of signals") from error
        fcntl.fcntl(self._read, fcntl.F_SETSIG, kick_signal)
        fcntl.fcntl(self._read, F_SETOWN_EX, struct.pack("ii", F_OWNER_TID, threading.get_native_id()))
        fcntl.fcntl(self._read, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def close(self) -> None:
        """Give the pipe back; who had the wakeup descriptor before has it again, and hears of what came meanwhile."""
        signal.set_wakeup_fd(self._before)
        with contextlib.suppress(OSError):
            came = os.read(self._read, MOST_BYTES)
            if self._before >= 0:
                os.write(self._before, came)
        os.close(self._read)
        os.close(self._write)
