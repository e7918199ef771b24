"""Values to JSON and back: plans, facts, configurations and vCPU states are all written by this one codec.

A class that may stand where only its base is declared (a `VcpuState` in a plan) is written with a `"type"` key, its
portable name, which the `named` decorator gives it: `@named("x86_64.Regs")`. Reading such a name imports the
architecture's module if it must; nothing else in a file can cause an import.

Bytes are base64 text, addresses and registers plain JSON integers.
"""

from __future__ import annotations

import base64
import binascii
import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anyvisor.bits import Bits
from anyvisor.errors import AnyvisorError, PlanError

if TYPE_CHECKING:
    import cattrs

C = TypeVar("C", bound=type)
T = TypeVar("T")

ARCHITECTURES = ("x86_64", "aarch64")

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
        raise PlanError(f"{cls.__qualname__} has no portable name; decorate it with @named('architecture.{cls.__name__}')")
    return _names[cls]


def class_named(name: str) -> type:
    """The state type of that portable name; PlanError when nothing here defines it."""
    architecture = name.partition(".")[0]
    if name not in _by_name and architecture in ARCHITECTURES:
        importlib.import_module(f"anyvisor.{architecture}.boot")
    if name not in _by_name:
        raise PlanError(f"no state type is called {name!r}; the plugin that defines it is not installed here")
    return _by_name[name]


def to_data(value: Any) -> Any:
    """`value` as what json.dumps takes."""
    return _converter().unstructure(value)


def from_data(data: Any, kind: type[T], what: str) -> T:
    """`data` (from json.loads) as a `kind`; PlanError naming `what` and the path of each thing that is wrong."""
    import cattrs  # noqa: PLC0415 - 30 ms that only readers of files pay

    try:
        return _converter().structure(data, kind)
    except cattrs.BaseValidationError as error:
        raise PlanError(f"{what} cannot be read: {'; '.join(problems(error))}") from error
    except (AnyvisorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PlanError(f"{what} cannot be read: {error}") from error


def problems(error: BaseException) -> list[str]:
    """Each thing wrong in a cattrs validation error, as `cause @ path`."""
    import cattrs  # noqa: PLC0415

    lines = cattrs.transform_error(error, path="")  # type: ignore[arg-type]
    return [line.replace(" @ .", " at ").removesuffix(" @ ") for line in lines]


@functools.cache
def _converter() -> cattrs.Converter:
    import cattrs  # noqa: PLC0415

    from anyvisor.states import State  # noqa: PLC0415 - states name themselves with this module

    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(bytes, lambda data: base64.b64encode(data).decode())
    converter.register_structure_hook(bytes, lambda text, _: _bytes(text))
    converter.register_unstructure_hook(Path, os.fspath)
    converter.register_structure_hook(Path, lambda text, _: Path(text))
    converter.register_structure_hook(int, lambda number, _: _integer(number))
    converter.register_structure_hook_func(lambda t: isinstance(t, type) and issubclass(t, Bits), lambda n, t: t(_integer(n)))
    converter.register_unstructure_hook_func(lambda t: isinstance(t, type) and issubclass(t, Bits), int)
    _tag_states(converter, State)
    return converter


def _tag_states(converter: cattrs.Converter, base: type) -> None:
    """Make the abstract states (`VcpuState`, `VmState`) readable by name, and every state write its name."""
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn  # noqa: PLC0415

    def is_state(kind: Any) -> bool:
        return isinstance(kind, type) and issubclass(kind, base)

    def write(kind: type) -> Callable[[Any], Any]:
        fields = make_dict_unstructure_fn(kind, converter)
        return lambda value: {"type": name_of(kind), **fields(value)}

    def read(kind: type) -> Callable[[Any, Any], Any]:
        return lambda data, _: _read_state(converter, data, kind)

    @functools.cache
    def reader(kind: type) -> Callable[[Any, Any], Any]:
        return make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

    def _read_state(converter: cattrs.Converter, data: Any, wanted: type) -> Any:  # noqa: ARG001
        fields = dict(data)
        kind = class_named(str(fields.pop("type", "?")))
        if not issubclass(kind, wanted):
            raise PlanError(f"{name_of(kind)} is not a {wanted.__name__}")
        return reader(kind)(fields, kind)

    converter.register_unstructure_hook_factory(is_state, write)
    converter.register_structure_hook_factory(is_state, read)


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"not base64: {error}") from error


def _integer(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{number!r} is not a whole number")
    return number
