# A kernel, entered by the 64-bit Linux boot protocol at its first byte, that does what kernels do first: it loads its
# segment registers, uses its stack, reads what it was handed, and says so. Then it resets the machine.

        .code64
        .text
        .globl  _start
_start:
        cld
        mov     $0x18, %eax                     # from the GDT that it was given
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     %cs, %eax                       # CS as well
        push    %rax
        lea     reloaded(%rip), %rax
        push    %rax
        lretq
reloaded:
        cmpl    $0x53726448, 0x202(%rsi)        # HdrS, in the zero page
        jne     lost
        mov     0x228(%rsi), %ebx               # the command line, to its NUL
        call    say
        mov     0x218(%rsi), %ebx               # the initrd
        test    %ebx, %ebx
        jz      1f
        cmpl    $0x37303730, (%rbx)             # 0707, as a cpio archive begins
        jne     lost
1:      lea     done(%rip), %rbx
        call    say
reset:  mov     $0xFE, %al
        out     %al, $0x64
2:      hlt
        jmp     2b

lost:   lea     panic(%rip), %rbx
        call    say
        cli
3:      hlt
        jmp     3b

say:    mov     $0x3F8, %edx
4:      mov     (%rbx), %al
        test    %al, %al
        jz      5f
        out     %al, %dx
        inc     %rbx
        jmp     4b
5:      ret

done:   .asciz  "\r\nall is well\r\n"
panic:  .ascii  "\r\nKernel panic - not syncing: nothing is where it should be"
        .asciz  "\r\n---[ end Kernel panic - not syncing: nothing is where it should be ]---\r\n"
