// Row-major packed lower triangle: entry (row, col <= row) of a C x C matrix.
#pragma once

#include <cstdint>

#include "macros.h"

namespace fastalign {

// Number of stored entries, C (C + 1) / 2.
FASTALIGN_HD int64_t packed_size(int64_t channels) { return channels * (channels + 1) / 2; }

// Offset of the first entry of a row; the row holds row + 1 entries.
FASTALIGN_HD int64_t packed_row(int64_t row) { return row * (row + 1) / 2; }

FASTALIGN_HD int64_t packed_index(int64_t row, int64_t col) { return packed_row(row) + col; }

}  // namespace fastalign
