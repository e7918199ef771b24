"""Values to JSON and back: plans, facts and vCPU states are all written by this one codec.

A class that may stand where only its base is declared (a `VcpuState` in a plan) is written with a `"type"`
key, its portable name, which the `named` decorator gives it: `@named("x86_64.Regs")`. Reading such a name
imports the architecture's states if it must; nothing else in a file can cause an import. A `Change` is
written as `{"type": "change", "kind": "x86_64.Lapic", "fields": {...}}`.

Bytes are base64 text, addresses and registers plain JSON integers. How each kind of value is read and written
stands in `anyvisor.codec_hooks`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from anyvisor.architectures import ARCHITECTURES, part
from anyvisor.errors import AnyvisorError, PlanError

if TYPE_CHECKING:
    import cattrs

C = TypeVar("C", bound=type)
T = TypeVar("T")

_by_name: dict[str, type] = {}
_names: dict[type, str] = {}


def named(name: str) -> Callable[[C], C]:
    """Class decorator: give a state type its portable name, `architecture.Type`."""

    def register(cls: C) -> C:
        if _by_name.setdefault(name, cls) is not cls:
            raise ValueError(f"the name {name} belongs to {_by_name[name]!r} already")
        _names[cls] = name
        return cls

    return register


def name_of(cls: type) -> str:
    """The portable name of a state type; PlanError for a class that has none."""
    if cls not in _names:
        raise PlanError(
            f"{cls.__qualname__} has no portable name; decorate it with @named('architecture.{cls.__name__}')"
        )
    return _names[cls]


def class_named(name: str) -> type:
    """The state type of that portable name; PlanError when nothing here defines it."""
    architecture = name.partition(".")[0]
    if name not in _by_name and architecture in ARCHITECTURES:
        part(architecture, "boot")
    if name not in _by_name:
        raise PlanError(f"no state type is called {name[:80]!r}; the plugin that defines it is not installed here")
    return _by_name[name]


def to_data(value: Any) -> Any:
    """`value` as what json.dumps takes."""
    return _converter().unstructure(value)


def from_data(data: Any, kind: type[T], what: str) -> T:
    """`data` (from json.loads) as a `kind`; PlanError with `what` and the path of each thing wrong."""
    import cattrs  # noqa: PLC0415 - 30 ms that only readers of files pay

    try:
        return _converter().structure(data, kind)
    except cattrs.BaseValidationError as error:
        raise PlanError(f"{what} cannot be read: {'; '.join(problems(error))}") from error
    except (AnyvisorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PlanError(f"{what} cannot be read: {error}") from error


def problems(error: BaseException) -> list[str]:
    """Each thing wrong in a cattrs validation error, as `cause at path`."""
    import cattrs  # noqa: PLC0415

    def words(cause: BaseException, _: type | None) -> str:
        if isinstance(cause, cattrs.ForbiddenExtraKeysError):
            return f"unknown {', '.join(sorted(cause.extra_fields))}"
        return f"{cause.args[0]!r} is missing" if isinstance(cause, KeyError) else str(cause)

    lines = cattrs.transform_error(error, path="", format_exception=words)
    return [line.replace(" @ .", " at ").removesuffix(" @ ") for line in lines]


@functools.cache
def _converter() -> cattrs.Converter:
    from anyvisor.codec_hooks import converter  # noqa: PLC0415 - imports cattrs

    return converter()
