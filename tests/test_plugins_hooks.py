"""The hooks as values: their kinds, and who implements them."""

from anyvisor import hookimpl
from anyvisor.plugins import crediting, load_plugins


def wraps():
    return (yield)


def test_hooks_are_told_in_call_order_with_who_is_asked_first():
    wrapper = hookimpl(wrapper=True)(wraps)
    extra = [
        type("Last", (), {"anyvisor_gdt": staticmethod(hookimpl(trylast=True)(lambda: 1))})(),
        type("Wrapper", (), {"anyvisor_gdt": staticmethod(wrapper)})(),
        type("Mine", (), {"anyvisor_gdt": staticmethod(hookimpl(lambda: 2))})(),
        type("Outer", (), {"anyvisor_gdt": staticmethod(hookimpl(wrapper=True, tryfirst=True)(wraps))})(),
    ]
    plugins = load_plugins(extra, installed=False)
    hooks = {each.name: each for each in plugins.hooks}
    gdt = hooks["anyvisor_gdt"]
    found = [(each.plugin, each.wrapper) for each in gdt.implementations]
    assert found == [("Outer", True), ("Wrapper", True), ("Mine", False), ("linux", False), ("Last", False)]
    assert (gdt.asked_first, gdt.kind) == ("Mine", "replaces")
    assert gdt.signature == "anyvisor_gdt(config, layout, kernel) -> Gdt"
    with crediting() as credits_:
        assert plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None) == 2
    assert [each.plugin for each in credits_] == ["Mine", "Wrapper", "Outer"]


def test_every_hook_is_of_one_of_three_kinds():
    hooks = {each.name: each for each in load_plugins(installed=False).hooks}
    by_kind = {kind: [name for name, each in hooks.items() if each.kind == kind] for kind in ("collects", "onlooker")}
    assert by_kind == {
        "collects": ["anyvisor_hypervisors", "anyvisor_device_factories", "anyvisor_commands", "anyvisor_devices"],
        "onlooker": ["anyvisor_plan_ready", "anyvisor_machine_started", "anyvisor_machine_stopped"],
    }
    assert {each.kind for each in hooks.values()} == {"replaces", "collects", "onlooker"}
    assert hooks["anyvisor_devices"].asked_first == hooks["anyvisor_gic"].asked_first == ""
