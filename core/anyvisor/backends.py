"""Opening a hypervisor by name, and telling which there are."""

from __future__ import annotations

from typing import cast

import attrs

from anyvisor.architectures import part
from anyvisor.errors import AnyvisorError, HypervisorUnavailable, PluginError
from anyvisor.facts import HostFacts
from anyvisor.hypervisor import Hypervisor
from anyvisor.plugins import Plugins, blaming, default_plugins, import_target

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


def open_hypervisor(name: str = "auto", plugins: Plugins | None = None) -> Hypervisor:
    """The hypervisor of that name, opened; `auto` takes the first that can be used here.

    HypervisorUnavailable says why not, and what to do. A context manager; close it after its machines.
    """
    plugins = plugins or default_plugins()
    targets = plugins.names_from(HOOK)
    if name != "auto":
        if name not in targets:
            raise HypervisorUnavailable(
                f"there is no backend {name!r}; installed are {', '.join(sorted(targets)) or 'none'}"
            )
        return _open(name, *targets[name])
    reasons = []
    for each, (target, plugin) in targets.items():
        try:
            return _open(each, target, plugin)
        except AnyvisorError as error:
            reasons.append(f"{each}: {error}")
    raise HypervisorUnavailable("no backend can be used here: " + ("; ".join(reasons) or "none is installed"))


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
