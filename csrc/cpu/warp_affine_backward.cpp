// Gradients of warp_affine to the image and to the map.
//
// Idea. A tile of the image has one writer: it finds the output pixels that sample it, adds their
// gradients up in scratch and writes its part of dx once. No atomics, no zeroed buffer, and sums in
// an order that depends on neither threads nor tiles of others. Finding them needs no inverse of
// the map: along an output row the position is linear, so those that meet the tile are one
// interval, for singular and strongly minifying maps too. What lies near the edge of a tile is
// looked at from both sides; each tap belongs to one tile only, so the gradient of the map, a sum
// over taps, comes from the same walk. Reflection folds the plane, which leaves no intervals: there
// the tile is the whole image, and channels are what is shared out.
//
// Scratch holds pixels of 4 or of one cache line of channels, [pixel][channel], so that all lanes
// of a vector share positions and weights and a tap is one load, one multiply-add and one store.
//
// Bytes: grad once (about 1.1 times at tiles of 32 x 32), x once if the map's gradient is wanted,
// dx written once.
#include "blocks.h"
#include "warp_runs.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

template <class S, int Lanes>
void tile_block(const WarpAffineBackwardArgs& args, const Plan& plan, int64_t image,
                const Tile& tile, int64_t channel, Interval range, const Interval* rows,
                Acc<S>* grad, Acc<S>* x, Acc<S>* dx, MapSums* sums) {
  using A = Acc<S>;
  const AffinePixels& map = args.maps[image];
  const Sampling& s = plan.sampling;
  const bool still = s.mode == Interpolation::nearest && is_finite(map);
  const bool to_x = args.dx.data != nullptr, to_map = args.dmaps != nullptr && !still;
  for (int64_t r = 0; to_map && r < tile.height; ++r) {
    read_block<S, Lanes>(args.x, image, channel, tile.row + r, tile.column, tile.width,
                         x + r * tile.width * Lanes);
  }
  if (to_x) {
    std::memset(dx, 0, static_cast<size_t>(tile.height * tile.width * Lanes) * sizeof(A));
  }
  for (int64_t oy = range.first; (to_x || to_map) && oy < range.last; ++oy) {
    for (int64_t ox = rows[oy].first; ox < rows[oy].last; ox += kRun) {
      const int64_t count = smaller<int64_t>(kRun, rows[oy].last - ox);
      read_block<S, Lanes>(args.grad, image, channel, oy, ox, count, grad);
      if (to_x && to_map) {
        add_run<A, Lanes, true, true>(map, s, tile, oy, ox, count, grad, x, dx, sums);
      } else if (to_x) {
        add_run<A, Lanes, true, false>(map, s, tile, oy, ox, count, grad, x, dx, sums);
      } else {
        add_run<A, Lanes, false, true>(map, s, tile, oy, ox, count, grad, x, dx, sums);
      }
    }
  }
  for (int64_t r = 0; to_x && r < tile.height; ++r) {
    write_block<S, Lanes>(args.dx, image, channel, tile.row + r, tile.column, tile.width,
                          dx + r * tile.width * Lanes);
  }
}

Plan make_plan(const WarpAffineBackwardArgs& args, int64_t lanes) {
  Plan plan{};
  const int64_t height = args.x.height(), width = args.x.width();
  plan.sampling = {height, width, args.mode, args.padding, args.align_corners};
  plan.out_height = args.grad.height();
  plan.out_width = args.grad.width();
  plan.folded = args.padding == Padding::reflection;
  const int64_t side = forced_or(args.forced, PlanField::warp_affine_backward_cpu_side, kSide);
  plan.side_h = plan.folded ? height : smaller(height, side);
  plan.side_w = plan.folded ? width : smaller(width, side);
  plan.down = (height + plan.side_h - 1) / plan.side_h;
  plan.across = (width + plan.side_w - 1) / plan.side_w;
  plan.lanes = lanes;
  plan.blocks = (args.x.channels() + lanes - 1) / lanes;
  plan.blocks_per_task = plan.folded ? 1 : plan.blocks;
  return plan;
}

template <class S, int Lanes>
Status run_lanes(const WarpAffineBackwardArgs& args, const Workers& workers) {
  using A = Acc<S>;
  const Plan plan = make_plan(args, Lanes);
  if (plan.folded && forced(args.forced, PlanField::warp_affine_backward_cpu_side) != 0) {
    return Status::plan_refused;
  }
  const int64_t groups = (plan.blocks + plan.blocks_per_task - 1) / plan.blocks_per_task;
  const int64_t per_image = plan.down * plan.across * groups;
  const int64_t tasks = args.x.batch() * per_image;
  const double work = 16.0 * static_cast<double>(args.grad.batch() * args.grad.pixels()) *
                      static_cast<double>(args.x.channels() + 4);
  const int64_t used = workers_for(workers, tasks, work);
  const int64_t block = plan.side_h * plan.side_w * Lanes;
  Scratch scratch(
      2 * carved<A>(block) + carved<A>(kRun * Lanes) + carved<Interval>(plan.out_height), used);
  Scratch partial(tasks * static_cast<int64_t>(sizeof(MapSums)), 1);
  if (scratch.failed() || partial.failed()) {
    return Status::out_of_memory;
  }
  MapSums* sums = reinterpret_cast<MapSums*>(partial.of(0));
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    Carver carver(scratch.of(worker));
    A* x = carver.take<A>(block);
    A* dx = carver.take<A>(block);
    A* grad = carver.take<A>(kRun * Lanes);
    Interval* rows = carver.take<Interval>(plan.out_height);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / per_image, group = task % groups;
      const int64_t index = task / groups % (plan.down * plan.across);
      Tile tile{index / plan.across * plan.side_h, index % plan.across * plan.side_w, 0, 0};
      tile.height = smaller(plan.side_h, args.x.height() - tile.row);
      tile.width = smaller(plan.side_w, args.x.width() - tile.column);
      const Interval range = find_intervals(args.maps[image], plan, tile, rows);
      sums[task] = MapSums{};
      const int64_t first = group * plan.blocks_per_task;
      for (int64_t b = first; b < smaller(first + plan.blocks_per_task, plan.blocks); ++b) {
        tile_block<S, Lanes>(args, plan, image, tile, b * Lanes, range, rows, grad, x, dx,
                             sums + task);
      }
    }
  };
  split(workers, tasks, used, body);
  for (int64_t task = 0; args.dmaps != nullptr && task < tasks; ++task) {
    double* to = args.dmaps + task / per_image * 6;
    const MapSums& part = sums[task];
    const double parts[6] = {part.x_column, part.x_row, part.x, part.y_column, part.y_row, part.y};
    for (int k = 0; k < 6; ++k) {
      to[k] += parts[k];
    }
  }
  return Status::ok;
}

template <class S>
Status run(const WarpAffineBackwardArgs& args, const Workers& workers) {
  constexpr int line = 64 / sizeof(Acc<S>);
  return args.x.channels() <= 4 ? run_lanes<S, 4>(args, workers)
                                : run_lanes<S, line>(args, workers);
}

}  // namespace

Status warp_affine_backward(const WarpAffineBackwardArgs& args, const Workers& workers) {
  return with_storage(args.x.dtype,
                      [&](auto storage) { return run<decltype(storage)>(args, workers); });
}

}  // namespace fastalign::FASTALIGN_ISA
