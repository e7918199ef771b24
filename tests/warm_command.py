"""`anyvisor` in processes that begin warm: each is forked from one that has imported what commands need.

A process of its own spends most of its time on imports, and the tests start hundreds. Such a child has its own
arguments, environment, directory, streams and exit code, imports plugins for itself, and ends as any interpreter does.
What a child cannot show is how a process starts: what Python reads from the environment, what is imported when.

`python tests/warm_command.py FD` is the process that is forked; FD leads to who asks.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from anyvisor.closing import Closing

PACKAGES = ("anyvisor", "anyvisor_kvm", "anyvisor_unicorn", "anyvisor_mock", "anyvisor_linux", "anyvisor_multiboot",
            "anyvisor_pvh", "anyvisor_raw", "anyvisor_pc")  # fmt: skip
LEFT_OUT = ("anyvisor.testing.", "anyvisor.__main__")  # pytest rewrites the suite when it is imported
OTHERS = ("pytest", "hypothesis.strategies", "rich.table")
MESSAGE_BYTES = 1 << 17
STREAMS = 3
FAR_FD = 256


class WarmCommand(Closing):
    """The process that is forked, as seen by tests. A context manager; close is idempotent."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fd = theirs.fileno()
            self._process = subprocess.Popen([sys.executable, __file__, str(fd)], pass_fds=[fd])

    def close(self) -> None:
        """End the process; children have ended by then, or are killed."""
        self._channel.close()
        self._process.wait(30)

    def run(
        self,
        arguments: Sequence[object],
        stdin: bytes = b"",
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        merge: bool = False,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; with `merge`, stderr goes where stdout does. TimeoutError when it takes longer."""
        words = [str(each) for each in arguments]
        request = {
            "arguments": words,
            "environment": dict(os.environ if env is None else env),
            "directory": str(Path.cwd() if cwd is None else cwd),
        }
        (typed, typing), (shown, out), (told, err) = (os.pipe() for _ in range(STREAMS))
        try:
            socket.send_fds(self._channel, [json.dumps(request).encode()], [typed, out, out if merge else err])
            child = int(self._channel.recv(MESSAGE_BYTES))
        finally:
            for fd in (typed, out, err):
                os.close(fd)
        with os.fdopen(typing, "wb", 0) as keyboard, ThreadPoolExecutor(2) as pool:
            streams = [pool.submit(read_all, each) for each in (shown, told)]
            with contextlib.suppress(BrokenPipeError):
                keyboard.write(stdin)
            keyboard.close()
            self._channel.settimeout(timeout)
            try:
                code = int(self._channel.recv(MESSAGE_BYTES))
            except BaseException:
                os.kill(child, signal.SIGKILL)  # its streams end, and so do those who read them
                raise
            return subprocess.CompletedProcess(words, code, *(each.result() for each in streams))


def read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as stream:
        return stream.read()


# -- the process that is forked ----------------------------------------------------------------------------------------


def warm_up() -> None:
    """Import all that commands may."""
    within = [
        each.name
        for package in map(importlib.import_module, PACKAGES)
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    for name in (*within, *OTHERS):
        if not name.startswith(LEFT_OUT):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(name)
    gc.freeze()


def serve(channel: socket.socket) -> None:
    """Fork a child for each request, and tell its number and how it ended. Returns in children only."""
    while True:
        message, fds, *_ = socket.recv_fds(channel, MESSAGE_BYTES, STREAMS)
        if not message:
            sys.exit()
        child = os.fork()
        if not child:
            become(json.loads(message), fds)
            return
        for fd in fds:
            os.close(fd)
        channel.send(str(child).encode())
        channel.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def become(request: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Have the arguments, environment, directory and streams of the request, and nothing else that is open."""
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    os.closerange(STREAMS, FAR_FD)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.argv = ["anyvisor", *request["arguments"]]
    sys.path[:1] = [request["directory"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.modules.pop("sitecustomize", None)
    with contextlib.suppress(ImportError):
        importlib.import_module("sitecustomize")  # as an interpreter does when it starts


if __name__ == "__main__":
    asked = socket.socket(fileno=int(sys.argv[1]))
    warm_up()
    serve(asked)
    asked.detach()
    importlib.import_module("anyvisor.cli").main()
