"""Watching a backend at work: calls that may never return, and what a process holds of its host.

A broken backend hangs, and a hanging test says nothing. So whatever may not come back runs in a thread of its own, with
a time limit; one that is over is a failure that says what was waited for. The thread is left behind.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
import pytest

T = TypeVar("T")

PATIENCE_SECONDS = 10.0
"""How long anything may take that should take no time: the host may be busy."""

ROOM_BYTES = 16 << 20
"""How much more address space a process may need for no particular reason."""


class Underway(Generic[T]):
    """A call that runs in a thread of its own: `result()` waits for it."""

    def __init__(self, call: Callable[[], T], what: str):
        self._call = call
        self._what = what
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=what, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._found.append(self._call())
        except BaseException as error:  # noqa: BLE001 - handed to who waits
            self._error = error

    def is_over(self, seconds: float) -> bool:
        """Wait at most so long; whether it has come to its end."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def until(self, holds: Callable[[], Any], what: str) -> None:
        """Wait until something holds that this call brings about; when the call ends before, the test fails at once."""
        __tracebackhide__ = True
        until(lambda: holds() or self.is_over(0), what)
        if not holds():
            found = self.result()  # or raises what ended it
            pytest.fail(f"{what}: {self._what} was over before, with {found}", pytrace=False)

    def result(self, seconds: float = PATIENCE_SECONDS) -> T:
        """What the call returned, or what it raised; the test fails when it does not end in time."""
        __tracebackhide__ = True
        if not self.is_over(seconds):
            pytest.fail(f"{self._what} did not return within {seconds:g} s", pytrace=False)
        if self._error is not None:
            raise self._error
        return self._found[0]


def until(holds: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something holds; the test fails, saying `what`, when it does not in time."""
    __tracebackhide__ = True
    pause = threading.Event()
    for _ in range(int(seconds * 1000)):
        if holds():
            return
        pause.wait(0.001)
    pytest.fail(f"{what}: not within {seconds:g} s", pytrace=False)


@attrs.frozen
class Held:
    """What this process holds of its host: descriptors, threads, mappings of descriptors, and room for addresses.

    `descriptors` and `mappings` are names of files, in order. `address_bytes` is all that is mapped; it grows a little
    by itself, whenever Python or its libraries need room.
    """

    descriptors: tuple[str, ...]
    threads: int
    mappings: tuple[str, ...]
    address_bytes: int = 0

    @classmethod
    def now(cls) -> Held:
        """As it is now; nothing but threads where the system has no /proc."""
        return cls(_descriptors(), threading.active_count(), _mappings(), _address_bytes())

    def gained_since(self, before: Held, *, addresses: bool = False) -> list[str]:
        """What is held now and was not before, in words; with `addresses` also room for them, if it is much."""
        found = [f"descriptor of {name}" for name in _more(self.descriptors, before.descriptors)]
        found += [f"mapping of {name}" for name in _more(self.mappings, before.mappings)]
        if self.threads > before.threads:
            found.append(f"{self.threads - before.threads} thread(s)")
        grown = self.address_bytes - before.address_bytes
        if addresses and grown >= ROOM_BYTES:
            found.append(f"{grown >> 20} MiB of addresses")
        return found


def _descriptors() -> tuple[str, ...]:
    names = []
    with suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                names.append(os.readlink(entry))  # noqa: PTH115 - a pipe's name is no path
    return tuple(sorted(name for name in names if not name.startswith("/proc/")))


def _mappings() -> tuple[str, ...]:
    """Mappings of devices and anonymous files; libraries may be loaded at any time, and stay."""
    with suppress(OSError):
        names = [line.split(maxsplit=5)[5].strip() for line in _maps() if len(line.split(maxsplit=5)) == 6]
        return tuple(sorted(name for name in names if name.startswith(("anon_inode:", "/dev/", "/memfd:"))))
    return ()


def _maps() -> list[str]:
    return Path("/proc/self/maps").read_text("utf-8").splitlines()


def _address_bytes() -> int:
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * mmap.PAGESIZE
    return 0


def _more(now: tuple[str, ...], before: tuple[str, ...]) -> list[str]:
    return sorted((Counter(now) - Counter(before)).elements())
