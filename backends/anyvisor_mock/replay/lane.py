"""What each subject of a trace was asked, one thing after the other, and whether the same is asked again.

Some facts about strictness. A subject must be asked the same things in the same order, and as long as no vCPU has run,
so must a VM and its vCPUs as a whole: that is how it was set up. Kicks, notices, interrupt lines and `close` come from
threads of their own pace; for those, order and number do not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from anyvisor.recording.trace import Argument, Call, Event, RunBegan
from anyvisor_mock.replay.judge import Judge, difference, event_words, words

LENIENT = {"kick", "notify_interrupt", "set_irq", "close"}


class Setup:
    """The calls of a VM and its vCPUs before any of them ran, in order."""

    def __init__(self, events: Iterable[tuple[int, Event]], names: dict[int, str], judge: Judge):
        self._rest: deque[tuple[int, Event]] = deque()
        self._names = names
        self._judge = judge
        for number, event in events:
            if isinstance(event, RunBegan):
                break
            if is_strict(event):
                self._rest.append((number, event))

    def take(self, number: int, event: Event) -> None:
        """That call has been made; tells the judge when another should have come first."""
        if (number, event) not in self._rest:
            return
        first, wanted = self._rest[0]
        self._rest.remove((number, event))
        if first != number:
            self._judge.differs(
                f"{self._words(number, event)} came before {self._words(first, wanted)}, which was recorded first"
            )

    def _words(self, number: int, event: Event) -> str:
        return f"{self._names[event.subject]}: {event_words(event)} (event {number})"


class Lane:
    """What was asked of the subject called `name`, in order."""

    def __init__(self, name: str, events: Iterable[tuple[int, Event]], judge: Judge, setup: Setup):
        self.name = name
        self._rest = deque(each for each in events if is_strict(each[1]))
        self._judge = judge
        self._setup = setup

    @property
    def rest(self) -> list[str]:
        """What has not been asked yet, in words."""
        return [f"{self.name}: {event_words(event)} (event {number})" for number, event in self._rest]

    def take(self, operation: str, *arguments: Argument) -> tuple[int, Event]:
        """What was recorded for that call: its number and event. ReplayError when it was another."""
        came = words(operation, arguments)
        if not self._rest:
            self._judge.lacks(f"{self.name}: {came} came, and the trace has nothing more that was asked of it")
        number, event = self._rest[0]
        if not _same_kind(event, operation, arguments):
            self._judge.lacks(f"{self.name}: {came} came, and {event_words(event)} was recorded (event {number})")
        self._rest.popleft()
        self._setup.take(number, event)
        if isinstance(event, Call) and event.arguments != arguments:
            how = _how(event, arguments)
            self._judge.differs(f"{self.name}: {came} is not as recorded (event {number}): {how}")
        return number, event


def is_strict(event: Event) -> bool:
    """Whether it is something that must be asked again in its place."""
    return isinstance(event, RunBegan) or (isinstance(event, Call) and event.operation not in LENIENT)


def _same_kind(event: Event, operation: str, arguments: tuple[Argument, ...]) -> bool:
    """Whether a recorded event is the same call, of the same state if it is about one."""
    if not isinstance(event, Call):
        return operation == "run"
    if event.operation != operation:
        return False
    if operation == "put":
        return type(event.arguments[0]) is type(arguments[0])
    return operation != "get" or event.arguments == arguments


def _how(event: Call, arguments: tuple[Argument, ...]) -> str:
    if len(arguments) == 1:
        return difference(event.arguments[0], arguments[0])
    return f"{event_words(event)} was recorded"
