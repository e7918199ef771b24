/* One kernel for both: anyvisor enters it in long mode at `entry64`, QEMU (PVH) in protected mode at `entry32`.

   It writes a letter to port MARK before each piece of work, and resets the machine after the last. Everything runs from
   these bytes on these tables; only what comes before `begin` differs. */

    .set MARK, 0x5E0
    .set UNMAPPED, 0x40000000                   /* the tables end at 1 GiB */
    .set DATA, 0x400000                         /* 2 MiB that hold no code, and say so */
    .set STACK, DATA + 0x100000
    .set PIT_COUNT, 119                         /* 100 us */
    .set KERNEL_CODE, 0x08
    .set USER_DATA, 0x18 | 3
    .set USER_CODE, 0x20 | 3

    .macro mark letter
    mov $MARK, %edx
    mov $\letter, %al
    out %al, %dx
    .endm

    .macro write_msr index, low, high
    mov $\index, %ecx
    mov $\low, %eax
    mov $\high, %edx
    wrmsr
    .endm

    .section .note.Xen, "a", @note
    .long 4, 8, 18                              /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad entry32

    .text
    .code32
entry32:
    cli
    mov $(page_tables + 7), %eax                /* the directory pointers, then 512 pages of 2 MiB */
    mov %eax, top_table
    mov $(directory + 7), %eax
    mov %eax, page_tables
    call fill
    mov $0x20, %eax                             /* PAE */
    mov %eax, %cr4
    mov $top_table, %eax
    mov %eax, %cr3
    mov $0xC0000080, %ecx                       /* EFER: NXE, LME, SCE */
    mov $0x901, %eax
    xor %edx, %edx
    wrmsr
    mov $0x80000033, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $KERNEL_CODE, $begin

fill:
    mov $directory, %edi
    mov $0x87, %eax                             /* present, writable, user, large */
    mov $512, %ecx
0:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 0b
    ret

    .code64
    .globl entry64
entry64:
    cli
    movq $(page_tables + 7), top_table
    movq $(directory + 7), page_tables
    mov $directory, %edi
    mov $0x87, %eax
    mov $512, %ecx
0:  mov %rax, (%rdi)
    add $0x200000, %eax
    add $8, %edi
    loop 0b
    mov $top_table, %eax
    mov %rax, %cr3
    write_msr 0xC0000080, 0xD01, 0              /* EFER: NXE, LMA, LME, SCE */
    lgdt gdt_pointer
    pushq $KERNEL_CODE
    pushq $begin
    lretq

begin:
    movb $0x80, directory + 2 * 8 + 7           /* no execution at DATA */
    mov %cr3, %rax
    mov %rax, %cr3
    mov $STACK, %esp
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $tss, %eax
    mov %ax, gdt + 0x28 + 2
    shr $16, %eax
    mov %al, gdt + 0x28 + 4
    mov %ah, gdt + 0x28 + 7
    mov $0x28, %eax
    ltr %ax
    mov $idt + 14 * 16, %edi
    mov $page_fault, %eax
    call set_gate
    mov $idt + 32 * 16, %edi
    mov $timer, %eax
    call set_gate
    lidt idt_pointer
    write_msr 0xC0000081, 0, (0x10 | 3) << 16 | KERNEL_CODE      /* STAR */
    write_msr 0xC0000082, system_call, 0                        /* LSTAR */
    write_msr 0xC0000084, 0x700, 0                              /* FMASK */

    mark 'a'                                    /* registers only */
    mov $ALU_LOOPS, %ecx
0:  add %rcx, %rbx
    xor %rbx, %rsi
    dec %rcx
    jnz 0b

    mark 'b'                                    /* loads and stores */
    mov $MEMORY_LOOPS, %ecx
    mov $DATA, %ebx
0:  mov (%rbx), %rax
    add %rcx, %rax
    mov %rax, (%rbx)
    addq $1, 64(%rbx)
    dec %rcx
    jnz 0b

    mark 'B'                                    /* the same where code may be, too */
    mov $MIXED_LOOPS, %ecx
    mov $buffer, %ebx
0:  mov (%rbx), %rax
    add %rcx, %rax
    mov %rax, (%rbx)
    addq $1, 64(%rbx)
    dec %rcx
    jnz 0b

    mark 'c'                                    /* calls and returns */
    mov $CALL_LOOPS, %ecx
0:  call leaf
    dec %rcx
    jnz 0b

    mark 'd'                                    /* port exits */
    mov $PORT_LOOPS, %ecx
    mov $0x80, %edx
0:  out %al, %dx
    dec %rcx
    jnz 0b

    mark 'e'                                    /* page faults */
    mov $FAULT_LOOPS, %ecx
    mov $UNMAPPED, %ebx
0:  movb (%rbx), %al
    dec %rcx
    jnz 0b

    mark 'f'                                    /* system calls, from ring 3 */
    mov $SYSTEM_CALLS, %r12d
    mov $1, %r13d
    pushq $USER_DATA
    pushq $STACK
    pushq $2
    pushq $USER_CODE
    pushq $user
    iretq
user:
    syscall
    dec %r12
    jnz user
    dec %r13
    syscall
back_in_kernel:
    mov $STACK, %esp

    .irp port_value, 0x2011, 0x2120, 0x2104, 0x2101, 0xA011, 0xA128, 0xA102, 0xA101, 0x21FE, 0xA1FF
    mov $(\port_value & 0xFF), %al              /* the interrupt controllers: line 0 is vector 32 */
    out %al, $(\port_value >> 8)
    .endr

    mark 'g'                                    /* a timer wakes the halted processor */
    mov $TIMER_LOOPS, %r12d
0:  call arm
    sti
    hlt
    cli
    dec %r12
    jnz 0b

    mark 'h'                                    /* a timer interrupts the busy processor */
    mov $TIMER_LOOPS, %r12d
0:  call arm
    sti
1:  cmpb $0, ticked
    je 1b
    cli
    dec %r12
    jnz 0b

    mark 'z'
    mov $0xFE, %al                              /* the keyboard controller resets the machine */
    out %al, $0x64
    jmp .

leaf:
    lea 1(%rbx), %rbx
    ret

arm:
    movb $0, ticked
    mov $0x30, %al                              /* counter 0, one shot */
    out %al, $0x43
    mov $PIT_COUNT, %al
    out %al, $0x40
    xor %eax, %eax
    out %al, $0x40
    ret

timer:
    push %rax
    movb $1, ticked
    mov $0x20, %al
    out %al, $0x20
    pop %rax
    iretq

page_fault:
    add $8, %rsp
    addq $2, (%rsp)
    iretq

system_call:
    test %r13, %r13
    jz back_in_kernel
    sysretq

set_gate:                                       /* of a handler below 4 GiB */
    mov %ax, (%rdi)
    movl $0x8E00, 4(%rdi)
    movw $KERNEL_CODE, 2(%rdi)
    shr $16, %eax
    mov %ax, 6(%rdi)
    ret

    .data
    .balign 16
gdt:
    .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF
    .quad 0x0000890000000067                    /* the task state segment; its base comes later */
    .quad 0
gdt_pointer:
    .word . - gdt - 1
    .quad gdt
idt_pointer:
    .word 33 * 16 - 1
    .quad idt
ticked:
    .byte 0

    .bss
    .balign 4096
top_table: .skip 4096
page_tables: .skip 4096
directory: .skip 4096
idt: .skip 4096
buffer: .skip 4096
tss: .skip 4096
