// What the two launchers of mahalanobis share.
#pragma once

#include "mahalanobis_plan.h"

namespace fastalign::cuda {

inline constexpr Error kTooManyChannels =
    "mahalanobis: the rows of so many channels do not fit into this device's shared memory";

inline constexpr Error kTooManyLocations = "mahalanobis: more than 2^31 - 16 locations";

Error mahalanobis_backward(const MahalanobisArgs& args, Stream stream);

}  // namespace fastalign::cuda
