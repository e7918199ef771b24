"""Configuration and host facts in, boot plan out: the hooks are asked step by step, and nothing is launched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from anyvisor.architectures import part
from anyvisor.config import MachineConfig
from anyvisor.errors import ConfigError, PluginError, UnsupportedConfig
from anyvisor.facts import Capability, HostFacts
from anyvisor.memory import Region, format_size
from anyvisor.plan import BootPlan, Step
from anyvisor.plugins import UNSEEN, Credit, Plugins, crediting, default_plugins

T = TypeVar("T")


def assemble(config: MachineConfig, facts: HostFacts, plugins: Plugins | None = None) -> BootPlan:
    """The boot plan for a machine as configured, on a host as described. Pure: it reads files and touches nothing else.

    ConfigError and KernelImageError for what the user got wrong, UnsupportedConfig for what that host cannot give,
    PlanError when the pieces do not fit together, PluginError when a plugin returns something its hook does not allow.
    """
    if config.vcpus > facts.max_vcpus:
        raise UnsupportedConfig(
            f"vcpus: {config.vcpus} are more than the {facts.backend} backend can run here ({facts.max_vcpus})"
        )
    if config.deterministic and not facts.has(Capability.DETERMINISTIC):
        raise UnsupportedConfig(
            f"deterministic: the {facts.backend} backend knows only the host's time; use one that can count its own"
        )
    steps = Steps(plugins or default_plugins())
    plan = cast("BootPlan", part(facts.architecture, "boot").assemble(config, facts, steps))
    steps.look("anyvisor_plan_ready", plan=plan)
    return plan


def check_ram(ram: Iterable[Region], facts: HostFacts, guest_address_bits: int = 64) -> None:
    """ConfigError when some RAM lies where the processor that the guest sees has no addresses.

    UnsupportedConfig when it lies where the host's has none.
    """
    bits = min(facts.physical_address_bits, guest_address_bits)
    is_guests = bits < facts.physical_address_bits
    whose = "guest's" if is_guests else f"{facts.backend} backend's"
    for region in ram:
        if region.end > 1 << bits:
            raise (ConfigError if is_guests else UnsupportedConfig)(
                f"memory: {region} ends beyond the {bits} address bits of the {whose} "
                f"processor ({format_size(1 << bits)}); give the machine less"
            )


class Steps:
    """Calls the hooks of the boot steps, checks what comes back, and remembers who provided it."""

    def __init__(self, plugins: Plugins):
        self._plugins = plugins
        self._taken: dict[str, Step] = {}
        self._credits: dict[str, list[Credit]] = {}

    @property
    def taken(self) -> tuple[Step, ...]:
        """The steps so far, each once, in the order in which they were first taken."""
        return tuple(self._taken.values())

    def provider(self, hook: str) -> str:
        """Who provided (and adjusted) the latest result of that hook, as `plugin` or `plugin+adjuster`."""
        step = self._taken.get(hook)
        return "+".join(filter(None, [step.provided_by, *step.adjusted_by])) if step else ""

    def one(self, hook: str, kind: type[T], **inputs: Any) -> T:
        """The result of a step that must have one; PluginError when nobody provides it or it is no `kind`."""
        try:
            result = self.maybe(hook, kind, **inputs)
        except PluginError as error:
            self._check_not_lost(hook, error)
            raise
        if result is None:
            self._check_not_lost(hook)
            left_out = ", ".join(info.name for info in self._plugins.blocked)
            cause = (
                f"left out are {left_out}" if left_out else "anyvisor's own defaults are missing: reinstall anyvisor"
            )
            raise PluginError(f"no plugin provides {hook}; {cause}")
        return result

    def maybe(self, hook: str, kind: type[T], **inputs: Any) -> T | None:
        """The result of a step, or None when nobody provides it."""
        try:
            result = self._call(hook, inputs)
        except PluginError as error:  # of a wrapper, perhaps, that could do nothing with what another returned
            if wrong := self._first(hook, lambda given: not isinstance(given, kind | None)):
                raise _wrong_type(wrong.plugin, hook, wrong.result, kind) from error
            raise
        if result is not None:
            self._check(hook, result, kind)
        return cast("T | None", result)

    def some(self, hook: str, kind: Any, **inputs: Any) -> tuple[Any, ...]:
        """The result of a step that returns a tuple of `kind`s."""
        result = self.one(hook, tuple, **inputs)
        for each in result:
            self._check(hook, each, kind)
        return result

    def all(self, hook: str, kind: type[T], **inputs: Any) -> tuple[T, ...]:
        """What every implementation of a collecting step returns, defaults first, joined."""
        parts = self._call(hook, inputs)
        self._check(hook, parts, list)
        joined: list[T] = []
        for each in reversed(parts):
            self._check(hook, each, (tuple, list))
            joined += each
        for each in joined:
            self._check(hook, each, kind)
        return tuple(joined)

    def look(self, hook: str, **inputs: Any) -> None:
        """Tell onlookers; what they return does not matter."""
        self._call(hook, inputs)

    def _call(self, hook: str, inputs: dict[str, Any]) -> Any:
        with crediting() as credits_:
            self._credits[hook] = credits_
            result = getattr(self._plugins.hook, hook)(**inputs)
        if credits_:
            self._taken[hook] = _step(hook, credits_, result)
        return result

    def _check(self, hook: str, value: object, kind: Any) -> None:
        if not isinstance(value, kind):
            giver = self._first(hook, lambda given: _holds(given, value))
            raise _wrong_type(giver.plugin if giver else self.provider(hook), hook, value, kind)

    def _check_not_lost(self, hook: str, cause: PluginError | None = None) -> None:
        """PluginError for the wrapper that got a result and returned None, if one did."""
        provided = any(not credit.adjusted for credit in self._credits[hook])
        if provided and (loser := self._first(hook, lambda given: given is None)):
            raise PluginError(
                f"plugin {loser.plugin} adjusts {hook} and returned nothing; return the result"
            ) from cause

    def _first(self, hook: str, wrong: Callable[[object], bool]) -> Credit | None:
        """Who was the first to return something `wrong` when the hook was called last: that is whose fault it is."""
        known = (credit for credit in self._credits[hook] if credit.result is not UNSEEN)
        return next((credit for credit in known if wrong(credit.result)), None)


def _wrong_type(plugin: str, hook: str, value: object, kind: Any) -> PluginError:
    wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
    return PluginError(f"plugin {plugin} returned a {type(value).__name__} from {hook}, which wants a {wanted}")


def _holds(result: object, value: object) -> bool:
    """Whether a result is that very value, or a list that has it."""
    return result is value or (isinstance(result, tuple | list) and any(_holds(each, value) for each in result))


def _step(hook: str, credits_: list[Credit], result: object) -> Step:
    providers = [credit.plugin for credit in credits_ if not credit.adjusted]
    adjusters = tuple(credit.plugin for credit in credits_ if credit.adjusted)
    return Step(hook, ",".join(reversed(providers)), adjusters, dropped=result is None and bool(providers))
