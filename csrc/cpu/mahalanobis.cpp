// Mahalanobis distance from a packed inverse Cholesky factor or a low-rank form per location, and
// its gradients.
//
// Idea. distance^2 = |A d|^2 with d = x - mean, and A = L, packed, or A = I - V^T V. The factors
// are by far the largest input: at one image the floor is reading them once, C (C + 1) / 2 entries
// per location or R C, front to back. So a location is the unit of work: its factor streams through
// the registers in blocks of four rows (mahalanobis_packed.h, mahalanobis_low_rank.h), each entry
// is multiplied with the deviations of up to eight images while it is there, and further images
// find it in L1. Deviations of a tile of locations are transposed first to
// [location][image][channel], so that rows of the factor meet contiguous vectors; a tile is one
// cache line of pixels wide, so that NCHW maps are read in whole lines.
//
// A coarser map that x has beside it is read between four of its pixels where deviations are made,
// so that its upsampled form and the sum never exist; a location whose scale is 0 is not
// multiplied.
//
// Bytes: factors once, x once (backward: the same, plus the gradients written once). Nothing is
// unpacked and nothing grows with the number of locations. 16-bit factors are widened in
// registers, which is what makes them twice as fast and not only half as large.
//
// Range. Squares are summed as they are; a location whose sum leaves [2^-60, 2^60] (2^+-400 in
// double) is computed again with its largest component divided out.
#include "mahalanobis_low_rank.h"
#include "mahalanobis_packed.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Measured with two threads, 100 channels on 64 x 64 (benchmarks/results/cpu/plans_cpu.md, where
// the command is): in place of 16 locations, 8 take 1.07 times as long for one image and for eight,
// 4 1.09 and 1.31, 1 1.27 and 1.90. The bytes are those of L2 beside a factor: not measured alone.
constexpr int64_t kTilePixels = 16;
constexpr int64_t kTileBytes = 384 * 1024;

template <class W, template <class> class Form>
void distances(const MahalanobisArgs& args, const GaussianTile<Acc<W>>& t, int64_t first,
               int64_t count) {
  using A = Acc<W>;
  const int64_t pixels = args.x.pixels();
  A* value = static_cast<A*>(args.value);
  const int64_t width = args.x.width();
  for (int64_t i = 0; i < count; ++i) {
    t.ask(i);
    A scale = 1;
    if (args.scale.data != nullptr) {
      scale = static_cast<const A*>(args.scale.data)[(first + i) / width * args.scale.stride[1] +
                                                     (first + i) % width * args.scale.stride[2]];
    }
    if (scale == A(0)) {  // whatever is there
      for (int64_t b = 0; b < t.images; ++b) {
        value[b * pixels + first + i] = A(0);
      }
      continue;
    }
    const Form<W> form(args, t, first + i);
    const A* deviation = t.deviation + i * t.images * t.padded;
    form.whiten_images(deviation, false);
    for (int64_t b = 0; b < t.images; ++b) {
      A result = t.squares[b];
      if (!args.squared) {
        result = in_range(result) ? root(result)
                                  : careful_length(form.white_of(deviation, b), t.channels);
      }
      value[b * pixels + first + i] = result * scale;
    }
  }
}

template <class W, template <class> class Form>
void gradients(const MahalanobisArgs& args, const GaussianTile<Acc<W>>& t, int64_t first,
               int64_t count) {
  using A = Acc<W>;
  for (int64_t i = 0; i < count; ++i) {
    t.ask(i);
    const Form<W> form(args, t, first + i);
    const A* deviation = t.deviation + i * t.images * t.padded;
    form.whiten_images(deviation, true);
    white_gradient(args, t, first + i);
    if (args.dx.data != nullptr || args.dmean != nullptr || Form<W>::kPullsFirst) {
      form.transposed(t.gradient + i * t.images * t.padded);
    }
    if (args.dwhitener != nullptr) {
      form.whitener_gradient(deviation,
                             static_cast<W*>(args.dwhitener) + (first + i) * Form<W>::size(args));
    }
  }
}

// The work that depends on the form and the type of the whitener, for x accumulated in A.
template <class A>
struct FactorWork {
  void (*run)(const MahalanobisArgs&, const GaussianTile<A>&, int64_t first, int64_t count);
  int64_t size;   // entries of a location
  int64_t rows;   // of the tile
  int64_t bytes;  // of a gathered location
};

template <class A, template <class> class Form>
FactorWork<A> factor_work(const MahalanobisArgs& args, bool backward) {
  FactorWork<A> work{};
  with_storage(args.whitener_dtype, [&](auto storage) {
    using W = decltype(storage);
    if constexpr (sizeof(Acc<W>) == sizeof(A)) {
      const int64_t size = Form<W>::size(args);
      work = {backward ? gradients<W, Form> : distances<W, Form>, size, Form<W>::rows(args),
              Form<W>::is_gathered(args) ? size * static_cast<int64_t>(sizeof(W)) : 0};
    }
  });
  return work;
}

template <class S>
Status run(const MahalanobisArgs& args, const Workers& workers) {
  using A = Acc<S>;
  const bool backward = args.grad.data != nullptr;
  const int64_t channels = args.x.channels(), images = args.x.batch(), pixels = args.x.pixels();
  const FactorWork<A> factors = args.low_rank ? factor_work<A, LowRank>(args, backward)
                                              : factor_work<A, PackedFactor>(args, backward);
  const int64_t padded = round_up(channels, larger<int64_t>(kLanes<A>, kRows));
  const int64_t one = larger<int64_t>(images * padded, 1) * static_cast<int64_t>(sizeof(A));
  const int64_t width = forced_or(args.forced, PlanField::mahalanobis_cpu_width,
                                  larger<int64_t>(1, smaller(kTilePixels, kTileBytes / one)));
  const int64_t tiles = (pixels + width - 1) / width;
  // Rows are multiplied twice, and d is read even where there are none.
  const int64_t products = args.low_rank ? 2 * factors.size + channels : factors.size;
  const double work =
      static_cast<double>(products) * static_cast<double>(pixels * images) * (backward ? 4 : 1);
  const int64_t used = workers_for(workers, tiles, work);
  Scratch scratch(
      GaussianTile<A>::bytes(padded, images, width, backward, factors.rows, factors.bytes), used);
  if (scratch.failed()) {
    return Status::out_of_memory;
  }
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    GaussianTile<A> tile(scratch.of(worker), channels, padded, images, width, backward,
                         factors.rows, factors.bytes);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t first = index * width, count = smaller(width, pixels - first);
      read_deviations<S>(args, tile, first, count);
      if (args.coarse.data != nullptr) {
        add_coarse<S>(args, tile, first, count);
      }
      const int64_t next = index + 1 < end ? first + width : pixels;
      tile.next = {&args, ask_for_deviations<S>, next, smaller(width, pixels - next), count};
      factors.run(args, tile, first, count);
      if (backward) {
        write_gradients<S>(args, tile, first, count);
      }
    }
  };
  split(workers, tiles, used, body);
  return Status::ok;
}

}  // namespace

Status mahalanobis(const MahalanobisArgs& args, const Workers& workers) {
  return with_storage(args.x.dtype,
                      [&](auto storage) { return run<decltype(storage)>(args, workers); });
}

}  // namespace fastalign::FASTALIGN_ISA
