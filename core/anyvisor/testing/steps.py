"""The tests of a boot step: one class to inherit, and a plugin is compared with anyvisor's own steps.

    class TestFlatGdt(StepTests):
        plugin = anyvisor_flat_gdt
        changes = {"anyvisor_gdt", "anyvisor_cpuid", "anyvisor_mptable"}

        def test_what_it_is_for(self, difference):
            assert "anyvisor_mptable: dropped by anyvisor_flat_gdt" in difference

Needs the extra `testing`.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from anyvisor import hookspecs
from anyvisor.architectures import part
from anyvisor.backends import generic_facts, open_hypervisor
from anyvisor.config import MachineConfig
from anyvisor.difference.plan import PlanDiff, step_changes
from anyvisor.facts import HostFacts
from anyvisor.hypervisor import Hypervisor
from anyvisor.plan import BootPlan
from anyvisor.plugins import did_you_mean
from anyvisor.plugins.hooks import hook_names
from anyvisor.testing.kernels import tiny_kernel
from anyvisor.testing.step_launch import MOCK, launch_and_close, mock_hosts
from anyvisor.testing.step_trial import Setting, Trial, fail

MOST = 254
"""As many vCPUs as every table can name, the MP table too."""
VCPUS = (1, 2, 8, MOST)


def boot_steps() -> list[str]:
    """The hooks that are boot steps: those that are given the machine's configuration."""
    return [name for name in hook_names() if "config" in inspect.signature(getattr(hookspecs, name)).parameters]


class StepTests:
    """Everything that holds for a boot step. Subclass it as `Test...` and set `plugin` and `changes`.

    `plugin` is a module or object with hook implementations; `changes` the hooks of the boot steps that it is meant to
    provide, adjust or drop. The fixtures `config` and `facts` say for which machine on which host `plan`,
    `default_plan` and `difference` are; override them where your step wants others, and `hosts` to try it on others.
    """

    plugin: ClassVar[Any] = None
    changes: ClassVar[Collection[str] | None] = None

    @classmethod
    def hosts(cls) -> Mapping[str, HostFacts]:
        """The hosts to plan for, by name: a plain machine, and those that the mock backend knows."""
        return {"generic": generic_facts(), **mock_hosts()}

    @pytest.fixture
    def kernel(self, tmp_path: Path) -> Path:
        """A kernel that halts."""
        return tiny_kernel(tmp_path / "vmlinux")

    @pytest.fixture
    def config(self, kernel: Path) -> MachineConfig:
        """The machine: two vCPUs, that kernel, and every table, so that every step is asked."""
        return MachineConfig(kernel=kernel, memory="64M", vcpus=2, tables="both")

    @pytest.fixture
    def facts(self) -> HostFacts:
        """The host: a plain machine."""
        return generic_facts()

    @pytest.fixture
    def trial(self) -> Trial:
        """The plugin on top of anyvisor's own, and those alone."""
        if self.plugin is None:
            fail(f"{type(self).__name__} has no plugin: set `plugin` to the module or object to be tested")
        return Trial(self.plugin)

    @pytest.fixture
    def setting(self, config: MachineConfig, facts: HostFacts) -> Setting:
        """What the plans of the other fixtures are for."""
        return Setting("of the fixture `facts`", facts, config)

    @pytest.fixture
    def plan(self, trial: Trial, setting: Setting) -> BootPlan:
        """The boot plan with the plugin."""
        return trial.plan(setting)

    @pytest.fixture
    def default_plan(self, trial: Trial, setting: Setting) -> BootPlan:
        """The same without it."""
        return trial.default_plan(setting)

    @pytest.fixture
    def difference(self, default_plan: BootPlan, plan: BootPlan) -> PlanDiff:
        """What the plugin changes, to be asserted on and printed."""
        return default_plan.diff(plan)

    @pytest.fixture
    def hypervisor(self, trial: Trial) -> Iterator[Hypervisor]:
        """The hypervisor to launch on: the mock, which has a hypervisor's rules and no processor."""
        with open_hypervisor(MOCK, trial.plugins) as hypervisor:
            yield hypervisor

    @pytest.fixture
    def settings(self, setting: Setting) -> list[Setting]:
        """That machine; the same with 1, 2 and 8 vCPUs on every host; and with 254 on the first."""
        some = [each for vcpus in VCPUS if vcpus != MOST for each in self._settings(setting, vcpus)]
        return [setting, *some, *itertools.islice(self._settings(setting, MOST), 1)]

    def _settings(self, setting: Setting, vcpus: int) -> Iterator[Setting]:
        for name, facts in self.hosts().items():
            if vcpus <= facts.max_vcpus:
                yield Setting(name, facts, setting.config.replace(vcpus=vcpus))

    def _declared(self) -> set[str]:
        if not self.changes or isinstance(self.changes, str):
            name = type(self).__name__
            fail(f"{name} does not say what its plugin changes: set `changes` to a set of the hooks of its boot steps")
        return set(self.changes)

    # -- the plugin ------------------------------------------------------------------------------------------

    def test_the_plugin_registers_without_a_problem(self, trial: Trial) -> None:
        """Every hook that it implements exists, with those inputs."""
        if trial.plugins.problems:
            fail("\n".join(map(str, trial.plugins.problems)))

    def test_changes_names_boot_steps(self) -> None:
        """What it is meant to change are boot steps."""
        for hook in sorted(self._declared() - set(boot_steps())):
            hint = did_you_mean(hook, boot_steps()) or f"; the boot steps are {', '.join(boot_steps())}"
            fail(f"`changes` names {hook}, which is no boot step{hint}")

    # -- its plans -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("vcpus", VCPUS, ids=str)
    def test_there_is_a_plan_on_every_host(self, trial: Trial, setting: Setting, vcpus: int) -> None:
        """The pieces fit together, whatever the host and the number of vCPUs."""
        for each in self._settings(setting, vcpus):
            trial.plan(each)

    def test_only_the_declared_steps_are_changed(self, trial: Trial, settings: list[Setting]) -> None:
        """No other step is provided, adjusted or dropped by another plugin than without this one."""
        for setting in settings:
            for change in step_changes(trial.default_plan(setting), trial.plan(setting)):
                if change.subject not in self._declared():
                    what = f"a step that is not declared is changed ({setting}): {change}"
                    fail(f"{what}; add {change.subject} to `changes`, or leave it alone")

    def test_every_declared_step_is_changed(self, trial: Trial, settings: list[Setting]) -> None:
        """Each declared step gives another result than without the plugin, for one of the machines at least."""
        declared = self._declared()
        unchanged = set(declared)
        touched: set[str] = set()
        for setting in settings:
            plan, calls = trial.watched(setting)
            touched |= {change.subject for change in step_changes(trial.default_plan(setting), plan)}
            unchanged -= {call.hook for call in calls if call.hook in unchanged and call.result != trial.without(call)}
        for hook in sorted(unchanged | (declared - touched)):
            how = (
                "takes part in it, and gives the same result as without it" if hook in touched else "has no part in it"
            )
            fail(f"{hook} is in `changes`, but the plugin {trial.name} {how}, in all of {len(settings)} plans")

    def test_the_same_machine_gets_the_same_plan_again(self, trial: Trial, setting: Setting) -> None:
        """A step depends on nothing but what it is given."""
        plan, calls = trial.watched(setting)
        trial.plan(Setting(setting.host, setting.facts, setting.config.replace(vcpus=1)))
        again, calls_again = trial.watched(setting)
        for first, second in zip(calls, calls_again, strict=False):
            if (first.hook, first.given) == (second.hook, second.given) and first.result != second.result:
                found = plan.diff(again) or f"{first.result!r}, then {second.result!r}"
                fail(f"{first.title} was given the same twice, and gave two results ({setting}):\n{found}")
        if plan != again:
            fail(f"the same machine got two plans ({setting}):\n{plan.diff(again)}")

    def test_what_a_step_is_given_stays_as_it_is(self, trial: Trial, setting: Setting) -> None:
        """A step returns a new value and changes none that others have."""
        default = trial.default_plan(setting)
        _, calls = trial.watched(setting, copying=True)
        for call in calls:
            for name in call.given:
                if call.given[name] != call.given_after[name]:
                    fail(f"{call.title} changed its argument {name}; return a new value: attrs.evolve({name}, ...)")
        if default != trial.default_plan(setting):
            found = default.diff(trial.default_plan(setting))
            fail(f"{trial.name} changed a value that anyvisor's own steps share; return a new one:\n{found}")

    def test_the_plan_survives_json(self, plan: BootPlan) -> None:
        """The plan can be kept in a file."""
        again = BootPlan.from_json(plan.to_json())
        if again != plan:
            fail(f"the plan does not come back from JSON as it was:\n{plan.diff(again)}")

    def test_a_processor_would_enter_the_plan(self, trial: Trial, settings: list[Setting]) -> None:
        """The registers do not contradict each other."""
        for setting in settings:
            if found := part(setting.facts.architecture, "entry_checks").check_plan(trial.plan(setting)):
                fail(f"a processor refuses to enter this plan ({setting}):\n" + "\n".join(map(str, found)))

    def test_the_plan_can_be_launched(self, trial: Trial, config: MachineConfig, hypervisor: Hypervisor) -> None:
        """The hypervisor takes all of a plan for it, and nothing stays open. The mock refuses what KVM refuses."""
        setting = Setting(hypervisor.facts.backend, hypervisor.facts, config)
        launch_and_close(trial.plan(setting), hypervisor, trial.plugins)
