"""The control registers of x86_64 with their bits by name: RFLAGS, CR0, CR4, EFER and the APIC base."""

from __future__ import annotations

from anyvisor.bits import Bits, bit, field


class Rflags(Bits):
    """RFLAGS (SDM Vol. 1, 3.4.3). Bit 1 always reads as one."""

    cf = bit(0)
    fixed = bit(1)
    pf = bit(2)
    af = bit(4)
    zf = bit(6)
    sf = bit(7)
    tf = bit(8)
    interrupt_enable = bit(9)
    df = bit(10)
    of = bit(11)
    iopl = field(12, 2)
    nt = bit(14)
    rf = bit(16)
    vm = bit(17)
    ac = bit(18)
    vif = bit(19)
    vip = bit(20)
    id = bit(21)


class Cr0(Bits):
    """CR0 (SDM Vol. 3, 2.5)."""

    pe = bit(0)
    mp = bit(1)
    em = bit(2)
    ts = bit(3)
    et = bit(4)
    ne = bit(5)
    wp = bit(16)
    am = bit(18)
    nw = bit(29)
    cd = bit(30)
    pg = bit(31)


class Cr4(Bits):
    """CR4 (SDM Vol. 3, 2.5)."""

    vme = bit(0)
    pvi = bit(1)
    tsd = bit(2)
    de = bit(3)
    pse = bit(4)
    pae = bit(5)
    mce = bit(6)
    pge = bit(7)
    pce = bit(8)
    osfxsr = bit(9)
    osxmmexcpt = bit(10)
    umip = bit(11)
    la57 = bit(12)
    vmxe = bit(13)
    smxe = bit(14)
    fsgsbase = bit(16)
    pcide = bit(17)
    osxsave = bit(18)
    smep = bit(20)
    smap = bit(21)
    pke = bit(22)
    cet = bit(23)
    pks = bit(24)


class Efer(Bits):
    """The extended feature enable MSR, 0xC0000080 (SDM Vol. 3, 2.2.1; APM Vol. 2, 3.1.7)."""

    sce = bit(0)
    lme = bit(8)
    lma = bit(10)
    nxe = bit(11)
    svme = bit(12)
    lmsle = bit(13)
    ffxsr = bit(14)


class ApicBase(Bits):
    """IA32_APIC_BASE, MSR 0x1B (SDM Vol. 3, 11.4.4)."""

    bsp = bit(8)
    x2apic = bit(10)
    enabled = bit(11)
    page = field(12, 40)
