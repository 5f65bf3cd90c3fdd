#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_on_cpu {

Stack new_stack() {
#if defined(__SANITIZE_ADDRESS__)
  constexpr size_t kBytes = 512 * 1024;
#else
  constexpr size_t kBytes = 128 * 1024;
#endif
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, kBytes + page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
    std::abort();
  }
  return {static_cast<char*>(memory) + page, kBytes};
}

#if defined(__x86_64__)

// Saves what the calling convention lets a function keep, changes stacks, restores. Switching by
// ucontext costs a system call each time, and a kernel switches a million times.
extern "C" void cuda_on_cpu_switch(void** from, void* to);
asm(R"(
.text
.globl cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  .cfi_startproc
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .cfi_endproc
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");

void prepare(Context& fiber, void (*entry)()) {
  auto top = reinterpret_cast<uintptr_t>(fiber.stack.bottom) + fiber.stack.bytes;
  // After `ret` the stack must look as after a call: 8 below a multiple of 16.
  auto* slot = reinterpret_cast<void**>((top & ~uintptr_t{15}) - 16);
  *slot = reinterpret_cast<void*>(entry);
  slot[1] = nullptr;  // no caller: ends back traces
  slot -= 6;
  for (int i = 0; i < 6; ++i) {
    slot[i] = nullptr;
  }
  fiber.stack_pointer = slot;
  fiber.fake_stack = nullptr;
}

static void change_stacks(Context& from, Context& to) {
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
}

#else

void prepare(Context& fiber, void (*entry)()) {
  auto* context = static_cast<ucontext_t*>(fiber.stack_pointer);
  if (context == nullptr) {
    fiber.stack_pointer = context = new ucontext_t;
  }
  getcontext(context);
  context->uc_stack.ss_sp = fiber.stack.bottom;
  context->uc_stack.ss_size = fiber.stack.bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  fiber.fake_stack = nullptr;
}

static void change_stacks(Context& from, Context& to) {
  if (from.stack_pointer == nullptr) {
    from.stack_pointer = new ucontext_t;
  }
  swapcontext(static_cast<ucontext_t*>(from.stack_pointer),
              static_cast<ucontext_t*>(to.stack_pointer));
}

#endif

static Context* left = nullptr;  // whom the switch in progress leaves

// Tells the sanitizer which stack is in use now; it tells the bounds of the one before.
static void arrived([[maybe_unused]] void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
  left->stack = {const_cast<void*>(bottom), bytes};
#endif
}

void switch_context(Context& from, Context& to, [[maybe_unused]] bool last) {
  left = &from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.stack.bottom,
                                 to.stack.bytes);
#endif
  change_stacks(from, to);
  arrived(from.fake_stack);
}

void entered() { arrived(nullptr); }

}  // namespace cuda_on_cpu
