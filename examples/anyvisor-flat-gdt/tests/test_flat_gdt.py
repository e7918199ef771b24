import anyvisor_flat_gdt
import pytest
from anyvisor_flat_gdt import KERNEL_CODE, USER_CODE, USER_DATA

from anyvisor.testing.steps import StepTests
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.firmware_tables import find_acpi
from anyvisor.x86_64.gdt import Gdt


class TestFlatGdt(StepTests):
    plugin = anyvisor_flat_gdt
    changes = {"anyvisor_gdt", "anyvisor_cpuid", "anyvisor_acpi"}

    @pytest.fixture
    def facts(self):
        """A host whose processor has more than the kernel can handle."""
        return self.hosts()["intel-sapphire-rapids"]

    def test_user_mode_has_segments(self, plan):
        gdt = Gdt.from_bytes(plan.blob("GDT").content)
        assert gdt.segment(USER_DATA).words == "data32 accessed|writable"
        assert gdt.segment(USER_CODE).words == "code64 accessed|readable|executable"
        assert [gdt.segment(each).dpl for each in (KERNEL_CODE, USER_DATA, USER_CODE)] == [0, 3, 3]

    def test_fxsave_saves_all_registers_there_are(self, plan):
        cpuid = plan.vcpus[0].state(Cpuid)
        assert cpuid.has(Feature.FXSR) and cpuid.has(Feature.SSE2)
        assert not any(cpuid.has(feature) for feature in (Feature.XSAVE, Feature.AVX, Feature.AVX512F))

    def test_no_acpi_tables_are_found(self, plan):
        assert find_acpi(plan.read) is None

    def test_this_is_all_that_changes(self, difference):
        assert {"GDT", "RSDP", "DSDT"} <= {change.subject for change in difference.of("Memory")}
        assert difference.hooks == self.changes
        assert "anyvisor_acpi: dropped by anyvisor_flat_gdt" in difference
        assert "every vCPU Cpuid -AVX512F" in difference
