// warp_affine: sampling an image at an affine map of the output pixels, without a grid.
//
// Bytes: read the source once and write the output once; the grid of affine_grid (8 bytes per
// output pixel, written and read back) does not exist. Tiles of 64 x 16 outputs keep the part of
// the source that they read in L1; positions and shares of a tile are prepared once for all
// channels. Planes with unit pixel stride take warp_lanes.h, whose positions are float relative to
// a whole pixel nearby; everything else, and maps given in float64, takes warp_taps.h.
#include <type_traits>

#include "warp_lanes.h"
#include "warp_taps.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Finding the taps of a pixel costs about as much as four channels of it.
FASTALIGN_INLINE double warp_work(const WarpAffineArgs& args) {
  return 4.0 * static_cast<double>(args.out.batch() * args.out.pixels()) *
         static_cast<double>(args.out.channels() + 4);
}

template <class S>
Status warp_general(const WarpAffineArgs& args, const Workers& workers) {
  const int64_t height = args.out.height(), width = args.out.width();
  const int64_t rows = args.out.batch() * height;
  auto body = [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t ox = 0; ox < width; ox += kRun) {
        warp_run<S>(args, row / height, row % height, ox, smaller(kRun, width - ox));
      }
    }
  };
  split(workers, rows, workers_for(workers, rows, warp_work(args)), body);
  return Status::ok;
}

#if defined(__AVX2__)

// How results are written, and which part of the image the next piece of work reads.
struct TilePlan {
  bool stream;
  int64_t next;  // elements from the first sample of this tile to that of the next one
};

// CB channels of a tile. Each run asks for what the same run of the next piece of work reads,
// `ahead` elements further: hardware does not foresee short pieces of many rows.
template <class S, int CB>
void warp_channels(const WarpAffineArgs& args, int64_t image, int64_t channel, int64_t oy,
                   int64_t ox, int64_t rows, int64_t columns, const WarpRun* runs, bool stream,
                   int64_t ahead) {
  const S* plane = plane_of<S>(args.x, image, channel);
  const int64_t channel_stride = args.x.stride[1], row_stride = args.x.stride[2];
  const int64_t width = args.x.width();
  alignas(kLineBytes) S kept[CB][kMostColumns];
  for (int64_t r = 0; r < rows; ++r) {
    S* to = plane_of<S>(args.out, image, channel) + (oy + r) * args.out.stride[2] + ox;
    for (int64_t c = 0; c < columns; c += kRunLanes, ++runs) {
      if (runs->general) {
        if (stream) {  // what was written there before
          for (int k = 0; k < CB; ++k) {
            std::memcpy(kept[k] + c, to + k * args.out.stride[1] + c, kRunLanes * sizeof(S));
          }
        }
        continue;
      }
      const int64_t middle = (runs->first_row + 1) * row_stride + runs->column + kRunLanes / 2;
      for (int k = 0; k < CB; ++k) {
        prefetch_at(plane, middle + ahead + k * channel_stride);
      }
      F8 sums[CB];
      sample_any_run<S, CB>(*runs, plane, channel_stride, row_stride, width, sums);
      for (int k = 0; k < CB; ++k) {
        if (stream) {
          store8(kept[k] + c, sums[k]);
        } else {
          store8_first(to + k * args.out.stride[1] + c, sums[k], columns - c);
        }
      }
    }
    for (int k = 0; stream && k < CB; ++k) {
      copy_streaming(to + k * args.out.stride[1], kept[k],
                     columns * static_cast<int64_t>(sizeof(S)));
    }
  }
}

// Outputs of a tile.
struct TileSize {
  int64_t rows, columns;
};

template <class S, bool Border>
void warp_tile(const WarpAffineArgs& args, int64_t image, int64_t oy, int64_t ox,
               const TileSize& size, WarpRun* runs, const TilePlan& plan) {
  const AffinePixels& map = args.maps[image];
  const Sampling s{args.x.height(), args.x.width(), args.mode, args.padding, args.align_corners};
  const int64_t rows = smaller(size.rows, args.out.height() - oy);
  const int64_t columns = smaller(size.columns, args.out.width() - ox);
  const bool folded = args.padding == Padding::reflection;
  WarpRun* run = runs;
  for (int64_t r = 0; r < rows; ++r) {
    const RunStart start = run_start(map, s, ox, oy + r);
    for (int64_t c = 0; c < columns; c += kRunLanes, ++run) {
      prepare_run<Border>(map, start, c, s, run);
      // Reflection changes nothing inside; a run that touches a side takes the general form.
      run->general = run->general || (folded && !run->inside(s));
      if (run->general) {
        warp_run<S>(args, image, oy + r, ox + c, smaller<int64_t>(kRunLanes, columns - c));
      }
    }
  }
  const int64_t channels = args.x.channels(), step = args.x.stride[1];
  int64_t channel = 0;
  const auto warp = [&](auto count) {
    constexpr int some = count();
    const int64_t after = channel + some;
    warp_channels<S, some>(args, image, channel, oy, ox, rows, columns, runs, plan.stream,
                           after < channels ? some * step : plan.next - channel * step);
    channel = after;
  };
  while (channel + 4 <= channels) {
    warp(std::integral_constant<int, 4>{});
  }
  switch (channels - channel) {
    case 3:
      return warp(std::integral_constant<int, 3>{});
    case 2:
      return warp(std::integral_constant<int, 2>{});
    case 1:
      return warp(std::integral_constant<int, 1>{});
    default:
      return;
  }
}

template <class S>
Status warp_planes(const WarpAffineArgs& args, const Workers& workers) {
  const int64_t height = args.out.height(), width = args.out.width();
  const TileSize size{forced_or(args.forced, PlanField::warp_affine_cpu_rows, kTileRows),
                      forced_or(args.forced, PlanField::warp_affine_cpu_columns, kTileColumns)};
  const int64_t across = (width + size.columns - 1) / size.columns;
  const int64_t down = (height + size.rows - 1) / size.rows;
  const int64_t tiles = args.out.batch() * down * across;
  const int64_t used = workers_for(workers, tiles, warp_work(args));
  const int64_t runs_of_tile = size.columns / kRunLanes * size.rows;
  Scratch scratch(runs_of_tile * static_cast<int64_t>(sizeof(WarpRun)), used);
  if (scratch.failed()) {
    return Status::out_of_memory;
  }
  const int32_t stores = forced(args.forced, PlanField::warp_affine_cpu_stores);
  const int64_t bytes =
      args.out.batch() * args.out.channels() * height * width * static_cast<int64_t>(sizeof(S));
  const bool stream = (stores == 0 ? bytes >= kStreamedBytes : stores > 1) &&
                      has_whole_lines(args.out, static_cast<int64_t>(sizeof(S)));
  const Sampling sampling{args.x.height(), args.x.width(), args.mode, args.padding,
                          args.align_corners};
  const auto corner = [&](int64_t tile, int64_t* oy, int64_t* ox) {
    *oy = tile / across % down * size.rows;
    *ox = tile % across * size.columns;
    return tile / (down * across);  // the image
  };
  // The sample of a tile's first output, as an offset into x.
  const auto sample_of = [&](int64_t tile) {
    int64_t oy, ox;
    const int64_t image = corner(tile, &oy, &ox);
    const AffinePixels& map = args.maps[image];
    const RunStart start = is_finite(map) ? run_start(map, sampling, ox, oy) : RunStart{};
    return image * args.x.stride[0] + start.row * args.x.stride[2] + start.column;
  };
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    WarpRun* runs = reinterpret_cast<WarpRun*>(scratch.of(worker));
    for (int64_t tile = begin; tile < end; ++tile) {
      int64_t oy, ox;
      const int64_t image = corner(tile, &oy, &ox);
      const TilePlan plan{stream, tile + 1 < end ? sample_of(tile + 1) - sample_of(tile) : 0};
      if (!is_finite(args.maps[image])) {
        for (int64_t r = oy; r < smaller(oy + size.rows, height); ++r) {
          warp_run<S>(args, image, r, ox, smaller(size.columns, width - ox));
        }
      } else if (args.padding == Padding::border) {
        warp_tile<S, true>(args, image, oy, ox, size, runs, plan);
      } else {
        warp_tile<S, false>(args, image, oy, ox, size, runs, plan);
      }
    }
    if (stream) {
      streaming_fence();
    }
  };
  split(workers, tiles, used, body);
  return Status::ok;
}

#endif

// Maps given in float64, nearest pixels, other layouts and processors are not cut into tiles.
bool forces_tiles(const WarpAffineArgs& args) {
  return forced(args.forced, PlanField::warp_affine_cpu_rows) != 0 ||
         forced(args.forced, PlanField::warp_affine_cpu_columns) != 0 ||
         forced(args.forced, PlanField::warp_affine_cpu_stores) != 0;
}

template <class S>
Status run(const WarpAffineArgs& args, const Workers& workers) {
#if defined(__AVX2__)
  if constexpr (sizeof(S) <= 4) {
    const bool rows = args.x.stride[3] == 1 && args.out.stride[3] == 1;
    if (rows && args.mode == Interpolation::bilinear && !args.exact) {
      return warp_planes<S>(args, workers);
    }
  }
#endif
  return forces_tiles(args) ? Status::plan_refused : warp_general<S>(args, workers);
}

}  // namespace

Status warp_affine(const WarpAffineArgs& args, const Workers& workers) {
  return with_storage(args.x.dtype,
                      [&](auto storage) { return run<decltype(storage)>(args, workers); });
}

}  // namespace fastalign::FASTALIGN_ISA
