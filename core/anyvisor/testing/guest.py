"""Tiny guests: a few bytes of code with their assembly beside them, and in acts what they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import attrs

from anyvisor.acts import Script


@attrs.frozen
class TinyGuest:
    """A guest of a few instructions.

    `code` has its bytes for each processor mode that it can be run in. `does` says the same in acts, for a backend
    that executes nothing; None where acts cannot say it (it looks at registers, say). `basic` guests are made of the
    few instructions that every backend has: see `anyvisor.testing.x86_64.guests`.
    """

    code: Mapping[str, bytes]
    does: Script | None = None
    basic: bool = False


@runtime_checkable
class Scriptable(Protocol):
    """A vCPU that executes no code and can be told what its guest does: the mock's, or your own fake's."""

    def play(self, script: Script) -> None:
        """Do these acts in the runs to come."""
        ...
