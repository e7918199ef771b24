"""KVM's binary interface on x86_64: the structures of asm/kvm.h."""

# ruff: noqa: N801, D101 - the names are the kernel's, and so is what they mean

from __future__ import annotations

from ctypes import c_int64, c_uint8, c_uint16, c_uint32, c_uint64

from anyvisor_kvm.abi import Struct, alike

KVM_PIT_SPEAKER_DUMMY = 1
KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1 << 0
KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC = 0, 1, 2
KVM_IOAPIC_NUM_PINS = 24
KVM_MAX_XCRS = 16
KVM_APIC_REG_SIZE = 0x400
KVM_X2APIC_API_USE_32BIT_IDS, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK = 1 << 0, 1 << 1
KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, KVM_SYNC_X86_EVENTS = 1 << 0, 1 << 1, 1 << 2
KVM_VCPUEVENT_VALID_NMI_PENDING = 0x01
KVM_VCPUEVENT_VALID_SIPI_VECTOR = 0x02
KVM_VCPUEVENT_VALID_SHADOW = 0x04
KVM_VCPUEVENT_VALID_SMM = 0x08
KVM_VCPUEVENT_VALID_PAYLOAD = 0x10
KVM_VCPUEVENT_VALID_TRIPLE_FAULT = 0x20


class kvm_identity_map(Struct):
    """A lone __u64: the argument of KVM_SET_IDENTITY_MAP_ADDR has no structure of its own."""

    _fields_ = [("address", c_uint64)]


class kvm_regs(Struct):
    _fields_ = alike(c_uint64, "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags")


class kvm_segment(Struct):
    _fields_ = [
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        *alike(c_uint8, "type present dpl db s l g avl unusable padding"),
    ]


class kvm_dtable(Struct):
    _fields_ = [("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3)]


class kvm_sregs(Struct):
    _fields_ = [
        *alike(kvm_segment, "cs ds es fs gs ss tr ldt"),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        *alike(c_uint64, "cr0 cr2 cr3 cr4 cr8 efer apic_base"),
        ("interrupt_bitmap", c_uint64 * 4),
    ]


class kvm_lapic_state(Struct):
    _fields_ = [("regs", c_uint8 * KVM_APIC_REG_SIZE)]


class kvm_msr_list(Struct):
    _fields_ = [("nmsrs", c_uint32)]


class kvm_msr_entry(Struct):
    _fields_ = [("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64)]


class kvm_msrs(Struct):
    _fields_ = [("nmsrs", c_uint32), ("pad", c_uint32)]


class kvm_cpuid_entry2(Struct):
    _fields_ = [
        *alike(c_uint32, "function index flags eax ebx ecx edx"),
        ("padding", c_uint32 * 3),
    ]


class kvm_cpuid2(Struct):
    _fields_ = [("nent", c_uint32), ("padding", c_uint32)]


class kvm_xsave(Struct):
    _fields_ = [("region", c_uint32 * 1024)]


class kvm_xcr(Struct):
    _fields_ = [("xcr", c_uint32), ("reserved", c_uint32), ("value", c_uint64)]


class kvm_xcrs(Struct):
    _fields_ = [
        ("nr_xcrs", c_uint32),
        ("flags", c_uint32),
        ("xcrs", kvm_xcr * KVM_MAX_XCRS),
        ("padding", c_uint64 * 16),
    ]


class kvm_debugregs(Struct):
    _fields_ = [
        ("db", c_uint64 * 4),
        ("dr6", c_uint64),
        ("dr7", c_uint64),
        ("flags", c_uint64),
        ("reserved", c_uint64 * 9),
    ]


class kvm_event_exception(Struct):
    _fields_ = [
        *alike(c_uint8, "injected nr has_error_code pending"),
        ("error_code", c_uint32),
    ]


class kvm_event_interrupt(Struct):
    _fields_ = alike(c_uint8, "injected nr soft shadow")


class kvm_event_nmi(Struct):
    _fields_ = alike(c_uint8, "injected pending masked pad")


class kvm_event_smi(Struct):
    _fields_ = alike(c_uint8, "smm pending smm_inside_nmi latched_init")


class kvm_event_triple_fault(Struct):
    _fields_ = [("pending", c_uint8)]


class kvm_vcpu_events(Struct):
    _fields_ = [
        ("exception", kvm_event_exception),
        ("interrupt", kvm_event_interrupt),
        ("nmi", kvm_event_nmi),
        ("sipi_vector", c_uint32),
        ("flags", c_uint32),
        ("smi", kvm_event_smi),
        ("triple_fault", kvm_event_triple_fault),
        ("reserved", c_uint8 * 26),
        ("exception_has_payload", c_uint8),
        ("exception_payload", c_uint64),
    ]


class kvm_sync_regs(Struct):
    _fields_ = [("regs", kvm_regs), ("sregs", kvm_sregs), ("events", kvm_vcpu_events)]


class kvm_pic_state(Struct):
    _fields_ = alike(
        c_uint8,
        "last_irr irr imr isr priority_add irq_base read_reg_select poll special_mask init_state auto_eoi "
        "rotate_on_auto_eoi special_fully_nested_mode init4 elcr elcr_mask",
    )


class kvm_ioapic_state(Struct):
    _fields_ = [
        ("base_address", c_uint64),
        *alike(c_uint32, "ioregsel id irr pad"),
        ("redirtbl", c_uint64 * KVM_IOAPIC_NUM_PINS),
    ]


class kvm_irqchip(Struct):
    _fields_ = [("chip_id", c_uint32), ("pad", c_uint32), ("chip", c_uint8 * 512)]


class kvm_pit_config(Struct):
    _fields_ = [("flags", c_uint32), ("pad", c_uint32 * 15)]


class kvm_pit_channel_state(Struct):
    _fields_ = [
        ("count", c_uint32),
        ("latched_count", c_uint16),
        *alike(c_uint8, "count_latched status_latched status read_state write_state write_latch"),
        *alike(c_uint8, "rw_mode mode bcd gate"),
        ("count_load_time", c_int64),
    ]


class kvm_pit_state2(Struct):
    _fields_ = [("channels", kvm_pit_channel_state * 3), ("flags", c_uint32), ("reserved", c_uint32 * 9)]


class kvm_clock_data(Struct):
    _fields_ = [
        ("clock", c_uint64),
        ("flags", c_uint32),
        ("pad0", c_uint32),
        ("realtime", c_uint64),
        ("host_tsc", c_uint64),
        ("pad", c_uint32 * 4),
    ]
