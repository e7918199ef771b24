/* A kernel that runs at high addresses, as Linux does, by page tables of its own, says so and then spins: for debuggers
 * to find where, and by which way it got there. It is entered in long mode, at the physical address of `start`. */

typedef unsigned long entry;

static entry page_directory_pointers[512] __attribute__((aligned(4096), used));
static entry page_directory[512] __attribute__((aligned(4096), used));
static char stack[16384] __attribute__((aligned(16), used));

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
