/* Preloaded into QEMU on an Intel processor, it hides AVX from QEMU itself (not from the program that QEMU emulates).

QEMU's translated code uses AVX, and its C code SSE. Intel processors take long to change from one to the other: without
AVX, emulated trainings are ten times as fast. The instruction CPUID is made to fault, and is answered without the bit
that says that AVX can be used. Where the kernel or the processor can't do this, nothing changes. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define OSXSAVE (1u << 27) /* of leaf 1, register C */

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    unsigned a, b, c, d, leaf = registers[REG_RAX];

    if (code[0] != 0x0f || code[1] != 0xa2) { /* another fault */
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __cpuid_count(leaf, registers[REG_RCX], a, b, c, d);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = leaf == 1 ? c & ~OSXSAVE : c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) == 0)
        sigaction(SIGSEGV, &action, 0);
}
