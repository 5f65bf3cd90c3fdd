// Run-time choice of the instruction set. Compiled for the baseline only.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include "kernels.h"
#include "levels.h"

namespace fastalign {
namespace {

const KernelTable kBaseline = FASTALIGN_TABLE(isa_baseline);

#if defined(__x86_64__)
const KernelTable kAvx2 = FASTALIGN_TABLE(isa_avx2);
const KernelTable kAvx512 = FASTALIGN_TABLE(isa_avx512);

bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

// Every processor with AVX-512 BW, DQ and VL has F16C as well.
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

struct Choice {
  std::atomic<const IsaLevel*> level{nullptr};
  std::string error;
  std::once_flag from_environment;
};

Choice& choice() {
  static Choice instance;
  return instance;
}

const IsaLevel* find(const char* name, std::string* error) {
  int count = 0;
  const IsaLevel* levels = isa_levels(&count);
  std::string known;
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(levels[i].name, name) == 0) {
      if (!levels[i].supported) {
        *error = std::string("this machine cannot run the instruction set '") + name + "'";
        return nullptr;
      }
      return &levels[i];
    }
    known += std::string(i == 0 ? "" : ", ") + levels[i].name;
  }
  *error = std::string("unknown instruction set '") + name + "'; this build has: " + known;
  return nullptr;
}

}  // namespace

const IsaLevel* isa_levels(int* count) {
#if defined(__x86_64__)
  static const IsaLevel levels[] = {{"baseline", true, &kBaseline},
                                    {"avx2", has_avx2(), &kAvx2},
                                    {"avx512", has_avx512(), &kAvx512}};
#else
  static const IsaLevel levels[] = {{"baseline", true, &kBaseline}};
#endif
  *count = static_cast<int>(sizeof(levels) / sizeof(levels[0]));
  return levels;
}

const IsaLevel* active_isa(const char** error) {
  Choice& state = choice();
  std::call_once(state.from_environment, [&state] {
    if (state.level.load() != nullptr) {
      return;
    }
    const char* wanted = std::getenv("FASTALIGN_CPU_ISA");
    if (wanted != nullptr && wanted[0] != '\0') {
      std::string reason;
      state.level = find(wanted, &reason);
      if (!reason.empty()) {
        state.error = "FASTALIGN_CPU_ISA: " + reason;
      }
      return;
    }
    int count = 0;
    const IsaLevel* levels = isa_levels(&count);
    for (int i = 0; i < count; ++i) {
      if (levels[i].supported) {
        state.level = &levels[i];
      }
    }
  });
  const IsaLevel* level = state.level.load();
  *error = level == nullptr ? state.error.c_str() : nullptr;
  return level;
}

const char* set_active_isa(const char* name) {
  static thread_local std::string reason;
  reason.clear();
  const IsaLevel* level = find(name, &reason);
  if (level == nullptr) {
    return reason.c_str();
  }
  choice().level = level;
  return nullptr;
}

}  // namespace fastalign
