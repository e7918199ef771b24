"""`--json`: how a boot ended, whatever way that was, as a document for programs.

    {"outcome": "panicked", "exit_code": 1, "machine": {...}, "panic": {...}, "summary": ..., "causes": [...], ...}

The fields from `summary` on are those of a report (`anyvisor.diagnosis.Report`): that on the guest's death, if it died;
else that on the vCPU which says most of why it came to a bad end. A guest that ended as it should is not looked at.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import attrs

from anyvisor.cli.failure import BY_SIGNAL, CANNOT_RUN, OK, TIMEOUT, Ended, exit_code, message
from anyvisor.cli.streams import say
from anyvisor.errors import AnyvisorError, ConfigError, GuestError, HypervisorError
from anyvisor.private_file import private

if TYPE_CHECKING:
    from anyvisor.diagnosis import Report
    from anyvisor.machine import Machine
    from anyvisor.outcome import Outcome

BY_CODE = {OK: "ended", TIMEOUT: "timeout"}
"""The ends that their exit code says all of."""


class Ending:
    """How a boot ends, as far as it is known yet."""

    def __init__(self) -> None:
        self._backend = ""
        self._seconds = 0.0
        self._outcome: Outcome | None = None
        self._report: Report | None = None

    @contextlib.contextmanager
    def of(self, machine: Machine, backend: str) -> Iterator[None]:
        """A block in which this machine lives and ends; at a bad end it is looked at while it is there."""
        self._backend = backend
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            self._report = getattr(error, "report", None) or _seen(machine, error)
            raise
        finally:
            self._seconds = time.monotonic() - began
            self._outcome = machine.outcome

    def to_data(self, error: BaseException | None) -> dict[str, Any]:
        """The document for JSON; `error` is what the boot ended by, None where it ended well."""
        from anyvisor.section import plain

        return {
            "outcome": self._name(error),
            "exit_code": _code(error),
            "machine": self._machine(),
            "panic": plain(self._outcome.panic) if self._outcome else None,
            **self._reported(error).to_data(),
        }

    def _name(self, error: BaseException | None) -> str:
        """How it ended, in a word."""
        code = _code(error)
        if code > BY_SIGNAL:
            return "stopped"
        if code in BY_CODE:
            return BY_CODE[code]
        if self._outcome is None:
            return "unavailable" if code == CANNOT_RUN else "refused"
        if isinstance(error, Ended):
            return "panicked" if self._outcome.panic else self._outcome.reason
        return "died" if isinstance(error, GuestError) else "failed"

    def _machine(self) -> dict[str, Any] | None:
        """What there is to tell of the machine; None where there never was one."""
        if self._outcome is None:
            return None
        ended = {"reason": self._outcome.reason, "seconds": round(self._seconds, 3), "note": self._outcome.note}
        return {"backend": self._backend, **ended}

    def _reported(self, error: BaseException | None) -> Report:
        """The report, with what the page on stderr says first."""
        from anyvisor.diagnosis import Report

        if error is None:
            return Report(f"machine ended: {self._outcome.reason if self._outcome else ''}")
        report = self._report or Report("", findings=tuple(getattr(error, "findings", ())))
        if isinstance(error, GuestError) and error.report is report:
            return report
        told = error.causes if isinstance(error, Ended) else ()
        rest = (each for each in report.causes if each.name not in {each.name for each in told})
        return attrs.evolve(report, summary=_summary(error), causes=(*told, *rest))


def _code(error: BaseException | None) -> int:
    return OK if error is None else exit_code(error)


def _summary(error: BaseException) -> str:
    """What happened, without what the document has elsewhere: causes, and rules that are broken."""
    text = message(error)
    if not text and _code(error) > BY_SIGNAL:
        return f"ended by {signal.Signals(_code(error) - BY_SIGNAL).name}"
    return text.partition("\n")[0] if isinstance(error, Ended | HypervisorError) else text


def _seen(machine: Machine, error: Exception) -> Report | None:
    """The report on the vCPU that says most; None where there is no need for it, or nothing to be seen."""
    if exit_code(error) > BY_SIGNAL:
        return None
    try:
        return max(machine.inspect().reports, key=lambda each: each.likely.weight if each.likely else 0)
    except AnyvisorError:
        return None


@contextlib.contextmanager
def told_in(path: Path | None) -> Iterator[Ending | None]:
    """A block, and a file that tells how it ended; ConfigError, before it begins, where none can be written.

    What was there before goes first: it is of another boot.
    """
    if path is None:
        yield None
        return
    ending = Ending()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_opened(path))
        try:
            yield ending
        except BaseException as error:
            _write(file, ending.to_data(error))
            raise
        _write(file, ending.to_data(None))


def _opened(path: Path) -> TextIO:
    try:
        return open(path, "w", encoding="utf-8", errors="backslashreplace", opener=private)
    except OSError as error:
        raise ConfigError(f"{path}: the report cannot be written there: {error.strerror}; name another file") from error


def _write(file: TextIO, data: dict[str, Any]) -> None:
    """Write the document; what is wrong with that is told, and hides no end."""
    try:
        with file:
            json.dump(data, file, indent=1, ensure_ascii=False)
            file.write("\n")
    except OSError as problem:
        say(f"warning: {file.name}: the report could not be written: {problem.strerror}")
