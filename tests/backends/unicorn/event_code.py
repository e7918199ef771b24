"""The code of the guests of `event_guests`: the handlers before it, and what leads from reset to it. AT&T syntax."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import event_layout
import pytest
from event_layout import (
    BOOT,
    CODE,
    GDT,
    IDT,
    KERNEL_CODE,
    KERNEL_DATA,
    LONG,
    PROTECTED,
    REAL,
    STACK,
    TABLES,
    TASK,
    USER_DATA,
    USER_STACK,
)

from anyvisor.x86_64.control import Cr0, Cr4, Efer

COMMON = """
    .set WITH_ERROR, 1<<8 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<17
"""
STUBS = """
    jmp main
    .balign 16
stubs:
    .set vector, 0
    .rept 64
    .balign 16
    .if vector > 31 || !((1 << vector) & WITH_ERROR)
    push $0
    .endif
    push $vector
    jmp common
    .set vector, vector + 1
    .endr
"""
HANDLERS = {
    LONG: COMMON + ".code64\n" + STUBS + """
common:
    pushfq
    andl $0xFFFEFFFF, 40(%rsp)
    push %rax; push %rcx; push %rsi; push %rdi
    mov LOG_POINTER, %rdi
    lea 40(%rsp), %rsi
    mov $7, %ecx
1:  mov (%rsi), %rax
    mov %rax, (%rdi)
    add $8, %rsi
    add $8, %rdi
    dec %ecx
    jnz 1b
    mov %cr2, %rax;     mov %rax, (%rdi)
    mov %cs, %eax;      mov %rax, 8(%rdi)
    mov %ss, %eax;      mov %rax, 16(%rdi)
    lea 40(%rsp), %rax; mov %rax, 24(%rdi)
    mov 32(%rsp), %rax; mov %rax, 32(%rdi)
    add $40, %rdi
    mov %rdi, LOG_POINTER
    pop %rdi; pop %rsi; pop %rcx; pop %rax
    add $8, %rsp
    cmp $1, %rbx
    jne 2f
    hlt
2:  test %rbx, %rbx
    jz 3f
    mov %rbx, 16(%rsp)
3:  add $16, %rsp
    iretq
main:
""",
    PROTECTED: COMMON + ".code32\n" + STUBS + """
common:
    pushfl
    andl $0xFFFEFFFF, %ss:20(%esp)
    push %eax; push %ecx; push %esi; push %edi
    mov LOG_POINTER, %edi
    mov %esp, %esi
    add $20, %esi
    mov $7, %ecx
1:  mov %ss:(%esi), %eax
    mov %eax, (%edi)
    add $4, %esi
    add $4, %edi
    dec %ecx
    jnz 1b
    mov %cr2, %eax;     mov %eax, (%edi)
    mov %cs, %eax;      mov %eax, 4(%edi)
    mov %ss, %eax;      mov %eax, 8(%edi)
    mov %esp, %eax;     add $20, %eax; mov %eax, 12(%edi)
    mov %ss:16(%esp), %eax; mov %eax, 16(%edi)
    add $20, %edi
    mov %edi, LOG_POINTER
    pop %edi; pop %esi; pop %ecx; pop %eax
    add $4, %esp
    cmp $1, %ebx
    jne 2f
    hlt
2:  test %ebx, %ebx
    jz 4f
    testb $3, %ss:12(%esp)
    jnz 3f
    add $20, %esp
    jmp *%ebx
3:  mov %ebx, %ss:8(%esp)
4:  add $8, %esp
    iretl
main:
""",
    REAL: COMMON + ".code16\n" + STUBS.replace("!((1 << vector) & WITH_ERROR)", "1") + """
common:
    pushfw
    push %ax; push %cx; push %si; push %di
    mov %cs:LOG_POINTER, %di
    mov %sp, %si
    add $10, %si
    mov $5, %cx
1:  mov %ss:(%si), %ax
    mov %ax, %cs:(%di)
    add $2, %si
    add $2, %di
    dec %cx
    jnz 1b
    mov %cs, %ax;       mov %ax, %cs:(%di)
    mov %ss, %ax;       mov %ax, %cs:2(%di)
    mov %sp, %ax;       add $10, %ax; mov %ax, %cs:4(%di)
    mov %sp, %si;       mov %ss:8(%si), %ax; mov %ax, %cs:6(%di)
    add $8, %di
    mov %di, %cs:LOG_POINTER
    pop %di; pop %si; pop %cx; pop %ax
    add $2, %sp
    mov %sp, %bp
    cmp $1, %bx
    jne 2f
    hlt
2:  test %bx, %bx
    jz 3f
    mov %bx, 4(%bp)
3:  add $4, %sp
    iretw
main:
""",
}  # fmt: skip


def need_assembler():
    if not (shutil.which("as") and shutil.which("ld")):
        pytest.skip("install binutils to have guests assembled")


def assemble(guest) -> bytes:
    """The guest's code as it lies at CODE."""
    need_assembler()
    numbers = {name: value for name, value in vars(event_layout).items() if name.isupper() and isinstance(value, int)}
    del numbers["XD"]  # too large for an immediate
    names = "".join(f".set {name}, {value}\n" for name, value in numbers.items())
    return link(names + HANDLERS[guest.mode] + guest.source + "\n", CODE)


def link(source: str, address: int, _cache={}) -> bytes:  # noqa: B006
    if source not in _cache:
        with tempfile.TemporaryDirectory() as folder:
            text, thing, image = (Path(folder) / name for name in ("guest.s", "guest.o", "guest.bin"))
            text.write_text(source)
            subprocess.run(["as", "--64", "-o", thing, text], check=True, capture_output=True, text=True)
            subprocess.run(
                ["ld", f"-Ttext={address:#x}", "-e", f"{address:#x}", "--oformat=binary", "-o", image, thing],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            _cache[source] = image.read_bytes()
    return _cache[source]


CR0 = {PROTECTED: Cr0(pe=True, et=True, ne=True, wp=True), LONG: Cr0(pe=True, et=True, ne=True, wp=True, pg=True)}
BOOT_PAE = f"""
    mov ${int(Cr4(pae=True))}, %eax
    mov %eax, %cr4
"""
BOOT_LONG = f"""
    {BOOT_PAE}
    mov $0xC0000080, %ecx
    mov ${int(Efer(lme=True, nxe=True, sce=True))}, %eax
    xor %edx, %edx
    wrmsr
"""
BOOT_USER = f"""
    mov ${USER_DATA}, %eax
    mov %eax, %ds; mov %eax, %es; mov %eax, %fs; mov %eax, %gs
    push ${USER_DATA}; push ${USER_STACK}; push $2; push ${{code}}; push ${CODE}
    iret{{bits}}
"""
BOOT_KERNEL = {LONG: f"mov ${CODE}, %eax; jmp *%rax", PROTECTED: f"mov ${CODE}, %eax; jmp *%eax"}


def boot(guest) -> bytes:
    """From real mode to the guest's: it runs at BOOT, with the processor as after a reset but for CS."""
    to_users = BOOT_USER.format(bits="q" if guest.mode == LONG else "l", code=guest.user_code)
    last = to_users if guest.cpl else BOOT_KERNEL.get(guest.mode)
    source = f"""
    .code16
    cli
    xor %ax, %ax
    mov %ax, %ds; mov %ax, %es; mov %ax, %fs; mov %ax, %gs; mov %ax, %ss
    mov ${STACK}, %sp
    lidtl idtr
    """
    if guest.mode == REAL:
        source += f"ljmp $0, ${CODE}\n"
    else:
        source += f"""
    lgdtl gdtr
    mov ${TABLES}, %eax
    mov %eax, %cr3
    {BOOT_LONG if guest.mode == LONG else BOOT_PAE if guest.paging == "PAE" else ""}
    mov ${int(CR0[guest.mode].replace(pg=bool(guest.paging) or guest.mode == LONG))}, %eax
    mov %eax, %cr0
    ljmpl ${KERNEL_CODE}, $1f
    .code{guest.mode}
1:  mov ${KERNEL_DATA}, %eax
    mov %eax, %ds; mov %eax, %es; mov %eax, %fs; mov %eax, %gs; mov %eax, %ss
    mov ${STACK}, %esp
    andb $0xFD, {GDT + TASK + 5}
    mov ${TASK}, %eax
    ltr %ax
    xor %ebx, %ebx
    {last}
    """
    return link(
        f"""{source}
    .balign 8
idtr: .word {guest.idt_limit}; .long {0 if guest.mode == REAL else IDT}
gdtr: .word 0xFF; .long {GDT}
""",
        BOOT,
    )
