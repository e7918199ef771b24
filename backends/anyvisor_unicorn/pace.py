"""How long the engine runs at a time: until it is stopped, or so many instructions.

Some facts about stopping. `Engine.stop` from another thread is only exact when the engine looks for it between
instructions, and not, as Unicorn does by itself, after every access to memory: there it would do the access twice. A
private flag makes it look in the right place (see `proof`). Where that flag is not to be had, the engine is never
stopped: it is started for a counted number of instructions instead, which is slower, and exact.

HLT cannot be told from a stop by what `start` returns. Of a free run the processor's own flag tells it (see
`halt_flag`), of a counted one the engine's count, when it says that there were instructions left.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Protocol

from anyvisor.bell import LockBell
from anyvisor_unicorn.engine import Engine

AGAIN_SECONDS = 100e-6
"""How soon to stop the engine again when it has not answered: it may not have been running yet."""
SIGNAL_SECONDS = 0.02
"""How long a Python signal handler may wait when the main thread is in `run`."""
SLICE_INSTRUCTIONS = 20_011
"""A prime, so that a loop is not always left at the same place."""


class Pace(Protocol):
    """Decides how long `run` lets the engine run, and what its return means."""

    def begin(self) -> int:
        """The engine is about to be started: how many instructions, 0 for no limit."""
        ...

    def has_halted(self) -> bool:
        """The engine came back: was it by HLT?"""
        ...

    def answered(self) -> None:
        """Everything that was asked for by `ask` is about to be looked at."""
        ...

    def ask(self) -> None:
        """Have the engine come back soon; from any thread."""
        ...

    def ask_later(self) -> None:
        """Have the engine come back in a moment: it has something to do before it can be asked again."""
        ...

    def instructions(self) -> int:
        """How many instructions were run since `begin`, where that is counted."""
        ...

    def enter(self) -> None:
        """The calling thread is about to run the guest."""
        ...

    def leave(self) -> None:
        """It has left it."""
        ...

    def close(self) -> None:
        """Give back what is held. Nobody runs."""
        ...


class FreePace:
    """Runs until it is stopped. A thread repeats each stop until it is answered.

    `halted` is the engine's flag for HLT. What is asked for on the runner's own thread while the engine calls a device
    needs no repetition; a signal handler may do so at any other moment, but then the main thread's patience is short.
    """

    def __init__(self, engine: Engine, halted: ctypes.c_uint32):
        self._engine = engine
        self._halted = halted
        self._lock = threading.RLock()
        self._asked = False
        self._in_engine = False
        self._runner: int | None = None
        self._patience: float | None = None
        self._bell = LockBell()
        self._closed = False
        self._thread: threading.Thread | None = None

    def begin(self) -> int:
        """No limit."""
        self._in_engine = True
        return 0

    def has_halted(self) -> bool:
        """The processor's own flag says so."""
        return bool(self._halted.value)

    def answered(self) -> None:
        """Take back the request."""
        self._asked = self._in_engine = False

    def ask(self) -> None:
        """Stop the engine, now if it is running, else as soon as it does."""
        self._asked = True
        self._stop()
        if not self._in_engine or self._runner != threading.get_ident():
            self._bell.ring()

    def ask_later(self) -> None:
        """Stop the engine in a moment: it has something to do before it can be asked again."""
        self._asked = True
        self._bell.ring()

    def instructions(self) -> int:
        """Nobody counts."""
        return 0

    def enter(self) -> None:
        """Start the thread, if there is none yet."""
        self._runner = threading.get_ident()
        if threading.current_thread() is threading.main_thread():
            self._patience = SIGNAL_SECONDS
            self._bell.ring()
        if self._thread is None:
            self._thread = threading.Thread(target=self._life, name="stopper", daemon=True)
            self._thread.start()

    def leave(self) -> None:
        """Whoever asks from now on asks the next run."""
        self._runner = None
        self._patience = None

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._closed = True
        self._bell.ring()
        if self._thread is not None:
            self._thread.join()

    def _stop(self) -> None:
        with self._lock:
            if not self._closed:
                self._engine.stop()

    def _life(self) -> None:
        while not self._closed:
            if not self._bell.wait(self._patience):
                self._stop()
            while self._asked and self._runner is not None and not self._closed:
                time.sleep(AGAIN_SECONDS)
                if self._asked:
                    self._stop()


class CountedPace:
    """Runs a counted number of instructions. Nobody ever stops the engine, so a request waits for the slice's end."""

    def __init__(self, engine: Engine, counter_offset: int, limit: Callable[[int], int] = lambda most: most):
        self._counter = ctypes.c_uint64.from_address(engine.address + counter_offset)
        self._limit = limit
        self._count = 0

    def begin(self) -> int:
        """A slice, or less if the clock has something to do before."""
        self._count = self._limit(SLICE_INSTRUCTIONS)
        return self._count

    def has_halted(self) -> bool:
        """The engine has counted fewer instructions than it was to run."""
        return self._counter.value <= self._count

    def answered(self) -> None:
        """Every slice ends by itself."""

    def ask(self) -> None:
        """The slice ends soon."""

    def ask_later(self) -> None:
        """The slice ends soon."""

    def instructions(self) -> int:
        """How many instructions were run since `begin`; the engine counts the one that it did not run, too."""
        return min(self._counter.value, self._count)

    def enter(self) -> None:
        """Nothing to prepare."""

    def leave(self) -> None:
        """Nothing to undo."""

    def close(self) -> None:
        """Nothing to give back."""
