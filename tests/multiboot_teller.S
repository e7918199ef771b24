# A multiboot kernel that tells what it was given: for each thing its address, its length and its bytes, each as
# they are, to the debug console at port 0xE9. Then it resets the machine.
#
# With KLUDGE defined, the header says where it goes, and whatever the file's format is does not count.

        .code32
        .text
        .set    MAGIC, 0x1BADB002
        .globl  _start
image:
        .skip   64                              # the header need not come first
        .align  4
header:
        .long   MAGIC, FLAGS, -(MAGIC + FLAGS)
        .ifdef  KLUDGE
        .long   header, image, image_end, everything_end, _start
        .endif

_start:
        mov     %eax, seen                      # before there is a stack
        mov     %ebx, seen + 4
        mov     $stack_top, %esp
        pushfl
        popl    seen + 8
        mov     %cr0, %eax
        mov     %eax, seen + 12
        mov     %cs, %eax
        mov     %eax, seen + 16
        mov     %ds, %eax
        mov     %eax, seen + 20
        mov     %ss, %eax
        mov     %eax, seen + 24
        mov     bss, %eax
        mov     %eax, seen + 28
        cld

        mov     $seen, %esi
        mov     $32, %ecx
        call    tell
        mov     %ebx, %esi
        mov     $88, %ecx
        call    tell
        testl   $1 << 2, (%ebx)
        jz      1f
        mov     16(%ebx), %esi
        call    tell_string
1:      testl   $1 << 9, (%ebx)
        jz      1f
        mov     64(%ebx), %esi
        call    tell_string
1:      testl   $1 << 6, (%ebx)
        jz      1f
        mov     48(%ebx), %esi
        mov     44(%ebx), %ecx
        call    tell
1:      testl   $1 << 3, (%ebx)
        jz      reset
        mov     24(%ebx), %esi
        mov     20(%ebx), %ecx
        shl     $4, %ecx
        call    tell

        mov     24(%ebx), %ebp                  # each module, and its string
        mov     20(%ebx), %edi
next:   test    %edi, %edi
        jz      reset
        mov     (%ebp), %esi
        mov     4(%ebp), %ecx
        sub     %esi, %ecx
        call    tell
        mov     8(%ebp), %esi
        call    tell_string
        add     $16, %ebp
        dec     %edi
        jmp     next

        .include "telling.S"

        .data
data:   .long   0x600DDA7A
image_end:
        .bss
bss:    .skip   4                               # must be 0
seen:   .skip   32
        .skip   256
stack_top:
everything_end:
