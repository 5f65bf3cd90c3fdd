// What the launchers of mahalanobis share.
#pragma once

#include "mahalanobis_plan.h"

namespace fastalign::cuda {

inline constexpr Error kTooManyChannels =
    "mahalanobis: the rows of so many channels do not fit into this device's shared memory";

inline constexpr Error kTooManyLocations = "mahalanobis: more than 2^31 - 16 locations";

Error mahalanobis_backward(const MahalanobisArgs& args, Stream stream);

// Of the low-rank form, both directions.
int64_t low_rank_scratch(const MahalanobisArgs& args);
Error mahalanobis_low_rank(const MahalanobisArgs& args, Stream stream);

}  // namespace fastalign::cuda
