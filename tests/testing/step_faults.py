"""Broken step plugins: the source, the declared changes, the test that must fail, and what it must say."""

GOOD = """
class Mine:
    @hookimpl
    def anyvisor_gdt(self):
        return Gdt(*BOOT_GDT, Segment.data(privilege=3))

    @hookimpl(wrapper=True)
    def anyvisor_cpuid(self, vcpu):
        cpuid = yield
        return cpuid.without(Feature.SSE2)

    @hookimpl(wrapper=True)
    def anyvisor_mptable(self):
        yield
"""
GOOD_CHANGES = {"anyvisor_gdt", "anyvisor_cpuid", "anyvisor_mptable"}

FAULTS = {
    "impure": (
        """
        class Mine:
            plans = 0
            @hookimpl
            def anyvisor_gdt(self):
                self.plans += 1
                return Gdt(*BOOT_GDT, Segment.data(base=self.plans))
        """,
        {"anyvisor_gdt"},
        "test_the_same_machine_gets_the_same_plan_again",
        "anyvisor_gdt was given the same twice, and gave two results (2 vCPUs, host of the fixture `facts`):"
        "*0x30 base 0x* -> ",
    ),
    "impure in one vCPU only": (
        """
        class Mine:
            asked = 0
            @hookimpl(wrapper=True)
            def anyvisor_cpuid(self, vcpu):
                cpuid = yield
                self.asked += vcpu == 1
                return cpuid.without(Feature.SSE, *([Feature.SSE2] if vcpu == 1 and self.asked % 2 else []))
        """,
        {"anyvisor_cpuid"},
        "test_the_same_machine_gets_the_same_plan_again",
        "anyvisor_cpuid for vCPU 1 was given the same twice",
    ),
    "misspelt hook": (
        """
        class Mine:
            @hookimpl
            def anyvisor_gtd(self):
                return BOOT_GDT
        """,
        {"anyvisor_gdt"},
        "test_the_plugin_registers_without_a_problem",
        "there is no hook anyvisor_gtd, so it is never called; did you mean anyvisor_gdt?",
    ),
    "input that the hook does not have": (
        """
        class Mine:
            @hookimpl
            def anyvisor_gdt(self, initrd):
                return BOOT_GDT
        """,
        {"anyvisor_gdt"},
        "test_the_plugin_registers_without_a_problem",
        "plugin Mine: refused: *initrd*",
    ),
    "GDT with an entry that contradicts itself": (
        """
        class Mine:
            @hookimpl
            def anyvisor_gdt(self):
                return Gdt(*BOOT_GDT[:2], attrs.evolve(BOOT_GDT[2], db=True))
        """,
        {"anyvisor_gdt"},
        "test_there_is_a_plan_on_every_host[2]",
        "no plan with Mine (2 vCPUs, host generic), in anyvisor_gdt: PlanError: segment (*L and D are both set*",
    ),
    "GDT with an idle TSS": (
        """
        class Mine:
            @hookimpl
            def anyvisor_gdt(self):
                return Gdt(*BOOT_GDT[:4], Segment.tss(busy=False))
        """,
        {"anyvisor_gdt"},
        "test_a_processor_would_enter_the_plan",
        "vCPU 0 TR: holds no busy task-state segment *tr-is-busy* (found type 0x9 (tss64), wanted type 0xb *27.3.1.2)",
    ),
    "GDT without the selectors of the boot protocol": (
        """
        class Mine:
            @hookimpl
            def anyvisor_gdt(self):
                return Gdt(*BOOT_GDT[:3])
        """,
        {"anyvisor_gdt"},
        "test_there_is_a_plan_on_every_host[1]",
        "no plan with Mine (1 vCPU, host generic), in anyvisor_registers: PlanError: selector 0x18 selects nothing*",
    ),
    "move onto something": (
        """
        class Mine:
            @hookimpl(wrapper=True)
            def anyvisor_memory_layout(self):
                layout = yield
                return attrs.evolve(layout, gdt=layout.zero_page + 0x100)
        """,
        {"anyvisor_memory_layout"},
        "test_there_is_a_plan_on_every_host[1]",
        "no plan with Mine (1 vCPU, host generic), after the last step: PlanError: zero page * overlaps GDT ",
    ),
    "wrong type": (
        """
        class Mine:
            @hookimpl
            def anyvisor_gdt(self):
                return BOOT_GDT.to_bytes()
        """,
        {"anyvisor_gdt"},
        "test_there_is_a_plan_on_every_host[8]",
        "no plan with Mine (8 vCPUs, host generic), in anyvisor_gdt: PluginError: "
        "plugin Mine returned a bytes from anyvisor_gdt, which wants a Gdt",
    ),
    "exception": (
        """
        class Mine:
            @hookimpl
            def anyvisor_msrs(self, vcpu):
                return {}[vcpu]
        """,
        {"anyvisor_msrs"},
        "test_there_is_a_plan_on_every_host[254]",
        "no plan with Mine (254 vCPUs, host generic), in anyvisor_msrs: PluginError: *KeyError: 0",
    ),
    "wrapper that forgets to return": (
        """
        class Mine:
            @hookimpl(wrapper=True)
            def anyvisor_cpuid(self):
                cpuid = yield
                cpuid.without(Feature.SSE2)
        """,
        {"anyvisor_cpuid"},
        "test_there_is_a_plan_on_every_host[1]",
        "*plugin Mine adjusts anyvisor_cpuid and returned nothing; return the result",
    ),
    "step that is not declared": (
        GOOD,
        GOOD_CHANGES - {"anyvisor_cpuid"},
        "test_only_the_declared_steps_are_changed",
        "a step that is not declared is changed (2 vCPUs, host of the fixture `facts`): "
        "anyvisor_cpuid: adjusted by nobody -> Mine; add anyvisor_cpuid to `changes`, or leave it alone",
    ),
    "dropped step that is not declared": (
        GOOD,
        GOOD_CHANGES - {"anyvisor_mptable"},
        "test_only_the_declared_steps_are_changed",
        "*anyvisor_mptable: dropped by Mine; add anyvisor_mptable to `changes`, or leave it alone",
    ),
    "step that does nothing": (
        """
        class Mine:
            @hookimpl(wrapper=True)
            def anyvisor_gdt(self):
                return (yield)
        """,
        {"anyvisor_gdt"},
        "test_every_declared_step_is_changed",
        "anyvisor_gdt is in `changes`, but the plugin Mine takes part in it, and gives the same result as without it,*",
    ),
    "declared step that is left alone": (
        GOOD,
        GOOD_CHANGES | {"anyvisor_registers"},  # the registers follow the GDT, without the plugin's doing
        "test_every_declared_step_is_changed",
        "anyvisor_registers is in `changes`, but the plugin Mine has no part in it, in all of 5 plans",
    ),
    "argument changed": (
        """
        class Mine:
            @hookimpl(wrapper=True)
            def anyvisor_gdt(self, layout):
                object.__setattr__(layout, "stack_top", 0x6000)
                return Gdt(*(yield), Segment.data(privilege=3))
        """,
        {"anyvisor_gdt"},
        "test_what_a_step_is_given_stays_as_it_is",
        "anyvisor_gdt changed its argument layout; return a new value: attrs.evolve(layout, ...)",
    ),
    "shared value changed": (
        """
        class Mine:
            @hookimpl(wrapper=True)
            def anyvisor_gdt(self):
                gdt = yield
                if len(gdt) == 5:
                    object.__setattr__(gdt, "segments", (*gdt.segments, Segment.data(privilege=3)))
                return gdt

        @pytest.fixture(autouse=True)
        def as_before():
            segments = BOOT_GDT.segments
            yield
            object.__setattr__(BOOT_GDT, "segments", segments)
        """,
        {"anyvisor_gdt"},
        "test_what_a_step_is_given_stays_as_it_is",
        "Mine changed a value that anyvisor's own steps share; return a new one:",
    ),
    "registers that no processor has": (
        """
        class Mine:
            @hookimpl(wrapper=True)
            def anyvisor_registers(self, vcpu):
                states = yield
                off = Cr4(0)
                return tuple(Change(Sregs, **{**s.fields, "cr4": off}) if isinstance(s, Change) else s for s in states)
        """,
        {"anyvisor_registers"},
        "test_a_processor_would_enter_the_plan",
        "vCPU 0 CR4: long mode without PAE *long-mode-needs-pae*SDM Vol. 3, 27.3.1.1; APM Vol. 2, 15.5.1)",
    ),
    "MSR that no host has": (
        """
        class Mine:
            @hookimpl(wrapper=True)
            def anyvisor_msrs(self):
                msrs = yield
                return msrs.replace({0x12345: 1})
        """,
        {"anyvisor_msrs"},
        "test_the_plan_can_be_launched",
        "the mock backend refuses the plan: HypervisorError: put Msrs *MSR 0x12345=0x1 refused",
    ),
    "CR3 that no processor has": (
        """
        class Mine:
            @hookimpl(wrapper=True)
            def anyvisor_registers(self, vcpu):
                states = yield
                wrong = {"cr3": 1 << 60}
                return tuple(Change(Sregs, **{**s.fields, **wrong}) if isinstance(s, Change) else s for s in states)
        """,
        {"anyvisor_registers"},
        "test_the_plan_can_be_launched",
        "the mock backend refuses the plan: HypervisorError: put Sregs *cr3=0x1000000000000000",
    ),
    "device that stays open": (
        """
        class Open:
            def __init__(self): self.fd = os.open("/dev/null", os.O_RDONLY)
            def read(self, offset, size_bytes): return 0
            def write(self, offset, size_bytes, value): pass
            def close(self): pass

        def make(spec, context): return Open()

        class Mine:
            @hookimpl
            def anyvisor_devices(self):
                return (DeviceSpec("open", "open0", ports=(Region(0x500, 1),)),)
            @hookimpl
            def anyvisor_device_factories(self):
                return {"open": "MODULE:make"}
        """,
        {"anyvisor_devices"},
        "test_the_plan_can_be_launched",
        "closing the machine left open: file descriptor *",
    ),
    "device that nobody makes": (
        """
        class Mine:
            @hookimpl
            def anyvisor_devices(self):
                return (DeviceSpec("nobodys", "open0", ports=(Region(0x500, 1),)),)
        """,
        {"anyvisor_devices"},
        "test_the_plan_can_be_launched",
        "the mock backend refuses the plan: PluginError: device open0: no installed plugin makes devices of kind",
    ),
    "hook that is no boot step": (
        GOOD,
        GOOD_CHANGES | {"anyvisor_device_factories"},
        "test_changes_names_boot_steps",
        "`changes` names anyvisor_device_factories, which is no boot step*",
    ),
    "misspelt change": (
        GOOD,
        GOOD_CHANGES | {"anyvisor_mp_table"},
        "test_changes_names_boot_steps",
        "`changes` names anyvisor_mp_table, which is no boot step; did you mean anyvisor_mptable?",
    ),
}
