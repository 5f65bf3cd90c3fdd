#include "faults.h"

#include <signal.h>
#include <ucontext.h>

#include <cstdint>

namespace cuda_on_cpu {

bool in_fiber = false;

#if defined(__SANITIZE_ADDRESS__) || !defined(__x86_64__)

CatchFaults::CatchFaults(void (*)(int, const void*)) {}
CatchFaults::~CatchFaults() = default;

#else

namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction former[3];
stack_t former_stack;
char handler_stack[64 * 1024];
void (*report)(int, const void*) = nullptr;
int fault_signal = 0;
const void* fault_address = nullptr;

void go_on() { report(fault_signal, fault_address); }

void restore() {
  for (int i = 0; i < 3; ++i) {
    sigaction(kSignals[i], &former[i], nullptr);
  }
}

// Lets the kernel go on in go_on(): a signal handler itself may do next to nothing.
void handle(int signal, siginfo_t* info, void* opaque) {
  if (!in_fiber) {
    restore();  // the fault repeats, and whoever was there before sees it
    return;
  }
  fault_signal = signal;
  fault_address = info->si_addr;
  greg_t* registers = static_cast<ucontext_t*>(opaque)->uc_mcontext.gregs;
  registers[REG_RSP] = ((registers[REG_RSP] - 256) & ~greg_t{15}) - 8;
  registers[REG_RIP] = reinterpret_cast<greg_t>(&go_on);
}

}  // namespace

CatchFaults::CatchFaults(void (*on_fault)(int, const void*)) {
  report = on_fault;
  stack_t stack{};
  stack.ss_sp = handler_stack;
  stack.ss_size = sizeof(handler_stack);
  sigaltstack(&stack, &former_stack);
  struct sigaction action{};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int i = 0; i < 3; ++i) {
    sigaction(kSignals[i], &action, &former[i]);
  }
}

CatchFaults::~CatchFaults() {
  restore();
  sigaltstack(&former_stack, nullptr);
}

#endif

}  // namespace cuda_on_cpu
