// What the two launchers of mahalanobis share.
#pragma once

#include "mahalanobis_plan.h"

namespace fastalign::cuda {

inline constexpr Error kTooManyChannels =
    "mahalanobis: the rows of so many channels do not fit into this device's shared memory";

Error mahalanobis_backward(const MahalanobisArgs& args, Stream stream);

}  // namespace fastalign::cuda
