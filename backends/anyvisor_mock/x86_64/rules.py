"""KVM's rules for x86_64, by name. Sections are those of the Intel SDM."""

from __future__ import annotations

import errno

from anyvisor_mock.rules import BACKEND, ON_NATIVE, SOURCE, Rule

INVALID = errno.EINVAL

IRQCHIP_FIRST = Rule("irqchip-before-vcpus", "The interrupt chips are created before the first vCPU.", INVALID)
CHIPS_THERE = Rule("chips-before-their-registers", "Chips that were not put have no registers.", errno.ENXIO)
PIT_CHIPS = Rule(
    "pit-needs-irqchip",
    "The PIT is created after the interrupt chips.",
    errno.ENOENT,
    "measured on software KVM of Linux 6.18; Linux 6.1 takes it",
)
PIT_THERE = Rule("pit-before-its-registers", "A PIT that was not put has no registers.", errno.ENXIO)
LINES = Rule("lines-need-irqchip", "Without the interrupt chips there are no lines to raise.", errno.ENXIO)
LAPIC_CHIPS = Rule("lapic-needs-irqchip", "Without the interrupt chips there is no local APIC.", INVALID)
ACTIVITY_CHIPS = Rule(
    "activity-needs-irqchip",
    "Without the interrupt chips every vCPU is runnable, as far as KVM knows.",
    INVALID,
)

LONG_MODE_ACTIVE = Rule("long-mode-is-active", "With EFER.LME and CR0.PG, EFER.LMA is set (Vol. 3, 10.8.5).", INVALID)
LONG_MODE_PAE = Rule("long-mode-needs-pae", "With EFER.LME and CR0.PG, CR4.PAE is set (Vol. 3, 4.1.1).", INVALID)
LMA_LONG_MODE = Rule("lma-is-long-mode", "EFER.LMA is set only with EFER.LME and CR0.PG.", INVALID)
CODE_64 = Rule("code-64-is-long-mode", "CS.L is set only in long mode.", INVALID)
PAGING_PROTECTION = Rule("paging-needs-protection", "CR0.PG is set only with CR0.PE (Vol. 3, 2.5).", INVALID)
NW_CD = Rule("nw-needs-cd", "CR0.NW is set only with CR0.CD (Vol. 3, 2.5).", INVALID)
CR0_WIDTH = Rule("cr0-has-32-bits", "The upper half of CR0 is zero; KVM takes reserved bits of the lower.", INVALID)
CR3_ADDRESS = Rule(
    "cr3-is-an-address",
    "In long mode CR3 has no bits beyond those of physical addresses (CPUID 0x80000008).",
    INVALID,
)
CR4_RESERVED = Rule("cr4-reserved", "No reserved bit of CR4 is set.", INVALID)
CR4_FEATURE = Rule(
    "cr4-needs-feature",
    "OSXSAVE, SMEP, SMAP, FSGSBASE, UMIP, PKE, LA57 and PCIDE of CR4 need their CPUID bit.",
    INVALID,
    ON_NATIVE,
)
APIC_BASE_RESERVED = Rule(
    "apic-base-reserved",
    "No reserved bit of the APIC base is set; bit 10 is one where CPUID has no x2APIC.",
    INVALID,
)
X2APIC = Rule("x2apic-needs-apic", "An x2APIC is enabled: bit 10 of the APIC base needs bit 11.", INVALID)
X2APIC_ID = Rule(
    "x2apic-id-is-fixed", "In x2APIC mode the local APIC's id is the vCPU's number, and stays it.", INVALID
)
DEBUG_WIDTH = Rule("debug-registers-have-32-bits", "The upper halves of DR6 and DR7 are zero (Vol. 3, 18.2).", INVALID)

CPUID_LIMIT = Rule("cpuid-entry-limit", "A CPUID table has at most 256 entries.", errno.E2BIG)
CPUID_ADDRESSES = Rule(
    "cpuid-address-bits", "Linear addresses have 48 or 57 bits, or leaf 0x80000008 says nothing of them.", INVALID
)
CPUID_FROZEN = Rule("cpuid-is-frozen", "Once the vCPU has run, only the table that it has can be put.", INVALID)

MSR_EXISTS = Rule("msr-exists", "Writing MSRs stops at the first that there is not; those before it are set.", INVALID)
MSR_FEATURE = Rule("msr-needs-feature", "IA32_XSS needs its CPUID bit, XSAVES.", INVALID)
MSR_CANONICAL = Rule(
    "msr-is-canonical", "LSTAR, CSTAR and the bases of FS and GS hold canonical addresses (Vol. 1, 3.3.7.1).", INVALID
)
EFER_RESERVED = Rule(
    "efer-reserved", "Written as an MSR, EFER has no reserved bit set; within Sregs KVM does not look.", INVALID
)
MEMORY_TYPES = Rule(
    "memory-types",
    "PAT and MTRRs name types of memory that there are, and no reserved bits (Vol. 3, 12.11 and 12.12).",
    INVALID,
    ON_NATIVE,
)

MXCSR_RESERVED = Rule("mxcsr-reserved", "No reserved bit of MXCSR is set (Vol. 1, 10.2.3).", INVALID)
XSAVE_COMPONENTS = Rule("xsave-components", "An XSAVE area holds components that the host supports.", INVALID)
XSAVE_HEADER = Rule(
    "xsave-header", "An XSAVE area is in standard format, and the rest of its header zero (Vol. 1, 13.4.2).", INVALID
)
XSAVE_SIZE = Rule("xsave-size", "An XSAVE area is no longer than the host's.", INVALID, BACKEND)
XCR0_X87 = Rule("xcr0-has-x87", "Bit 0 of XCR0, x87, is always set (Vol. 3, 2.6).", INVALID)
XCR0_AVX = Rule("xcr0-avx-needs-sse", "AVX in XCR0 needs SSE (Vol. 3, 2.6).", INVALID)
XCR0_AVX512 = Rule(
    "xcr0-avx512-is-whole", "The three AVX-512 bits of XCR0 come together, and with AVX (Vol. 3, 2.6).", INVALID
)
XCR0_MPX = Rule("xcr0-mpx-is-whole", "The two MPX bits of XCR0 come together (Vol. 3, 2.6).", INVALID, SOURCE)
XCR0_AMX = Rule("xcr0-amx-is-whole", "The two AMX bits of XCR0 come together (Vol. 3, 2.6).", INVALID, SOURCE)
XCR0_COMPONENTS = Rule("xcr0-components", "XCR0 has components that CPUID leaf 0xD offers.", INVALID)

EXCEPTION_VECTORS = Rule(
    "exception-vectors", "An exception on its way is one of vectors 0 to 31, and not the NMI.", INVALID
)
SMM_INIT = Rule("smm-and-init", "A vCPU that has received INIT or SIPI is in no system management mode.", INVALID)
