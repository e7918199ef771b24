"""What a vCPU refuses of its FPU, its XSAVE area and XCR0."""

import struct

from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.state import (
    Fpu,
    Xcrs,
    Xsave,
)
from rule_cases.case import NOT_HERE, accepted, refused

NO_SUCH_MSR = 0x12345
NON_CANONICAL = 1 << 62
MXCSR, HEADER = 24, 512
X87, SSE, AVX, AVX512 = 1, 2, 4, 0xE0


# -- the FPU and XSAVE -------------------------------------------------------------------------------------------------


def area(vcpu, *, xstate_bv=X87 | SSE, xcomp_bv=0, reserved=0, mxcsr=0x1F80):
    made = bytearray(vcpu.get(Xsave).area)
    struct.pack_into("<I", made, MXCSR, mxcsr)
    struct.pack_into("<QQQ", made, HEADER, xstate_bv, xcomp_bv, reserved)
    return Xsave(bytes(made))


@accepted
def mxcsr_lives_in_xsave(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, mxcsr=0x1FA0))
    vcpu.put(Fpu(fcw=0x27F, xmm=(bytes(range(16)),) * 16))
    found = vcpu.get(Xsave)
    return found.mxcsr, found.fcw, found.area[160:176], found.xstate_bv & 3


@accepted
def the_fpu_puts_its_components_to_use(bench):
    vcpu = bench.vcpu()
    vcpu.put(Fpu(fcw=0x27F))
    return vcpu.get(Xsave).xstate_bv & 3


@accepted
def mxcsr_of_an_area_that_holds_nothing(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, xstate_bv=0, mxcsr=1 << 20))


@accepted
def the_fpu_is_the_first_part_of_xsave(bench):
    vcpu = bench.vcpu()
    made = bytearray(area(vcpu).area)
    made[0:2] = b"\x7f\x02"
    made[32:42] = bytes(range(10))
    vcpu.put(Xsave(bytes(made)))
    return vcpu.get(Fpu)


@accepted
def the_reset_fpu(bench):
    vcpu = bench.vcpu()
    return vcpu.get(Fpu), vcpu.get(Xsave).mxcsr, vcpu.get(Xsave).fcw


@refused("mxcsr-reserved")
def mxcsr_with_a_bit_that_means_nothing(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, mxcsr=1 << 20))


@refused("xsave-components")
def a_component_that_there_is_not(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, xstate_bv=1 << 62 | 3))


@refused("xsave-header")
def a_compacted_area(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, xcomp_bv=1 << 63 | 3))


@refused("xsave-header")
def a_reserved_word_in_the_header(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, reserved=1))


@refused("xsave-size")
def an_area_that_is_too_long(bench):
    vcpu = bench.vcpu()
    vcpu.put(Xsave(vcpu.get(Xsave).area + bytes(16)))


@accepted
def an_area_that_is_short(bench):
    vcpu = bench.vcpu()
    vcpu.put(Xsave(area(vcpu).area[:1024]))
    return vcpu.get(Xsave).mxcsr


# -- XCR0 --------------------------------------------------------------------------------------------------------------


def xcr0(bench, value):
    vcpu = bench.vcpu()
    vcpu.put(Xcrs(value))
    return vcpu.get(Xcrs)


def supported_xcr0(bench):
    return bench.facts.supported_state(Cpuid)[0xD].eax


@refused("xcr0-has-x87")
def xcr0_without_x87(bench):
    xcr0(bench, SSE)


@refused("xcr0-avx-needs-sse")
def xcr0_of_avx_without_sse(bench):
    xcr0(bench, X87 | AVX)


@refused("xcr0-avx512-is-whole")
def xcr0_of_a_part_of_avx512(bench):
    if supported_xcr0(bench) & AVX512 != AVX512:
        return NOT_HERE
    return xcr0(bench, X87 | SSE | AVX | AVX512 & -AVX512)


@refused("xcr0-components")
def xcr0_of_a_component_that_there_is_not(bench):
    xcr0(bench, X87 | 1 << 62)


@refused("xcr0-components")
def xcr0_without_a_table(bench):
    bench.vcpu(table=False).put(Xcrs(X87 | SSE))


@accepted
def xcr0_of_all_that_there_is(bench):
    return xcr0(bench, supported_xcr0(bench) | X87)


@accepted
def the_size_of_an_area_follows_xcr0(bench):
    table = bench.facts.supported_state(Cpuid)
    if not table.has(Feature.XSAVE):
        return NOT_HERE
    vcpu = bench.vcpu()
    found = []
    for value in (X87, supported_xcr0(bench)):
        vcpu.put(Xcrs(value))
        found.append(vcpu.get(Cpuid)[0xD].ebx)
    return found


@accepted
def xcr0_of_x87_and_sse(bench):
    return xcr0(bench, (supported_xcr0(bench) & SSE) | X87)
