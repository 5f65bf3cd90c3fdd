// Which launch plans are forced in this process. Knows no torch.
#pragma once

#include <string>

#include "../common/plans.h"

namespace fastalign::host {

// What is forced; null where nothing is. What it points to never changes and is never freed.
const ForcedPlans* forced_plans();

// From now on; kPlanFields values in the order of FASTALIGN_PLAN_FIELDS, all 0: nothing.
void force_plans(const ForcedPlans& plans);

// One line for each field: kernel.backend, field, values.
std::string describe_plan_fields();

// The fields of a kernel that are forced, "lanes=4, rows=held"; empty where none is.
std::string describe_forced(const char* kernel, const char* backend);

}  // namespace fastalign::host
