"""Where every call goes through: written down, failed if it was told to, then done."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError
from anyvisor.memory import RamRegion
from anyvisor_mock.calls import Call, Calls
from anyvisor_mock.faults import Saboteur

F = TypeVar("F", bound=Callable[..., Any])


class Desk:
    """The records of one hypervisor, and who spoils its calls."""

    def __init__(self, saboteur: Saboteur):
        self.calls = Calls()
        self.saboteur = saboteur

    def call(self, subject: str, method: Callable[..., Any], given: inspect.BoundArguments) -> Any:
        """Do it, in public; `given` is what the method is called with, first its object."""
        _, *arguments = given.arguments.values()
        call = Call(subject, method.__name__, tuple(_as_value(each) for each in arguments if not isinstance(each, Bus)))
        entry = self.calls.begin(call)
        try:
            result = self._do(call, method, given)
        except BaseException as error:
            entry.end(error=error)
            raise
        entry.end(result=_as_value(result))
        return result

    def _do(self, call: Call, method: Callable[..., Any], given: inspect.BoundArguments) -> Any:
        failure: HypervisorError | None = self.saboteur.failure_of(call)
        if failure is None:
            return method(*given.args, **given.kwargs)
        if call.method == "close":
            method(*given.args, **given.kwargs)
        raise failure


class Public(Protocol):
    """What has methods that are written down."""

    desk: Desk
    name: str


def public(method: F) -> F:
    """Decorator: calls of the method go through the desk, with all of its arguments in the order of its signature."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def through_the_desk(self: Public, *arguments: Any, **named: Any) -> Any:
        given = signature.bind(self, *arguments, **named)
        given.apply_defaults()
        return self.desk.call(self.name, method, given)

    return cast("F", through_the_desk)


def _as_value(given: Any) -> Any:
    """What can be written down of an argument or result."""
    if isinstance(given, RamRegion):
        return given.region
    if hasattr(given, "desk"):
        return given.name
    if hasattr(given, "acknowledge"):
        return type(given).__name__
    return given
