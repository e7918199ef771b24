"""A pseudo-terminal with the command line, or any program, on its far end."""

import contextlib
import os
import select
import subprocess
import sys
import termios
import time

TIMEOUT = 20


class Terminal:
    """The near end of a new pseudo-terminal; `modes` are those of the terminal a user would see."""

    def __init__(self):
        self.near, self.far = os.openpty()
        self.shown = b""
        self.process = None

    @property
    def modes(self):
        return termios.tcgetattr(self.far)

    @property
    def is_raw(self):
        lflag = self.modes[3]
        return not lflag & (termios.ECHO | termios.ICANON | termios.ISIG)

    def start(self, command, **options):
        """Run a program in a session of its own, this being its controlling terminal and its streams."""
        wrapper = (
            "import fcntl, os, sys, termios\n"
            "os.setsid()\n"
            "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        streams = {"stdin": self.far, "stdout": self.far, "stderr": self.far}
        self.process = subprocess.Popen([sys.executable, "-c", wrapper, *command], **{**streams, **options})
        return self.process

    def type(self, keys):
        os.write(self.near, keys)

    def wait_for(self, text, timeout=TIMEOUT):
        """Read what is shown until `text` is in it; everything shown so far."""
        self.wait_until(lambda: text in self.shown, f"{text!r} was not shown", timeout)
        return self.shown

    def wait_until(self, condition, complaint, timeout=TIMEOUT):
        deadline = time.monotonic() + timeout
        while not condition():
            ended = self.process and self.process.poll() is not None
            self.read_some()
            late = ended or time.monotonic() > deadline
            assert not late or condition(), f"{complaint}, only {self.shown.decode(errors='replace')}"

    def read_some(self):
        if select.select([self.near], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):
                self.shown += os.read(self.near, 65536)

    def wait(self, timeout=TIMEOUT):
        """The exit code of the program, once it has ended; what it shows meanwhile is read."""
        deadline = time.monotonic() + timeout
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, (
                f"the program has not ended; it showed {self.shown.decode(errors='replace')}"
            )
            self.read_some()
        self.read_some()
        return code

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.near, self.far):
            with contextlib.suppress(OSError):
                os.close(fd)
