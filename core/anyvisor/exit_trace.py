"""A trace of every exit, in a file: one line of JSON for each, as it happens.

    {"t":0.103811,"vcpu":0,"kind":"out","port":1016,"size":1,"value":76,"rip":16777317,"device":"serial"}
    {"t":0.103998,"vcpu":0,"kind":"read","address":4276092976,"size":4,"value":327701,"device":"ioapic"}
    {"t":0.104100,"skipped":1871}
    {"t":2.901724,"vcpu":0,"kind":"exit","exit":"Shutdown","words":"triple fault: ..."}

`t` is in seconds since the trace was opened. `kind` is `in`, `out`, `read` or `write` (the latter two are MMIO), or
`exit` for one that ended `Vcpu.run`. `value` is null where the device failed instead of answering; `rip` is missing
where it is not known, and `device` where nobody answered.

Some facts about speed and size. A guest can make hundreds of thousands of exits a second, each a line of 100 bytes, so
a trace has a rate and a limit. Of what comes faster than the rate, some is skipped, and a line says how much. At the
limit a line says so, and behind it come only exits that ended `run`. Lines are made by hand, at a third of the cost of
`json`, and written one by one: what a process had to tell is in the file even if it is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time

from anyvisor.bus import Bus
from anyvisor.closing import Closing
from anyvisor.errors import ConfigError
from anyvisor.flight import CAPACITY, EXIT, IN, OUT, Entry, ExitRing, NotedExit
from anyvisor.private_file import private

PER_SECOND = 10_000
LIMIT_BYTES = 64 << 20


class ExitTrace(Closing):
    """Writes exits to `path`, at most `per_second` of them and `limit_bytes` in all; for `launch(trace_exits=...)`.

    OSError when the file cannot be opened. One that cannot be written to later ends the trace and nothing else: the
    guest goes on, and `error` says what happened. A context manager; close it after the machine.
    """

    def __init__(self, path: os.PathLike[str] | str, *, per_second: float = PER_SECOND, limit_bytes: int = LIMIT_BYTES):
        if not (per_second > 0 and limit_bytes > 0):
            raise ConfigError(f"an exit trace of {per_second} exits a second and {limit_bytes} bytes holds nothing")
        self.path = os.fspath(path)
        self.skipped = 0
        """How many exits were left out, because of the rate, the limit, or an error."""
        self.error: OSError | None = None
        """Why nothing is written any more; None while it is."""
        self._lock = threading.RLock()
        self._began = time.monotonic()
        self._bucket = _Bucket(per_second)
        self._untold = 0
        self._limit_bytes = self._left_bytes = limit_bytes
        self._is_full = False
        self._fd = _open(self.path)

    def ring(self, vcpu: int, bus: Bus, capacity: int = CAPACITY) -> ExitRing:
        """A flight recorder for `vcpu` that writes each exit here, too; `bus` has the names of the devices."""
        return _TracedRing(capacity, self, vcpu, bus)

    def add(self, vcpu: int, entry: Entry, bus: Bus) -> None:
        """Write one exit, or skip it; from any thread."""
        seconds = time.monotonic() - self._began
        ended_run = entry[0] == EXIT
        with self._lock:
            if self._fd < 0 or not (ended_run or (not self._is_full and self._bucket.take(seconds))):
                self._skip()
                return
            if self._untold:
                self._tell_skipped(seconds)
            line = f'{{"t":{seconds:.6f},"vcpu":{vcpu},{_exit(entry) if ended_run else _access(entry, bus)}}}\n'
            if len(line) > self._left_bytes and not ended_run:
                self._reach_limit(seconds)
            else:
                self._write(line)

    def close(self) -> None:
        """Say what was skipped last, and close the file; may be called twice."""
        with self._lock:
            if self._untold:
                self._tell_skipped(time.monotonic() - self._began)
            self._give_back()

    def _skip(self) -> None:
        self.skipped += 1
        self._untold += 1

    def _tell_skipped(self, seconds: float) -> None:
        self._write(f'{{"t":{seconds:.6f},"skipped":{self._untold}}}\n')
        self._untold = 0

    def _reach_limit(self, seconds: float) -> None:
        self._skip()
        self._is_full = True
        self._write(f'{{"t":{seconds:.6f},"limit_bytes":{self._limit_bytes},"words":"the trace is full"}}\n')

    def _write(self, line: str) -> None:
        data = line.encode()
        self._left_bytes -= len(data)
        try:
            while self._fd >= 0 and data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self.error = OSError(error.errno, f"the exit trace ended early: {error.strerror}", self.path)
            self._give_back()

    def _give_back(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # what was written is written
                os.close(fd)


class _Bucket:
    """Tokens that come at a rate, one for each exit that is written; it holds those of one second, and at least one."""

    def __init__(self, per_second: float):
        self._per_second = per_second
        self._tokens = self._room = max(per_second, 1.0)
        self._filled_at = 0.0

    def take(self, seconds: float) -> bool:
        """Take a token, if there is one at that time."""
        if seconds > self._filled_at:
            self._tokens = min(self._tokens + (seconds - self._filled_at) * self._per_second, self._room)
            self._filled_at = seconds
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _TracedRing(ExitRing):
    """Keeps exits as any other, and hands each to the trace."""

    def __init__(self, capacity: int, trace: ExitTrace, vcpu: int, bus: Bus):
        super().__init__(capacity)
        keep, add = self.append, trace.add

        def append(entry: Entry) -> None:
            keep(entry)
            add(vcpu, entry, bus)

        self.append = append


def _open(path: str) -> int:
    """A file to write to, empty, and its owner's only: a trace has all that the guest said and was told."""
    try:
        return private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    except OSError as error:
        raise OSError(error.errno, f"the exit trace cannot be opened: {error.strerror}", path) from error


def _exit(entry: Entry) -> str:
    """What stands in the line of an exit that ended `run`."""
    return json.dumps(NotedExit.of(entry).to_data(), separators=(",", ":"))[1:-1]


def _access(entry: Entry, bus: Bus) -> str:
    """What stands in the line of an access: what `NotedExit.to_data` has, and the device."""
    kind, address, size_bytes, value, rip = entry
    is_port = kind in (IN, OUT)
    answer = "null" if value is None else value
    known_rip = f',"rip":{rip}' if rip else ""
    name = bus.name_at(address, port=is_port)
    device = f',"device":{json.dumps(name)}' if name else ""
    place = "port" if is_port else "address"
    return f'"kind":"{kind}","{place}":{address},"size":{size_bytes},"value":{answer}{known_rip}{device}'
