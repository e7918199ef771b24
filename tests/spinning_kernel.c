/* A kernel that runs at high addresses, as Linux does, by page tables of its own, says so and then spins: for debuggers
 * to find where, and by which way it got there. It is entered at the physical address of `start`: in long mode, or in
 * protected mode if it is built for i386. */

typedef unsigned long entry;

static entry page_directory[4096 / sizeof(entry)] __attribute__((aligned(4096), used));
static char stack[16384] __attribute__((aligned(16), used));

#ifdef __i386__

/* Pages of 4 MiB for the first 64 MiB, where they are and 3 GiB up. */
asm("        .globl  start, start_physical\n"
    "        .equ    start_physical, start - 0xC0000000\n"
    "start:  .cfi_startproc\n"
    "        .cfi_undefined eip\n"
    "        mov     $page_directory - 0xC0000000, %edi\n"
    "        mov     $0x83, %eax\n"
    "        xor     %ecx, %ecx\n"
    "1:      mov     %eax, (%edi, %ecx, 4)\n"
    "        mov     %eax, 768 * 4(%edi, %ecx, 4)\n"
    "        add     $0x400000, %eax\n"
    "        inc     %ecx\n"
    "        cmp     $16, %ecx\n"
    "        jne     1b\n"
    "        mov     %edi, %cr3\n"
    "        mov     $0x10, %eax\n"
    "        mov     %eax, %cr4\n"
    "        mov     %cr0, %eax\n"
    "        or      $0x80000000, %eax\n"
    "        mov     %eax, %cr0\n"
    "        mov     $2f, %eax\n"
    "        jmp     *%eax\n"
    "2:      mov     $stack + 16384, %esp\n"
    "        xor     %ebp, %ebp\n"
    "        call    outer\n"
    "        .cfi_endproc\n");

#else

static entry page_directory_pointers[512] __attribute__((aligned(4096), used));

/* The highest entry of the top table, and the last but one below it, are for the highest 2 GiB: all map to 0 up. */
asm("        .globl  start, start_physical\n"
    "        .equ    start_physical, start - 0xFFFFFFFF80000000\n"
    "start:  .cfi_startproc\n"
    "        .cfi_undefined rip\n"
    "        lea     page_directory(%rip), %rdi\n"
    "        mov     $0x83, %eax\n"
    "        xor     %ecx, %ecx\n"
    "1:      mov     %rax, (%rdi, %rcx, 8)\n"
    "        add     $0x200000, %rax\n"
    "        inc     %ecx\n"
    "        cmp     $512, %ecx\n"
    "        jne     1b\n"
    "        or      $3, %rdi\n"
    "        lea     page_directory_pointers(%rip), %rsi\n"
    "        mov     %rdi, 510 * 8(%rsi)\n"
    "        or      $3, %rsi\n"
    "        mov     %cr3, %rax\n"
    "        mov     %rsi, 511 * 8(%rax)\n"
    "        mov     %rax, %cr3\n"
    "        mov     $2f, %rax\n"
    "        jmp     *%rax\n"
    "2:      lea     stack + 16384(%rip), %rsp\n"
    "        xor     %ebp, %ebp\n"
    "        call    outer\n"
    "        .cfi_endproc\n");

#endif

struct message {
	const char *words;
	int number;
};

const char banner[] = "a kernel that spins, version 1";
volatile long turns;

__attribute__((noinline)) void spin_here(struct message *message)
{
	for (const char *letter = message->words; *letter; letter++)
		asm volatile("outb %0, %1" : : "a"(*letter), "Nd"((unsigned short)0x3F8));
	for (;;)
		turns++;
}

__attribute__((noinline)) void inner(int number)
{
	struct message message = { "spinning\n", number + 1 };
	spin_here(&message);
}

__attribute__((noinline)) void outer(void)
{
	int answer = 41;
	inner(answer);
}
