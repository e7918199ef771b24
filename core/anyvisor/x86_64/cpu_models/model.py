"""CPU models: templates by name or from a file, and the CPUID table and MSRs that each makes of a host's facts."""

from __future__ import annotations

import functools
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import attrs

from anyvisor.config import is_path
from anyvisor.errors import ConfigError, UnsupportedConfig
from anyvisor.facts import HostFacts
from anyvisor.x86_64.cpu_models.build import Contradiction, build
from anyvisor.x86_64.cpu_models.missing import Missing, listed, missing_address_bits, missing_bits, missing_msrs, most
from anyvisor.x86_64.cpu_models.names import near
from anyvisor.x86_64.cpu_models.read import read_template
from anyvisor.x86_64.cpu_models.source import Source
from anyvisor.x86_64.cpu_models.template import HOST, Template
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.msrs import Msrs, boot_msrs

SUFFIX = ".toml"
PLAIN = "none"
"""The backend of facts that are those of no host."""
KEPT_TABLES = 4
"""Of how many hosts a model keeps the table: planning asks for each vCPU, and always with the same facts."""


@attrs.frozen
class CpuModel:
    """A processor that a guest is to see: `cpu_model("x86-64-v2").cpuid(facts)` is its CPUID table on a host."""

    name: str
    template: Template
    _source: Source = attrs.field(repr=False, eq=False)
    _tables: dict[int, tuple[HostFacts, Cpuid]] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    @property
    def description(self) -> str:
        """What it is, in a sentence."""
        return self.template.description or ""

    def cpuid(self, facts: HostFacts) -> Cpuid:
        """The model's table on that host: one for all vCPUs, which `cpuid_policy.for_vcpu` makes each vCPU's own.

        UnsupportedConfig that names every bit that the model asks for and the host cannot give.
        """
        kept = self._tables.get(id(facts))  # the facts are kept too, so no others have that id
        if kept is None:
            if missing := self.missing(facts):
                raise UnsupportedConfig(_refusal(self, facts, missing))
            if len(self._tables) >= KEPT_TABLES:
                self._tables.clear()
            kept = self._tables[id(facts)] = facts, self.asked(facts)
        return kept[1]

    def msrs(self, facts: HostFacts) -> Msrs:
        """The MSRs that a vCPU starts with: those that firmware leaves, and the template's over them."""
        if missing := tuple(missing_msrs(self.template.msrs, facts)):
            raise UnsupportedConfig(_refusal(self, facts, missing))
        return boot_msrs().replace({each.index: each.value for each in self.template.msrs})

    def missing(self, facts: HostFacts) -> tuple[Missing, ...]:
        """Everything that the model asks for and that host cannot give; nothing when a guest can have the model."""
        table = self.asked(facts)
        asked = table.without(*(table.features - self.template.features)) if self.template.from_host else table
        return (
            *missing_bits(asked, most(facts)),
            *missing_address_bits(table, facts),
            *missing_msrs(self.template.msrs, facts),
        )

    def notes(self, facts: HostFacts) -> tuple[str, ...]:
        """What else a user should know about the model on that host, a sentence each."""
        vendor, host = self.asked(facts).vendor, facts.supported_state(Cpuid).vendor
        if vendor == host:
            return ()
        return (
            f"the guest takes its processor for one of {vendor}, and it is one of {host}: it may call the hypervisor "
            "by an instruction that this processor does not have, and choose the wrong mitigations",
        )

    def asked(self, facts: HostFacts) -> Cpuid:
        """The table that the model asks for on that host, whether or not the host can give it."""
        try:
            return build(self.template, facts)
        except Contradiction as error:
            raise self._source.error(str(error), error.key, error.value) from error


def cpu_model(name: str) -> CpuModel:
    """The model of that name, or that of a template: a path, which has a `/` in it or ends in `.toml`.

    ConfigError for a name that there is not, and for what is wrong in a template, with file and line.

    >>> cpu_model("x86-64-v3").description
    'What x86-64-v3 of the psABI asks for (AVX2, BMI, FMA), and nothing else'
    """
    return _of_file(name) if is_path(name) else _built_in(name)


@functools.cache
def model_names() -> tuple[str, ...]:
    """The models that anyvisor brings, by name: `host` first, then the neutral ones, then those of the makers."""
    names = sorted(each.name.removesuffix(SUFFIX) for each in _folder().iterdir() if each.name.endswith(SUFFIX))
    return tuple(sorted(names, key=lambda name: (name != HOST, name != "minimal", not name.startswith("x86-64"))))


def fitting_models(facts: HostFacts) -> tuple[str, ...]:
    """Those of them that a guest of that host can have."""
    return tuple(name for name in model_names() if not _built_in(name).missing(facts))


@functools.cache
def _built_in(name: str) -> CpuModel:
    if name not in model_names():
        meant = near(name, model_names()) or f"; there are {', '.join(model_names())}"
        raise ConfigError(f"there is no CPU model {name!r}{meant}; a path has a / in it or ends in {SUFFIX}")
    text = _folder().joinpath(name + SUFFIX).read_text("utf-8")
    return CpuModel(name, *_from_text(f"{name}{SUFFIX}", text, None, {}))


def _folder() -> Traversable:
    return resources.files("anyvisor.x86_64.cpu_models") / "models"


def _of_file(name: str) -> CpuModel:
    """The model of a file, kept until that or a file that it extends is another: planning asks for each vCPU."""
    place = Path(name).absolute()
    kept = _FILES.get(place)
    if kept is not None and all(_stamp(path) == stamp for path, stamp in kept[0].items()):
        return kept[1]
    files: dict[Path, object] = {}
    model = CpuModel(name, *_from_file(Path(name), files))
    _FILES[place] = files, model
    return model


_FILES: dict[Path, tuple[dict[Path, object], CpuModel]] = {}
"""Models that were read from files, by path: all files that were read for one with their stamps, and the model."""


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _from_file(path: Path, files: dict[Path, object]) -> tuple[Template, Source]:
    resolved = path.resolve()
    if resolved in files:
        raise ConfigError(f"{' -> '.join(map(str, (*files, resolved)))} goes round in a circle; take one out")
    files[resolved] = _stamp(resolved)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the CPU template {path}: {error.strerror}; name a file, or a model") from error
    except ValueError as error:
        raise ConfigError(f"{path}: this is not TOML: it is no text in UTF-8; name a CPU template's file") from error
    return _from_text(str(path), text, path.parent, files)


def _from_text(origin: str, text: str, directory: Path | None, files: dict[Path, object]) -> tuple[Template, Source]:
    """A template with all that it extends, and its own source; paths in one are relative to its directory."""
    template, parent, source = read_template(origin, text)
    try:
        if parent is None:
            base = Template()
        elif directory is not None and is_path(parent):
            base, _ = _from_file(directory / parent, files)
        else:
            base = _built_in(parent).template
    except ConfigError as error:
        raise source.error(f"extends: {error}", "extends", parent) from error
    return base.extended(template), source


def _refusal(model: CpuModel, facts: HostFacts, missing: tuple[Missing, ...]) -> str:
    where = "a plain machine" if facts.backend == PLAIN else f"a guest of {facts.backend} on this host"
    return (
        f"CPU model {model.name}: {where} cannot have {len(missing)} of the things that it asks for: "
        f"{listed(missing)}; take a model that it can have ({', '.join(fitting_models(facts))}), or a template that "
        f"extends {model.name} and does without these"
    )
