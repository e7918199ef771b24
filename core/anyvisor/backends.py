"""Opening a hypervisor by name, and telling which there are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import attrs

from anyvisor.architectures import part
from anyvisor.errors import AnyvisorError, HypervisorUnavailable, PluginError
from anyvisor.facts import Capability, HostFacts
from anyvisor.hypervisor import Hypervisor
from anyvisor.plugins import Plugins, blaming, default_plugins, import_target

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig

HOOK = "anyvisor_hypervisors"


@attrs.frozen
class BackendStatus:
    """A backend as found here: whether it can be used, and if not, why (`reason`) and what to do (`remedy`)."""

    name: str
    plugin: str
    available: bool
    reason: str = ""
    remedy: str = ""
    facts: HostFacts | None = None


def open_hypervisor(
    name: str = "auto",
    plugins: Plugins | None = None,
    config: MachineConfig | None = None,
    tell: Callable[[str], None] = lambda line: None,  # noqa: ARG005
) -> Hypervisor:
    """The hypervisor of that name, opened; `auto` takes the best that can be used here.

    The best runs whole operating systems, and on the host's own processor if there is one that does; with `config`
    it is also able to run that machine, and gives it its CPU model if any does. `tell` is given a line that says which
    one `auto` took, and why.
    HypervisorUnavailable says why not, and what to do. A context manager; close it after its machines.
    """
    plugins = plugins or default_plugins()
    targets = plugins.names_from(HOOK)
    if name == "auto":
        return _open_best(targets, config, tell)
    if name not in targets:
        left_out = f" (left out are {', '.join(info.name for info in plugins.blocked)})" if plugins.blocked else ""
        raise HypervisorUnavailable(
            f"there is no backend {name!r}; installed are {', '.join(sorted(targets)) or 'none'}{left_out}"
        )
    return _open(name, *targets[name])


def _open_best(
    targets: dict[str, tuple[str, str]], config: MachineConfig | None, tell: Callable[[str], None]
) -> Hypervisor:
    opened: dict[str, Hypervisor] = {}
    refused: dict[str, AnyvisorError] = {}
    lacking: dict[str, AnyvisorError] = {}
    with ExitStack() as stack:
        for name, (target, plugin) in targets.items():
            try:
                hypervisor = stack.enter_context(_open(name, target, plugin))
                if not hypervisor.facts.modes:  # a mock: only who names it wants it
                    hypervisor.close()
                    continue
                opened[name] = hypervisor
                _check_fit(hypervisor.facts, config)
                if missing := _missing(hypervisor.facts, config):
                    lacking[name] = HypervisorUnavailable(missing)
            except AnyvisorError as error:
                refused[name] = error
                continue
            if _rank(opened[name].facts) == BEST and name not in lacking:
                break
        fitting = [name for name in opened if name not in refused]
        if able := [name for name in fitting if name not in lacking]:
            fitting, refused = able, refused | lacking
        if not fitting:
            raise HypervisorUnavailable("no backend can be used here: " + (_listed(refused) or NONE_INSTALLED))
        chosen = max(fitting, key=lambda name: _rank(opened[name].facts))
        tell(_choice(chosen, opened, refused))
        best = opened.pop(chosen)
        for loser in opened.values():
            loser.close()
        stack.pop_all()
        return best


NONE_INSTALLED = "none that executes guest code is installed"
BEST = (True, True)
"""The rank of a backend that runs whole operating systems, and on the host's own processor."""


def _rank(facts: HostFacts) -> tuple[bool, bool]:
    return facts.has(Capability.FULL_SYSTEM), facts.has(Capability.NATIVE)


def _check_fit(facts: HostFacts, config: MachineConfig | None) -> None:
    """Refuse a backend that cannot run that machine."""
    if config and config.vcpus > facts.max_vcpus:
        remedy = f"ask for {facts.max_vcpus} at most"
        raise HypervisorUnavailable(f"{config.vcpus} vCPUs are more than the {facts.max_vcpus} it runs", remedy)
    if config and config.deterministic and not facts.has(Capability.DETERMINISTIC):
        raise HypervisorUnavailable("it cannot run a deterministic machine", "do without")


def _missing(facts: HostFacts, config: MachineConfig | None) -> str:
    """Why it cannot give that machine's CPU model; empty if it can, or if the model is no good for any."""
    if config is None or config.cpu == "host":
        return ""
    try:
        missing = part(facts.architecture, "cpu_models").cpu_model(config.cpu).missing(facts)
    except AnyvisorError:  # assembling the machine says it, with all that there is to say
        return ""
    return f"it lacks {len(missing)} of the things that the CPU model {config.cpu} asks for" if missing else ""


def _choice(name: str, opened: dict[str, Hypervisor], refused: dict[str, AnyvisorError]) -> str:
    """Which backend was taken, what it is, and, unless it is the best there could be, why it was not another."""
    facts = opened[name].facts
    if _rank(facts) == BEST:
        return f"backend {name}, on this host's own processor"
    if not facts.has(Capability.FULL_SYSTEM):
        return f"backend {name}, for small guests only: {'; '.join(filter(None, [*facts.notes, _listed(refused)]))}"
    reasons = [f"{other}: {_brief(error)}" for other, error in refused.items()]
    small = [each for each in opened if each not in refused and not opened[each].facts.has(Capability.FULL_SYSTEM)]
    reasons += [f"{other} boots no whole operating system here (`anyvisor doctor` says why)" for other in small]
    return f"backend {name}, an emulated processor" + (f"; {', '.join(reasons)}" if reasons else "")


def _brief(error: AnyvisorError) -> str:
    return error.reason if isinstance(error, HypervisorUnavailable) else str(error)


def _listed(refused: dict[str, AnyvisorError]) -> str:
    """Each backend that cannot be used, with the reason and what to do."""
    return ", ".join(f"{name} ({error})" for name, error in refused.items())


def hypervisors(plugins: Plugins | None = None) -> list[BackendStatus]:
    """Every installed backend, each tried: is it available, and what can it do."""
    plugins = plugins or default_plugins()
    found = []
    for name, (target, plugin) in sorted(plugins.names_from(HOOK).items()):
        try:
            with _open(name, target, plugin) as hypervisor:
                found.append(BackendStatus(name, plugin, True, facts=hypervisor.facts))
        except HypervisorUnavailable as error:
            found.append(BackendStatus(name, plugin, False, error.reason, error.remedy))
        except AnyvisorError as error:
            found.append(BackendStatus(name, plugin, False, str(error)))
    return found


def _open(name: str, target: str, plugin: str) -> Hypervisor:
    factory = import_target(target, f"backend {name} of plugin {plugin}")
    with blaming(f"backend {name} of plugin {plugin} cannot be opened"):
        opened = factory()
    if not isinstance(getattr(opened, "facts", None), HostFacts):
        raise PluginError(
            f"backend {name} of plugin {plugin} is no hypervisor: {type(opened).__name__} has no HostFacts"
        )
    return cast("Hypervisor", opened)


def generic_facts(architecture: str = "x86_64") -> HostFacts:
    """Facts of a plain machine of that architecture, for planning where no hypervisor is at hand."""
    return cast("HostFacts", part(architecture, "generic").FACTS)
