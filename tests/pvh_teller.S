# A kernel with a PVH entry that tells what it was given: for each thing its address, its length and its bytes, each as
# they are, to the debug console at port 0xE9. Then it resets the machine.
#
# With WIDE defined, the address in its note has 8 bytes.

        .code32
        .section .note.Xen, "a", @note
        .long   4, 4 + 4 * WIDE, 18
        .asciz  "Xen"
        .long   _start
        .if     WIDE
        .long   0
        .endif

        .text
        .globl  _start
_start:
        mov     %ebx, seen                      # before there is a stack
        mov     $stack_top, %esp
        pushfl
        popl    seen + 4
        mov     %cr0, %eax
        mov     %eax, seen + 8
        mov     %cr4, %eax
        mov     %eax, seen + 12
        mov     $0xC0000080, %ecx
        rdmsr
        mov     %eax, seen + 16
        str     %eax
        mov     %eax, seen + 20
        mov     %cs, %eax
        mov     %eax, seen + 24
        mov     %ds, %eax
        mov     %eax, seen + 28
        mov     %ss, %eax
        mov     %eax, seen + 32
        mov     bss, %eax
        mov     %eax, seen + 36
        cld

        mov     $seen, %esi
        mov     $40, %ecx
        call    tell
        mov     %ebx, %esi
        mov     $56, %ecx
        call    tell
        mov     40(%ebx), %esi                  # the memory map
        imul    $24, 48(%ebx), %ecx
        call    tell
        mov     24(%ebx), %esi                  # the command line
        test    %esi, %esi
        jz      1f
        call    tell_string
1:      mov     32(%ebx), %esi                  # the RSDP
        test    %esi, %esi
        jz      1f
        mov     $36, %ecx
        call    tell
1:      mov     16(%ebx), %esi                  # the module list
        mov     12(%ebx), %ecx
        shl     $5, %ecx
        call    tell

        mov     16(%ebx), %ebp                  # each module, and its string if it has one
        mov     12(%ebx), %edi
next:   test    %edi, %edi
        jz      reset
        mov     (%ebp), %esi
        mov     8(%ebp), %ecx
        call    tell
        mov     16(%ebp), %esi
        test    %esi, %esi
        jz      1f
        call    tell_string
1:      add     $32, %ebp
        dec     %edi
        jmp     next

        .include "telling.S"

        .bss
bss:    .skip   4                               # must be 0
seen:   .skip   40
        .skip   256
stack_top:
