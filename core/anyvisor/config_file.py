"""A machine's configuration as TOML: the names and shapes of `MachineConfig`, paths relative to the file.

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     written = Path(folder, "machine.toml").write_text('vcpus = 2\\n[topology]\\nthreads = 2\\n')
...     config = read_config(Path(folder, "machine.toml"))
>>> str(config.topology)
'1 sockets x 1 cores x 2 threads'
"""

from __future__ import annotations

import re
import tomllib
import uuid
from pathlib import Path
from typing import Any

import cattrs

from anyvisor.codec import problems
from anyvisor.config import MachineConfig, Mode, Tables, is_path
from anyvisor.errors import ConfigError
from anyvisor.toml_lines import Lines


def read_config(file: Path) -> MachineConfig:
    """The configuration in a file; ConfigError says what is wrong, and on which line."""
    try:
        if not file.is_file() and file.exists():
            raise ConfigError(f"cannot read the configuration {file}: it is no regular file")
        text = file.read_text("utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from error
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    try:
        return _converter(file.parent).structure(_with_paths(data, file.parent), MachineConfig)
    except ConfigError as error:
        raise _placed(file, text, [str(error)]) from error
    except cattrs.BaseValidationError as error:
        raise _placed(file, text, problems(error)) from error


_AT = re.compile(r" at (\w+)(?:\[(\d+)\])?(?:\.(\w+))?$")
"""How a problem ends that was found in a table, in one of several, or at a key."""
_SUBJECT = re.compile(r"^(?:unknown |')?(\w+)(?:\.(\w+))?")
"""How it begins: with what is wrong, `topology: ...` or `topology.cores: ...`."""


def _placed(file: Path, text: str, found: list[str]) -> ConfigError:
    """The error for those problems, each with its line where it can be told."""
    lines = Lines(text)
    numbers = [_line(lines, each) for each in found]
    first, *others = [f"line {line}: {each}" if line else each for line, each in zip(numbers, found, strict=True)]
    start = f"{file}:{numbers[0]}: {found[0]}" if numbers[0] else f"{file}: {first}"
    return ConfigError("; ".join([start, *others]))


def _line(lines: Lines, problem: str) -> int | None:
    """On which line that is."""
    subject, at = _SUBJECT.match(problem), _AT.search(problem)
    name, part = subject.groups() if subject else ("", None)
    table, number, key = at.groups() if at else ("", None, None)
    if part and not key:
        return lines.find(part, table=name)
    return lines.find(key or name, table=table, index=int(number or 0)) or lines.find(table or name)


def _with_paths(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    cpu = data.get("cpu")
    return {**data, "cpu": str(folder / cpu)} if isinstance(cpu, str) and is_path(cpu) else data


def _converter(folder: Path) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(Path | None, lambda text, _: folder / _text(text))
    converter.register_structure_hook(uuid.UUID | None, lambda text, _: _text(text))
    converter.register_structure_hook(str, lambda text, _: _text(text))
    converter.register_structure_hook(bool, lambda value, _: _exactly(value, bool, "true or false"))
    converter.register_structure_hook(
        int, lambda value, _: value if isinstance(value, str) else _exactly(value, int, "a whole number")
    )
    converter.register_structure_hook_func(lambda kind: kind == tuple[int, ...], lambda value, _: value)
    converter.register_structure_hook_func(lambda kind: kind in (Tables, Mode), lambda word, _: _text(word))
    return converter


def _text(value: Any) -> str:
    return str(_exactly(value, str, "text in quotes"))


def _exactly(value: Any, kind: type, words: str) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not {words}")
    return value
