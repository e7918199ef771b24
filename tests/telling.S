# How a kernel for tests tells what it was given, and resets the machine: subroutines in 32-bit code.

reset:  mov     $0xFE, %al
        out     %al, $0x64
1:      hlt
        jmp     1b

tell_string:                                    # the bytes from ESI up to a NUL, which is told as well
        xor     %ecx, %ecx
1:      cmpb    $1, (%esi, %ecx)
        inc     %ecx
        jnc     1b
        # falls through: CMP sets the carry flag for a byte below 1, and INC leaves it alone
tell:                                           # ECX bytes from ESI
        mov     %esi, %eax
        call    tell_number
        mov     %ecx, %eax
        call    tell_number
        mov     $0xE9, %edx
1:      jecxz   2f
        lodsb
        out     %al, %dx
        dec     %ecx
        jmp     1b
2:      ret

tell_number:
        mov     $0xE9, %edx
        .rept   4
        out     %al, %dx
        shr     $8, %eax
        .endr
        ret
