// Mahalanobis distance from a packed inverse Cholesky factor per location, forward.
//
// Idea. distance^2 = |L d|^2, d = x - mean. The factors are nearly all there is to read, so the
// kernel is a stream of factors with a matrix-vector product beside it. Rows of a packed factor
// are neighbours: any run of rows is one run of memory. A block streams such runs with 16-byte
// asynchronous copies into one of two stages of shared memory while it multiplies the other; a
// factor of up to 32 KB is one run. Row starts are on no boundary, but the run as a whole keeps
// its distance from one, and shared memory does not mind where rows start.
//
// A warp multiplies eight rows at once, lanes along the columns, for one image or for four: an
// entry is read once per four images, a deviation once per eight rows, and the 8 x 4 products of
// the lanes are summed with 31 shuffles. From five images on, where a stage is a whole factor, a
// thread takes a row for eight images instead, and nothing is summed between lanes.
//
// A block takes up to eight neighbouring locations, one after the other, and reads their pixels
// together: in NCHW the channels of one location are H*W apart, and one float of each 32-byte
// sector would be an eighth of what travels. Few locations with large factors (8 x 8 maps of
// 1000 channels) are split: several blocks share the rows of a location, each leaves its sums of
// squares, and a second kernel adds them in a fixed order.
//
// Bytes it must move: the factors once, H*W C(C+1)/2 entries; x and mean once; 4 B H*W out.
// At C = 100, 64 x 64, one image: 82.7 MB of float32 factors (41.4 in 16 bits), 3.3 MB the rest.
// Bytes it moves: from device memory the same, as long as one tile of images holds the batch: the
// tile has 24 KB (64 where two blocks still fit a multiprocessor): 48 images of 128 channels, 12
// of 512; larger batches stream the factors once per tile. Through L2, x and mean cost up to 32 /
// (locations * bytes per element) times as much.
//
// Ladder. (1) Naive: a warp per location and image, x - mean formed for every row, 4-byte loads:
// factors once per image, x C/2 times through L1. (2) Tiled: deviations in shared memory, row
// tiles in registers, four images per entry: factors once per four images. (3) Vectorised: this
// one, the factor staged by 16-byte copies: once per tile of images, no load waits in a register,
// and the bytes on their way are those of a whole stage per block, 20 KB at C = 100.
//
// Chips. An H100 wants about 40 KB on their way per multiprocessor: with 44 KB of shared memory a
// block, five blocks fit and 100 KB travel. A chip with 100 KB of shared memory holds two blocks
// and 40 KB in flight, which is more than its narrower memory asks for.
#pragma once

#include "mahalanobis_tile.cuh"

namespace fastalign::cuda {

// N: images that share the read of an entry; kManyImages only where a stage is a whole factor.
template <class W, int N>
FASTALIGN_KERNEL(kGaussianThreads, kGaussianBlocks)
mahalanobis_forward(GaussianWork work) {
  FASTALIGN_DYNAMIC_SHARED(unsigned char, shared);
  const GaussianPlan& plan = work.plan;
  float* deviation = reinterpret_cast<float*>(shared + plan.stages * plan.stage_bytes);
  const int one = plan.images * plan.padded;
  Squares* sums = reinterpret_cast<Squares*>(deviation + plan.locations * one);
  const auto stage_at = [&](int slot) {
    return reinterpret_cast<W*>(shared + slot * plan.stage_bytes);
  };

  const int batch = static_cast<int>(work.args.x.size[0]);
  const int64_t pixels = work.args.x.size[2] * work.args.x.size[3];
  const OwnLocations own = own_locations(work);
  const int location = own.first, count = own.count;
  const int part = static_cast<int>(blockIdx.y);
  const int top = plan.part_row[part], bottom = plan.part_row[part + 1];

  clear_sums(plan, sums);
  for (int image = 0; image < batch; image += plan.images) {
    int place = 0, row = top, end = stage_end(top, bottom, plan.capacity), slot = 0;
    stage_rows(work, location, row, end, stage_at(0));
    end_of_copies();
    load_deviations<N>(work, location, count, image, deviation);
    while (place < count) {
      const bool done = end == bottom;
      const int next_place = done ? place + 1 : place, next_row = done ? top : end;
      const int next_end = stage_end(next_row, bottom, plan.capacity);
      if (next_place < count) {
        stage_rows(work, location + next_place, next_row, next_end, stage_at(slot ^ 1));
      }
      end_of_copies();
      wait_for_copies<false>();
      __syncthreads();
      const W* staged =
          stage_at(slot) + stage_shift(work, factor_rows<W>(work, location + place, row));
      if constexpr (N == kManyImages) {
        whiten_by_row<W, N>(plan, staged, end, deviation + place * one, sums);
      } else {
        whiten<W, N, false>(plan, staged, row, end, deviation + place * one, sums, nullptr);
      }
      __syncthreads();
      if (done) {
        for (int b = static_cast<int>(threadIdx.x); b < plan.images;
             b += static_cast<int>(blockDim.x)) {
          const Squares sum = take_sums(plan, sums, b);
          if (image + b >= batch) {
            continue;
          }
          const int64_t at = (image + b) * pixels + location + place;
          if (plan.parts == 1) {
            work.args.value[at] = scaled(work.args.squared ? sum.plain : length_of(sum),
                                         scale_of(work.args, location + place));
          } else {
            float* to = plan.partial + (int64_t{part} * batch * pixels + at) * 3;
            to[0] = sum.plain;
            to[1] = sum.reduced;
            to[2] = sum.raised;
          }
        }
      }
      place = next_place, row = next_row, end = next_end, slot ^= 1;
    }
  }
}

// Adds the parts' sums of squares, in their order.
FASTALIGN_KERNEL(kGaussianThreads)
mahalanobis_finish(const MahalanobisArgs args, const float* partial, int parts) {
  const int64_t pixels = args.x.size[2] * args.x.size[3], count = args.x.size[0] * pixels;
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= count) {
    return;
  }
  Squares total{0.0f, 0.0f, 0.0f};
  for (int part = 0; part < parts; ++part) {
    const float* from = partial + (part * count + at) * 3;
    total.plain += from[0];
    total.reduced += from[1];
    total.raised += from[2];
  }
  args.value[at] = scaled(args.squared ? total.plain : length_of(total),
                          scale_of(args, static_cast<int>(at % pixels)));
}

}  // namespace fastalign::cuda
