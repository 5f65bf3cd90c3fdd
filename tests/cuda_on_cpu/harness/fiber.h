// A fiber: a stack of its own and a switch to and from it.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

struct Stack {
  void* bottom = nullptr;
  size_t bytes = 0;
};

// A stack with an unmapped page below it; never freed, used again by later blocks.
Stack new_stack();

// What a suspended flow of control needs to go on. `stack` is known for fibers, and learnt for
// the flow that started them.
struct Context {
  void* stack_pointer = nullptr;
  Stack stack;
  void* fake_stack = nullptr;  // the sanitizer's
};

// Makes `fiber` start at entry() with the next switch to it. entry must not return.
void prepare(Context& fiber, void (*entry)());

// Suspends the running flow into `from` and goes on with `to`; returns when something switches
// back. With `last` the running flow will not be gone on with.
void switch_context(Context& from, Context& to, bool last);

// To be called first of all in entry().
void entered();

}  // namespace cuda_on_cpu
