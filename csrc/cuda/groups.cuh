// Labels of images to an order of images in which groups are neighbours, on the device.
//
// Each image counts the labels below its own and the equal ones before it; the sum is its place.
// That is stable, needs no sort and no wait, and B^2 comparisons are nothing for a batch.
#pragma once

#include "launch.h"
#include "launchers.h"

namespace fastalign::cuda {

// Images by place; a group occupies the places first[place] <= i < end[place]. Null: all images
// are one group in their own order.
struct GroupOrder {
  const int* order;
  const int* first;
  const int* end;

  FASTALIGN_DEVICE int image(int place) const { return order == nullptr ? place : order[place]; }
  FASTALIGN_DEVICE int first_of(int place) const { return first == nullptr ? 0 : first[place]; }
  FASTALIGN_DEVICE int end_of(int place, int batch) const {
    return end == nullptr ? batch : end[place];
  }
};

constexpr int kGroupThreads = 128;

template <class Label>
FASTALIGN_KERNEL(kGroupThreads)
order_groups(const Label* labels, int64_t stride, int batch, int* order, int* first, int* end) {
  const int image = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (image >= batch) {
    return;
  }
  const Label own = labels[image * stride];
  int below = 0, equal = 0, equal_before = 0;
  for (int other = 0; other < batch; ++other) {
    const Label label = labels[other * stride];
    below += label < own ? 1 : 0;
    equal += label == own ? 1 : 0;
    equal_before += label == own && other < image ? 1 : 0;
  }
  const int place = below + equal_before;
  order[place] = image;
  first[place] = below;
  end[place] = below + equal;
}

// Fills `memory`, three times `batch` ints, and points `groups` at it; nothing for null labels.
inline Error enqueue_groups(const Labels& labels, int batch, int* memory, Stream stream,
                            GroupOrder* groups) {
  *groups = GroupOrder{nullptr, nullptr, nullptr};
  if (labels.data == nullptr) {
    return nullptr;
  }
  int* order = memory;
  int* first = memory + batch;
  int* end = memory + 2 * static_cast<int64_t>(batch);
  *groups = GroupOrder{order, first, end};
  return FASTALIGN_LAUNCH(
      (order_groups<int64_t>), dim3(static_cast<unsigned>(ceil_div(batch, kGroupThreads))),
      dim3(kGroupThreads), 0, stream, labels.data, labels.stride, batch, order, first, end);
}

}  // namespace fastalign::cuda
