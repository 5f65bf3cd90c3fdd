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
// What the next block or tile reads is asked for while this one is computed.
//
// Bytes: grad once (about 1.06 times at tiles of 64 x 64), x once if the map's gradient is wanted,
// dx written once.
#include "blocks.h"
#include "warp_bilinear.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Channels of a tile, and the output pixels that sample it.
struct Piece {
  int64_t image, channel;
  Tile tile;
  Interval range;        // of output rows
  const Interval* rows;  // of output columns, by row
};

// `next` is what is asked for meanwhile: the k-th row of its gradient and of its image beside the
// k-th output row of this one.
template <class S, int Lanes>
void tile_block(const WarpAffineBackwardArgs& args, const Plan& plan, const Piece& piece,
                const Piece& next, Acc<S>* grad, Acc<S>* x, Acc<S>* dx, MapSums* sums) {
  using A = Acc<S>;
  const auto& [image, channel, tile, range, rows] = piece;
  const AffinePixels& map = args.maps[image];
  const Sampling& s = plan.sampling;
  const bool still = s.mode == Interpolation::nearest && is_finite(map);
  const bool to_x = args.dx.data != nullptr, to_map = args.dmaps != nullptr && !still;
  for (int64_t r = 0; to_map && r < tile.height; ++r) {
    read_block<S, Lanes>(args.x, image, channel, tile.row + r, tile.column, tile.width,
                         x + ((r + 1) * row_of(tile) + 1) * Lanes);
  }
  if (to_x) {
    std::memset(dx, 0, static_cast<size_t>(size_of(tile) * Lanes) * sizeof(A));
  }
  const auto ask_for = [&](int64_t k) {
    if (k < next.range.last - next.range.first) {
      const int64_t oy = next.range.first + k;
      prefetch_block<S, Lanes>(args.grad, next.image, next.channel, oy, next.rows[oy].first,
                               next.rows[oy].last - next.rows[oy].first);
    }
    if (to_map && k < next.tile.height) {
      prefetch_block<S, Lanes>(args.x, next.image, next.channel, next.tile.row + k,
                               next.tile.column, next.tile.width);
    }
  };
  for (int64_t oy = range.first; (to_x || to_map) && oy < range.last; ++oy) {
    ask_for(oy - range.first);
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
                          dx + ((r + 1) * row_of(tile) + 1) * Lanes, plan.stream);
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
  if (args.dx.data != nullptr && args.dx.dtype == DType::float32) {
    const int64_t bytes = 4 * args.dx.batch() * args.dx.channels() * args.dx.pixels();
    const bool whole_tiles = plan.side_w * 4 % kLineBytes == 0;
    plan.stream = whole_tiles && bytes >= kStreamedBytes && has_whole_lines(args.dx, 4);
  }
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
  const int64_t block = size_of(Tile{0, 0, plan.side_h, plan.side_w}) * Lanes;
  Scratch scratch(
      2 * carved<A>(block) + carved<A>(kRun * Lanes) + 2 * carved<Interval>(plan.out_height), used);
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
    Interval* rows[2];
    for (Interval*& of_task : rows) {
      of_task = carver.take<Interval>(plan.out_height);
    }
    const auto first_piece = [&](int64_t task) {
      const int64_t image = task / per_image, group = task % groups;
      const int64_t index = task / groups % (plan.down * plan.across);
      Tile tile{index / plan.across * plan.side_h, index % plan.across * plan.side_w, 0, 0};
      tile.height = smaller(plan.side_h, args.x.height() - tile.row);
      tile.width = smaller(plan.side_w, args.x.width() - tile.column);
      Interval* found = rows[task % 2];
      const Interval range = find_intervals(args.maps[image], plan, tile, found);
      return Piece{image, group * plan.blocks_per_task * Lanes, tile, range, found};
    };
    Piece piece{};
    if (begin < end) {
      piece = first_piece(begin);
    }
    for (int64_t task = begin; task < end; ++task) {
      const Piece after = task + 1 < end ? first_piece(task + 1) : Piece{};
      const int64_t last = smaller(piece.channel + plan.blocks_per_task * Lanes, args.x.channels());
      sums[task] = MapSums{};
      if (args.dmaps != nullptr) {  // for the margin
        std::memset(x, 0, static_cast<size_t>(size_of(piece.tile) * Lanes) * sizeof(A));
      }
      for (; piece.channel < last; piece.channel += Lanes) {
        Piece next = piece;
        next.channel += Lanes;
        tile_block<S, Lanes>(args, plan, piece, next.channel < last ? next : after, grad, x, dx,
                             sums + task);
      }
      piece = after;
    }
    if (plan.stream) {
      streaming_fence();
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
