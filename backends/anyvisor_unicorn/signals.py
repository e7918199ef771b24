"""What a signal handler raises while the guest runs.

Some facts about signals. Python calls their handlers in the main thread, at the beginning of any function: also of a
hook's, which has no caller but C, so that what the handler raises there is lost but for `sys.unraisablehook`. That is
where it is caught while the main thread is in `run`.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

from anyvisor_unicorn.engine import Engine


@contextlib.contextmanager
def unraisable_kept(engine: Engine, keep: Callable[[BaseException], None]) -> Iterator[None]:
    """Call `keep` with what cannot be raised out of one of the engine's hooks; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = sys.unraisablehook

    def look(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_value is not None and engine.has_raised(unraisable.exc_traceback):
            keep(unraisable.exc_value)
        else:
            before(unraisable)

    sys.unraisablehook = look
    try:
        yield
    finally:
        sys.unraisablehook = before
