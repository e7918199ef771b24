"""Plan and hypervisor in, machine out: the only road into a hypervisor.

It has phases, not architectures: load guest memory; create the VM and map the memory; VM states wanted before vCPUs;
vCPUs; VM states wanted after; each vCPU's states in the plan's order; devices. Whatever fails, everything made so far
is given back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from anyvisor.assemble import assemble
from anyvisor.backends import open_hypervisor
from anyvisor.bus import Bus
from anyvisor.config import MachineConfig
from anyvisor.console import Console
from anyvisor.device import Device, DeviceContext, attach
from anyvisor.errors import ConfigError, GuestMemoryError, HypervisorError, KernelImageError, PluginError, Unsupported
from anyvisor.facts import Capability, HostFacts
from anyvisor.flight import CAPACITY, ExitRing
from anyvisor.hypervisor import Hypervisor, Vcpu, Vm
from anyvisor.interrupts import InterruptWiring
from anyvisor.machine import Machine
from anyvisor.memory import GuestMemory, format_size
from anyvisor.plan import Blob, BootPlan, DeviceSpec, VcpuPlan, state_names
from anyvisor.plugins import Plugins, blaming, default_plugins, import_target
from anyvisor.states import Change

if TYPE_CHECKING:
    from anyvisor.exit_trace import ExitTrace


def launch(
    plan: BootPlan,
    hypervisor: Hypervisor,
    plugins: Plugins | None = None,
    *,
    overcommit: bool = False,
    shared_memory: bool = False,
    keep_exits: int = CAPACITY,
    trace_exits: ExitTrace | None = None,
) -> Machine:
    """Carry the plan out: a `Machine` ready to `start`, paused before its first instruction.

    The machine owns what was made for it; close it before the hypervisor. The last `keep_exits` exits of each vCPU are
    in `Machine.flight` (0: there is no flight recorder); `trace_exits` gets all of them, and stays the caller's to
    close. GuestMemoryError when the host has less RAM than the plan wants and `overcommit` is not set, Unsupported when
    the hypervisor cannot do what the plan needs, HypervisorError when it refuses a state.
    """
    plugins = plugins or default_plugins()
    _check(plan, hypervisor.facts)
    if not overcommit:
        _check_host_memory(plan)
    with ExitStack() as stack:
        memory = stack.enter_context(GuestMemory(plan.ram, shared=shared_memory))
        for blob in plan.blobs:
            load(memory, blob)
        vm = hypervisor.create_vm(deterministic=plan.deterministic)
        stack.pop_all()
        stack.callback(_give_back, vm, memory)
        vcpus = _build(plan, vm, memory)
        bus = Bus()
        flight = _flight(vcpus, bus, keep_exits, trace_exits)
        machine = Machine(plan, vm, vcpus, memory, bus, plugins, flight)
        _add_devices(plan, machine, stack)
        machine.own(stack.pop_all())
        return machine


def _flight(vcpus: list[Vcpu], bus: Bus, keep_exits: int, trace: ExitTrace | None) -> list[ExitRing]:
    """A flight recorder for each vCPU."""
    if keep_exits < 0:
        raise ConfigError(f"keep_exits: {keep_exits} is no number of exits; 0 is for none")
    if trace is None:
        return [ExitRing(keep_exits) for _ in vcpus] if keep_exits else []
    return [trace.ring(vcpu.index, bus, keep_exits) for vcpu in vcpus]


def _give_back(vm: Vm, memory: GuestMemory) -> None:
    """The VM first: memory that a VM still maps must not go back to the host, where it would become somebody else's.

    A VM whose `close` fails may be gone all the same: then closing it once more does not.
    """
    try:
        vm.close()
    except BaseException:
        vm.close()
        memory.close()
        raise
    memory.close()


def load(memory: GuestMemory, blob: Blob) -> None:
    """Put one piece of a plan into guest memory; file contents are read straight into place."""
    if isinstance(blob.content, bytes):
        memory.write(blob.guest_address, blob.content)
        return
    part = blob.content
    try:
        if not part.path.is_file():
            raise KernelImageError(f"cannot load {blob.name}: no regular file is there any more", path=part.path)
        with part.path.open("rb", buffering=0) as file:
            file.seek(part.offset)
            memory.load(blob.guest_address, file, part.size_bytes)
    except (OSError, GuestMemoryError) as error:
        raise KernelImageError(
            f"cannot load {blob.name}: {error}; has the file changed since the plan was made?", path=part.path
        ) from error


def _build(plan: BootPlan, vm: Vm, memory: GuestMemory) -> list[Vcpu]:
    for ram in memory:
        vm.map_memory(ram)
    for state in plan.vm_states_before:
        vm.put(state)
    vcpus = [vm.create_vcpu(vcpu.index, vcpu.hardware_id) for vcpu in plan.vcpus]
    for state in plan.vm_states_after:
        vm.put(state)
    for vcpu, wanted in zip(vcpus, plan.vcpus, strict=True):
        _set_states(plan, vcpu, wanted)
    return vcpus


def _set_states(plan: BootPlan, vcpu: Vcpu, wanted: VcpuPlan) -> None:
    """Put a vCPU's states, in their order. The error of one that is refused says which rules it breaks."""
    for each in wanted.states:
        state = each.apply(vcpu.get(each.kind)) if isinstance(each, Change) else each
        try:
            vcpu.put(state)
        except HypervisorError as error:
            from anyvisor.diagnosis.refusal import broken_rules  # noqa: PLC0415 - only a refusal is explained

            error.findings = broken_rules(plan, wanted.index, state)
            raise


def _add_devices(plan: BootPlan, machine: Machine, stack: ExitStack) -> None:
    factories = machine.plugins.names_from("anyvisor_device_factories")
    context = _context(machine)
    for spec in plan.devices:
        if spec.kind not in factories:
            raise PluginError(
                f"device {spec.name}: no installed plugin makes devices of kind {spec.kind!r}; "
                f"there are {', '.join(factories)}"
            )
        target, plugin = factories[spec.kind]
        factory: Callable[[DeviceSpec, DeviceContext], Device] = import_target(
            target, f"device {spec.name} of plugin {plugin}"
        )
        with blaming(f"device {spec.name}: plugin {plugin} cannot make it"):
            device = factory(spec, context)
        stack.callback(device.close)
        attach(machine.bus, spec, device)


def _context(machine: Machine) -> DeviceContext:
    boot_processor, clock = machine.vcpus[0], machine.vm.clock
    wiring = InterruptWiring(machine.vm.set_irq, boot_processor.take_interrupts_from, boot_processor.notify_interrupt)
    clock.on_failure(machine.fail)

    def interrupt(gsi: int | None) -> Callable[[bool], None]:
        if gsi is None:
            return lambda level: None  # noqa: ARG005 - a line that leads nowhere
        return wiring.line(gsi)

    def console(name: str) -> Console:
        return machine.consoles.setdefault(name, Console(name))

    return DeviceContext(machine.memory, interrupt, console, machine.request_stop, clock, wiring)


def _check(plan: BootPlan, facts: HostFacts) -> None:
    """Refuse what the hypervisor cannot do before anything is made."""
    if plan.architecture != facts.architecture:
        raise Unsupported(
            f"the plan is for {plan.architecture}, the {facts.backend} backend here runs {facts.architecture}"
        )
    if plan.deterministic and not facts.has(Capability.DETERMINISTIC):
        raise Unsupported(f"the plan is deterministic, the {facts.backend} backend knows only the host's time")
    if len(plan.vcpus) > facts.max_vcpus:
        raise Unsupported(
            f"the plan has {len(plan.vcpus)} vCPUs, the {facts.backend} backend runs at most {facts.max_vcpus}"
        )
    if len(plan.ram) > facts.max_memory_slots:
        raise Unsupported(
            f"the plan has {len(plan.ram)} regions of RAM, "
            f"the {facts.backend} backend maps at most {facts.max_memory_slots}"
        )
    wanted = dict.fromkeys(state_names([*plan.vm_states_before, *plan.vm_states_after]))
    wanted |= dict.fromkeys(name for vcpu in plan.vcpus for name in state_names(vcpu.states))
    if missing := [name for name in wanted if name not in facts.states]:
        raise Unsupported(
            f"the {facts.backend} backend does not know {', '.join(missing)}; assemble the plan with its own facts"
        )


def _check_host_memory(plan: BootPlan) -> None:
    wanted = sum(region.size_bytes for region in plan.ram)
    if not hasattr(os, "sysconf"):
        return
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if wanted > host:
        raise GuestMemoryError(
            f"the guest wants {format_size(wanted)} of RAM, this host has {host >> 20}M; "
            "give it less memory, or allow overcommit"
        )


def boot(config: MachineConfig, backend: str | Hypervisor = "auto", plugins: Plugins | None = None) -> Machine:
    """Boot a machine: plan it, launch it, start it. A context manager, as every `Machine`.

    `backend` is a name (`kvm`), `auto`, or an open hypervisor, which then stays the caller's to close.
    """
    plugins = plugins or default_plugins()
    with ExitStack() as stack:
        hypervisor = (
            stack.enter_context(open_hypervisor(backend, plugins, config)) if isinstance(backend, str) else backend
        )
        plan = assemble(config, hypervisor.facts, plugins)
        machine = launch(plan, hypervisor, plugins, overcommit=config.overcommit, shared_memory=config.shared_memory)
        machine.own(stack.pop_all())
    try:
        return machine.start()
    except BaseException:
        machine.close()
        raise
