"""A project for a plugin of one's own, from the templates that come with anyvisor.

A template's path has MODULE where the plugin's module is to be named, and ends in `.template`; its text has `$name`,
`$module`, `$distribution`, `$summary` and `$anyvisor_version`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from anyvisor.errors import ConfigError
from anyvisor.plugins import DEFAULTS, PluginChoice, load_plugins

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

KINDS: Mapping[str, str] = MappingProxyType({"backend": "A hypervisor", "step": "A boot step", "device": "A device"})
"""What can be begun, and what the project says it is."""
PREFIX = "anyvisor-"
EVERY, SUFFIX = "every", ".template"
NAME_LIMIT = 40


@attrs.frozen
class ProjectNames:
    """What a plugin is called: `name` by anyvisor, `distribution` by pip, `module` by Python."""

    name: str

    @classmethod
    def of(cls, text: str) -> ProjectNames:
        """The names for a plugin; ConfigError when the text is no name, or one of anyvisor's own plugins'.

        As pip sees it, upper case and runs of `-`, `_` and `.` make no difference; `anyvisor-` before it may be there.

        >>> names = ProjectNames.of("Acme_HV")
        >>> names.name, names.distribution, names.module
        ('acme-hv', 'anyvisor-acme-hv', 'anyvisor_acme_hv')
        """
        name = re.sub(r"[-_.]+", "-", text.lower()).removeprefix(PREFIX)
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > NAME_LIMIT:
            raise ConfigError(
                f"{text!r} is no name for a plugin: take up to {NAME_LIMIT} letters of a-z, digits and single hyphens"
            )
        names = cls(name)
        if whose := _whose(names):
            raise ConfigError(f"{text!r} is the name of {whose} already; take another")
        return names

    @property
    def distribution(self) -> str:
        """What to give to `pip install`."""
        return PREFIX + self.name

    @property
    def module(self) -> str:
        """What to import."""
        return self.distribution.replace("-", "_")


def write_project(name: str, kind: str, directory: Path | None = None) -> Path:
    """Write a ready project for a plugin of that kind into `directory`, by default one called as its distribution.

    Returns the directory. ConfigError for a name or kind that there cannot be, and for a directory that is not empty;
    OSError when it cannot be written.
    """
    names = ProjectNames.of(name)
    if kind not in KINDS:
        raise ConfigError(f"there is no kind {kind!r} of plugin to begin; there are {', '.join(KINDS)}")
    directory = Path(names.distribution) if directory is None else directory
    _check_empty(directory)
    for path, text in _rendered(names, kind):
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8", newline="\n")
    return directory


def _whose(names: ProjectNames) -> str:
    """What of anyvisor's own has that name; empty if nothing has."""
    if names.name in ("auto", "none"):
        return "a choice that --backend knows"
    if names.module in DEFAULTS:
        return "a plugin of anyvisor's own"
    own = load_plugins(installed=False, choice=PluginChoice())
    for what, hook in {"a backend": "anyvisor_hypervisors", "a device": "anyvisor_device_factories"}.items():
        if names.name in own.names_from(hook):
            return f"{what} of anyvisor's own"
    return ""


def _check_empty(directory: Path) -> None:
    """ConfigError unless a project can be written there."""
    if "\0" in str(directory):
        raise ConfigError(f"{str(directory)!r} is no name for a directory")
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is there already, and no directory; name another --directory")
    if directory.is_dir() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty; name another --directory")


def _rendered(names: ProjectNames, kind: str) -> Iterator[tuple[str, str]]:
    """The path and text of each file of a project."""
    from anyvisor import __version__  # noqa: PLC0415 - the package that this module is imported by

    values = {
        "name": names.name,
        "distribution": names.distribution,
        "module": names.module,
        "summary": KINDS[kind],
        "anyvisor_version": __version__,
    }
    for part in (EVERY, kind):
        for path, text in _templates(resources.files("anyvisor.plugins") / "templates" / part):
            yield path.replace("MODULE", names.module), string.Template(text).substitute(values)


def _templates(folder: Traversable, within: str = "") -> Iterator[tuple[str, str]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _templates(each, f"{within}{each.name}/")
        elif each.name.endswith(SUFFIX):
            yield within + each.name.removesuffix(SUFFIX), each.read_text("utf-8")
