// Stands in the way of the harness's run(): launches are written down and not run.
#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "cuda_on_cpu.h"

namespace {

std::string record;

std::string name_of(const cuda_on_cpu::Launch& launch) {
  Dl_info info{};
  if (dladdr(launch.function, &info) != 0 && info.dli_sname != nullptr &&
      info.dli_saddr == launch.function) {
    int status = 0;
    char* plain = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
    if (status == 0) {
      const std::string name = plain;
      std::free(plain);
      return name;
    }
  }
  return launch.text;
}

}  // namespace

extern "C" const char* __wrap__ZN11cuda_on_cpu3runERKNS_6LaunchE(
    const cuda_on_cpu::Launch& launch) {
  const auto count = [](const dim3& size) { return int64_t{size.x} * size.y * size.z; };
  record += name_of(launch) + "\t" + std::to_string(count(launch.grid)) + "\t" +
            std::to_string(count(launch.block)) + "\t" + std::to_string(launch.shared_bytes) + "\n";
  return nullptr;
}

// One line for each launch since the last call: name, blocks, threads, bytes of shared memory.
extern "C" const char* recorded_launches() {
  static std::string given;
  given.swap(record);
  record.clear();
  return given.c_str();
}
