#include "plans.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <memory>
#include <mutex>
#include <sstream>
#include <vector>

namespace fastalign::host {
namespace {

struct Field {
  const char *kernel, *backend, *name, *values;
};

#define FASTALIGN_PLAN_ROW(kernel, backend, field, values) {#kernel, #backend, #field, values},
constexpr Field kFields[] = {FASTALIGN_PLAN_FIELDS(FASTALIGN_PLAN_ROW)};

std::atomic<const ForcedPlans*> active{nullptr};

// A value in words: numbers stand for themselves, words for their places.
std::string word(const Field& field, int32_t value) {
  std::istringstream words(field.values);
  std::string found;
  if (std::isdigit(static_cast<unsigned char>(field.values[0])) != 0) {
    return std::to_string(value);
  }
  for (int32_t place = 0; place < value; ++place) {
    words >> found;
  }
  return found;
}

}  // namespace

const ForcedPlans* forced_plans() { return active.load(std::memory_order_acquire); }

void force_plans(const ForcedPlans& plans) {
  // Calls under way may still read an earlier one, so all that differ are kept.
  static std::mutex mutex;
  static std::vector<std::unique_ptr<const ForcedPlans>> known;
  const auto same = [&](const ForcedPlans& one) {
    return std::equal(one.values, one.values + kPlanFields, plans.values);
  };
  if (same(ForcedPlans{})) {
    active.store(nullptr, std::memory_order_release);
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex);
  auto found =
      std::find_if(known.begin(), known.end(), [&](const auto& one) { return same(*one); });
  if (found == known.end()) {
    found = known.insert(known.end(), std::make_unique<const ForcedPlans>(plans));
  }
  active.store(found->get(), std::memory_order_release);
}

std::string describe_plan_fields() {
  std::string text;
  for (const Field& field : kFields) {
    text += std::string(field.kernel) + "." + field.backend + " " + field.name + " " +
            field.values + "\n";
  }
  return text;
}

std::string describe_forced(const char* kernel, const char* backend) {
  const ForcedPlans* plans = forced_plans();
  std::string text;
  for (int i = 0; plans != nullptr && i < kPlanFields; ++i) {
    const Field& field = kFields[i];
    const int32_t value = plans->values[i];
    if (value != 0 && std::string(kernel) == field.kernel &&
        std::string(backend) == field.backend) {
      text += (text.empty() ? "" : ", ") + std::string(field.name) + "=" + word(field, value);
    }
  }
  return text;
}

}  // namespace fastalign::host
