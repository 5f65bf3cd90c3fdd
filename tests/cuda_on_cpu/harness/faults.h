// Crashes of a kernel (a wild pointer, a division by zero) become errors of its launch.
#pragma once

namespace cuda_on_cpu {

// While it lives, SIGSEGV, SIGBUS and SIGFPE inside a fiber end in on_fault(), which runs on the
// fiber's stack and must not return. Without effect under AddressSanitizer, which reports better.
class CatchFaults {
 public:
  explicit CatchFaults(void (*on_fault)(int signal, const void* address));
  ~CatchFaults();
};

// Set while a fiber runs: faults elsewhere are not ours.
extern bool in_fiber;

}  // namespace cuda_on_cpu
