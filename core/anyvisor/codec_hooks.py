"""How the codec reads and writes each kind of value: a hook a kind, strict in what it takes.

Some facts about reading. cattrs by itself calls the wanted type on whatever it finds, so `"12"` would pass
for a number, `1` for true and `"abc"` for three strings. A plan may come from anywhere, so every hook here
looks at the shape of the JSON first: text, number, true or false, list, object. Between the members of a
union (`int | None`, `bytes | FileSlice`, `VcpuState | Change`) that shape decides, too. What does not fit is
a TypeError or ValueError, to which cattrs adds the path.
"""

from __future__ import annotations

import base64
import binascii
import functools
import operator
import os
import reprlib
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from anyvisor.codec import class_named, name_of
from anyvisor.errors import PlanError
from anyvisor.states import Change, State, VcpuState

Hook = Callable[[Any, Any], Any]

CHANGE = "change"
"""The `"type"` of a `Change`; states have their portable names there."""


def converter() -> cattrs.Converter:
    """A converter with every hook of this module."""
    made = cattrs.Converter(forbid_extra_keys=True)
    _write(made)
    # The hooks of a class hold for its subclasses, and are told which: bool, Bits and IntEnum are ints.
    made.register_structure_hook(int, _number)
    made.register_structure_hook(str, lambda data, kind: kind(_text(data)))
    made.register_structure_hook(bytes, lambda data, _: _bytes(data))
    made.register_structure_hook(Path, lambda data, _: Path(_text(data)))
    # Of these, the last that fits is taken.
    made.register_structure_hook_factory(attrs.has, lambda kind: _object(made, kind))
    made.register_structure_hook_factory(_is(tuple), lambda kind: _tuple(made, kind))
    made.register_structure_hook_factory(_is(frozenset), lambda kind: _frozenset(made, kind))
    made.register_structure_hook_factory(_is(dict), lambda kind: _dict(made, kind))
    made.register_structure_hook_factory(_is(typing.Union, types.UnionType), lambda kind: _union(made, kind))
    made.register_structure_hook_factory(_is_state, lambda kind: _state(made, kind))
    made.register_structure_hook_func(lambda kind: kind is Change, lambda data, _: _change(made, data))
    return made


# -- writing -------------------------------------------------------------------------------------------------


def _write(made: cattrs.Converter) -> None:
    made.register_unstructure_hook(int, lambda number: number if isinstance(number, bool) else int(number))
    made.register_unstructure_hook(bytes, lambda data: base64.b64encode(data).decode())
    made.register_unstructure_hook(Path, os.fspath)
    made.register_unstructure_hook_func(_is(frozenset), lambda values: sorted(map(made.unstructure, values)))
    made.register_unstructure_hook_factory(_is_state, lambda kind: _write_state(made, kind))
    made.register_unstructure_hook_func(lambda kind: kind is Change, lambda change: _write_change(made, change))


def _write_state(made: cattrs.Converter, kind: type) -> Callable[[Any], Any]:
    if not attrs.has(kind):
        return lambda value: _write_found(made, kind, value)
    name = name_of(kind)
    fields = make_dict_unstructure_fn(kind, made)
    return lambda value: {"type": name, **fields(value)}


def _write_found(made: cattrs.Converter, declared: type, value: Any) -> Any:
    """A state of which only the base is declared: what it is decides."""
    return made.unstructure(value) if type(value) is not declared else name_of(declared)


def _write_change(made: cattrs.Converter, change: Change) -> dict[str, Any]:
    kinds = _field_types(change.kind)
    fields = {name: made.unstructure(value, kinds[name]) for name, value in change.fields.items()}
    return {"type": CHANGE, "kind": change.name, "fields": fields}


# -- reading -------------------------------------------------------------------------------------------------


def _number(data: Any, kind: Callable[[Any], Any]) -> Any:
    if kind is bool:
        return _exactly(data, bool, "true or false")
    return kind(_exactly(data, int, "a whole number"))


def _text(data: Any) -> str:
    return str(_exactly(data, str, "text"))


def _bytes(data: Any) -> bytes:
    try:
        return base64.b64decode(_text(data), validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _list(data: Any) -> list[Any]:
    return list(_exactly(data, list, "a list"))


def _mapping(data: Any) -> dict[str, Any]:
    return dict(_exactly(data, dict, "an object"))


def _exactly(data: Any, kind: type, words: str) -> Any:
    if type(data) is not kind:
        raise TypeError(f"{reprlib.repr(data)} is not {words}")
    return data


def _object(made: cattrs.Converter, kind: type) -> Hook:
    fields: Hook = make_dict_structure_fn(kind, made, _cattrs_forbid_extra_keys=True)
    return lambda data, _: fields(_mapping(data), kind)


def _tuple(made: cattrs.Converter, kind: Any) -> Hook:
    kinds = [each for each in typing.get_args(kind) if each is not Ellipsis]
    count = len(kinds) if len(kinds) == len(typing.get_args(kind)) else None
    items = _list_of(functools.reduce(operator.or_, kinds))
    differ = count is not None and len(set(kinds)) > 1

    def read(data: Any, _: Any) -> tuple[Any, ...]:
        if count is not None and len(_list(data)) != count:
            raise ValueError(f"{len(data)} items where there must be {count}")
        if differ:
            return tuple(_named(made, f"item {i}", data[i], kind) for i, kind in enumerate(kinds))
        return tuple(made.structure(_list(data), items))

    return read


def _frozenset(made: cattrs.Converter, kind: Any) -> Hook:
    items = _list_of(*typing.get_args(kind))
    return lambda data, _: frozenset(made.structure(_list(data), items))


def _list_of(kind: Any) -> Any:
    """The type of lists of that; cattrs knows the index of what is wrong in one."""
    return types.GenericAlias(list, (kind,))


def _dict(made: cattrs.Converter, kind: Any) -> Hook:
    values = typing.get_args(kind)[1]

    def read(data: Any, _: Any) -> dict[str, Any]:
        return {key: _named(made, key, value, values) for key, value in _mapping(data).items()}

    return read


def _named(made: cattrs.Converter, name: str, data: Any, kind: Any) -> Any:
    """`data` as a `kind`; the name goes into the error."""
    try:
        return made.structure(data, kind)
    except cattrs.BaseValidationError as error:
        from anyvisor.codec import problems  # noqa: PLC0415

        raise ValueError(f"{name}: {'; '.join(problems(error))}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _union(made: cattrs.Converter, kind: Any) -> Hook:
    members = typing.get_args(kind)

    def read(data: Any, _: Any) -> Any:
        for member in members:
            if _fits(data, member):
                return data if member is types.NoneType else made.structure(data, member)
        raise TypeError(f"{reprlib.repr(data)} is not {' or '.join(map(_words, members))}")

    return read


def _fits(data: Any, kind: Any) -> bool:
    """Whether JSON of that shape can be a `kind`."""
    if kind is types.NoneType:
        return data is None
    if kind is Change or _is_state(kind):
        return isinstance(data, dict) and (data.get("type") == CHANGE) is (kind is Change)
    if typing.get_origin(kind) in {tuple, frozenset}:
        return isinstance(data, list)
    shapes: dict[type, type] = {bool: bool, int: int, str: str, bytes: str, Path: str}
    shape = next((shapes[each] for each in getattr(kind, "__mro__", ()) if each in shapes), dict)
    return type(data) is shape


def _words(kind: Any) -> str:
    return "null" if kind is types.NoneType else getattr(kind, "__name__", str(kind))


def _state(made: cattrs.Converter, declared: type) -> Hook:
    fields = functools.cache(lambda kind: make_dict_structure_fn(kind, made, _cattrs_forbid_extra_keys=True))

    def read(data: Any, _: Any) -> Any:
        found = _mapping(data)
        kind = _state_type(found.pop("type", None), declared)
        return fields(kind)(found, kind)

    return read


def _state_type(name: Any, declared: type) -> type:
    kind = class_named(_text(name))
    if not issubclass(kind, declared):
        raise PlanError(f"{name} is not a {declared.__name__}")
    return kind


def _change(made: cattrs.Converter, data: Any) -> Change:
    found = _mapping(data)
    if found.pop("type", None) != CHANGE or found.keys() != {"kind", "fields"}:
        raise ValueError(f"{reprlib.repr(data)} is not a change of a kind and fields")
    kind = _state_type(found["kind"], VcpuState)
    kinds = _field_types(kind)
    fields = {
        name: _named(made, name, value, kinds.get(name, Any)) for name, value in _mapping(found["fields"]).items()
    }
    return Change(kind, **fields)


def _field_types(kind: type) -> dict[str, Any]:
    """The types of a class's fields; annotations are text until they are resolved."""
    attrs.resolve_types(kind)
    return {each.name: each.type for each in attrs.fields(kind)}


def _is(*origins: Any) -> Callable[[Any], bool]:
    """Whether a type is one of those generic ones: `_is(tuple)(tuple[int, ...])`."""
    return lambda kind: typing.get_origin(kind) in origins


def _is_state(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, State)
