// All-pairs dense cosine similarity, its loss and its gradients, in O(B).
//
// Idea. With unit vectors p^, z^ and S(x) = sum_b z^_b(x), the sum over the other images of
// p^_a . z^_b is p^_a . (S - z^_a). Per tile of pixels: z of all images is packed once into
// scratch as float while its norms build up, and S is summed; then each image's p is read once,
// giving its norm and its dot products in the same sweep, and its gradient is written from
// scratch. Traffic of loss and gradient: p and z read once, dp written once, as long as the tile of
// z stays in L2. Where there are too many images or channels for that, z is read a second time,
// image by image beside p, mostly from L3; p needs one image's worth unless dz is wanted as well.
#include <optional>

#include "dense_channels.h"
#include "dense_norms.h"
#include "dense_pixels.h"
#include "dense_rows.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Measured with two threads, float32 (benchmarks/results/cpu/plans_cpu.md, where the command is).
//
// Of a 1 MiB L2. Where z fits, reading it again takes 1.21 and 1.22 times as long (8x64x128x128,
// 8x256x64x64); where it does not, keeping it takes 1.46 times as long (32x256x16x16).
constexpr int64_t kTileBytes = 800 * 1024;
// Gradients from here on bypass the caches, which would fetch each line before it is written: those
// that do not take 1.47 and 1.29 times as long (34 MB). Beside a later pass that reads the gradient
// (benchmarks/results/cpu/streamed_stores.md, 1 MiB of L2 a core and 32 of L3): 1.53 and 1.43 times
// (8 MiB), 1.67 (4 MiB), 1.45 (2 MiB), with that pass 1.49, 1.38, 1.49 and 1.34. From half a MiB on
// it is 1.36 and 1.29, but there a larger L2 may still hold what is read next.
constexpr int64_t kStreamBytes = 2 * 1024 * 1024;

// Gradient of the result with respect to the sum over the other images' cosines, per pixel.
template <class A>
void read_weights(const DenseSimilarityArgs& args, int64_t image, int64_t images, int64_t first,
                  const DenseTile<A>& t) {
  const A others = static_cast<A>(images - 1);
  if (args.grad.data == nullptr) {
    const A total =
        static_cast<A>(static_cast<double>(args.p.batch()) * static_cast<double>(args.p.pixels()));
    for (int64_t i = 0; i < t.width; ++i) {
      t.weight[i] = A(-1) / (others * total);
    }
    return;
  }
  const PixelWalk walk =
      pixel_walk(args.p.height(), args.p.width(), args.grad.stride[1], args.grad.stride[2]);
  read_run(static_cast<const A*>(args.grad.data) + image * args.grad.stride[0], walk, first,
           t.count, t.width, t.weight);
  for (int64_t i = 0; i < t.width; ++i) {
    t.weight[i] /= others;
  }
}

// Sum with the rounding error of each step beside it: the cosines of a loss near 0 cancel.
struct LossSum {
  double high = 0, low = 0;

  void add(double more) {
    const double next = high + more, back = next - high;
    low += (high - (next - back)) + (more - back);
    high = next;
  }
  void add(const LossSum& more) {
    add(more.high);
    low += more.low;
  }
};

// Values of one image from its dot products and norms, and their sum; leaves in the tile what the
// gradient takes the others and p times.
template <class A>
void finish_image(const DenseSimilarityArgs& args, int64_t image, int64_t first, int64_t many,
                  const DenseTile<A>& t, LossSum* total) {
  const A others_count = static_cast<A>(many - 1);
  const bool one_channel = args.p.channels() == 1;
  read_weights(args, image, many, first, t);
  A* value = args.value == nullptr ? nullptr
                                   : static_cast<A*>(args.value) + image * args.p.pixels() + first;
  for (int64_t i = 0; i < t.width; i += kLanes<A>) {
    const Vec<A> inverse = load(t.inv_p + i), cosines = load(t.dot + i) * inverse;
    const Vec<A> mean = cosines / others_count;
    // Pixels beyond the last one are zero vectors.
    if constexpr (sizeof(A) == 8) {
      for (int lane = 0; lane < kLanes<A>; ++lane) {
        total->add(mean[lane]);
      }
    } else {
      total->add(static_cast<double>(sum_lanes(mean)));
    }
    if (value != nullptr && i < t.count) {
      store_first(value + i, mean, smaller<int64_t>(kLanes<A>, t.count - i));
    }
    const Vec<A> weight = load(t.weight + i) * inverse;
    const Vec<A> factor = (weight * cosines) * inverse;
    store(t.weight + i, weight);
    // A number has no direction to turn: the two terms cancel, and rounding must not be left.
    store(t.outer + i, one_channel ? weight * 0 : weight);
    store(t.factor + i, one_channel ? factor * 0 : factor);
  }
}

// One group in one tile: values, gradients, and the sum of the values for the loss.
template <class S, class Lanes>
LossSum group_tile(const DenseSimilarityArgs& args, int64_t group, int64_t first,
                   const DenseTile<Acc<S>>& t, bool stream) {
  using A = Acc<S>;
  const int64_t* images = args.groups.order + args.groups.start[group];
  const int64_t many = args.groups.start[group + 1] - args.groups.start[group];
  const int64_t size = t.channels * t.width, width = t.width;
  const bool one_channel = args.p.channels() == 1;
  const bool need_p = args.dp.data != nullptr, need_z = args.dz.data != nullptr;

  bool scaled_z = false;
  auto pack_z = [&](int64_t b, const Soon<S>& soon) {
    A* z = t.z + (t.keeps_z ? b * size : 0);
    A* norms = t.inv_z + b * width;
    Lanes::template pack<false>(source_of<S>(args.z, images[b], first), soon, t, z, norms, {},
                                nullptr);
    scaled_z |= finish_norms<Lanes>(t, z, norms, t.scale_z + b * width);
    if (one_channel) {
      to_signs(t, z, Lanes::pixel_step(t), norms);
    }
    return z;
  };
  auto add_p = [&](Soon<S>& soon, int64_t a) {
    soon.add(args.p, images[a], first);
    if (!t.keeps_z) {
      soon.add(args.z, images[a], first);
    }
  };
  for (int64_t b = 0; b < many; ++b) {
    Soon<S> rows, next;
    rows.add(args.z, images[b], first);
    const A* z = pack_z(b, rows);
    if (b + 1 < many) {
      next.add(args.z, images[b + 1], first);
    } else {
      add_p(next, 0);
    }
    Lanes::add_scaled(next, t, z, t.inv_z + b * width, b == 0, t.sum_z);
  }

  LossSum total;
  for (int64_t a = 0; a < many; ++a) {
    Soon<S> rows, next;
    add_p(rows, a);
    if (a + 1 < many) {
      add_p(next, a + 1);
    } else {
      next.add(args.z, images[0], first + width);  // where the next tile begins
    }
    Others<A> others{t.sum_z, t.z + (t.keeps_z ? a * size : 0), t.inv_z + a * width, t.rest};
    if (!t.keeps_z) {
      pack_z(a, {});
    }
    A* p = t.p + (need_z ? a * size : 0);
    Lanes::template pack<true>(source_of<S>(args.p, images[a], first), rows, t, p, t.inv_p, others,
                               t.dot);
    const bool scaled = finish_norms<Lanes>(t, p, t.inv_p, t.scale_p);
    if (one_channel) {
      to_signs(t, p, Lanes::pixel_step(t), t.inv_p);
    }
    if (scaled || one_channel) {
      Lanes::dot(t, p, others, t.dot);
    }
    finish_image(args, images[a], first, many, t, &total);
    if (need_p) {
      Lanes::write(args.dp, images[a], first, next, t, t.outer, p, t.factor,
                   scaled ? t.scale_p : nullptr, stream);
    }
    if (need_z) {
      for (int64_t i = 0; i < width; ++i) {
        t.own_p[a * width + i] = t.weight[i];
      }
      Lanes::add_scaled({}, t, p, t.weight, a == 0, t.sum_p);
    }
  }

  // dz = (R - w p^) / |z| - (z . (R - w p^)) z / |z|^3, the twin of dp with the weights inside R.
  for (int64_t b = 0; need_z && b < many; ++b) {
    const Others<A> others{t.sum_p, t.p + b * size, t.own_p + b * width, t.rest};
    const A* z = t.z + b * size;
    const A* inverse = t.inv_z + b * width;
    Lanes::dot(t, z, others, t.dot);
    for (int64_t i = 0; i < width; ++i) {
      t.factor[i] = ((t.dot[i] * inverse[i]) * inverse[i]) * inverse[i];
      t.outer[i] = one_channel ? inverse[i] * 0 : inverse[i];
      t.factor[i] = one_channel ? t.factor[i] * 0 : t.factor[i];
    }
    Lanes::write(args.dz, images[b], first, {}, t, t.outer, z, t.factor,
                 scaled_z ? t.scale_z + b * width : nullptr, stream);
  }
  return total;
}

// The same where z is not kept and all rows can be read as they are; without value elsewhere.
template <class S, int NB>
std::optional<LossSum> group_tile_rows(const DenseSimilarityArgs& args, int64_t group,
                                       int64_t first, const DenseTile<Acc<S>>& t, bool stream) {
  using A = Acc<S>;
  using Lanes = PixelLanes<S, NB>;
  using Sweeps = RowSweeps<S, NB>;
  const auto in_rows = [&](const View4& view) { return Lanes::reads_rows(view, t); };
  if (t.keeps_z || args.p.channels() == 1 || !in_rows(args.p) || !in_rows(args.z) ||
      (args.dp.data != nullptr && !in_rows(args.dp))) {
    return std::nullopt;
  }
  const int64_t* images = args.groups.order + args.groups.start[group];
  const int64_t many = args.groups.start[group + 1] - args.groups.start[group];
  const int64_t width = t.width, p_stride = args.p.stride[1], z_stride = args.z.stride[1];
  const auto rows_of = [&](const View4& view, int64_t k) {
    return plane_of<S>(view, images[k], 0) + first;
  };
  const auto add_both = [&](Soon<S>& soon, int64_t k) {
    soon.add(args.p, images[k], first);
    soon.add(args.z, images[k], first);
  };
  for (int64_t b = 0; b < many; ++b) {
    Soon<S> rows, next;
    rows.add(args.z, images[b], first);
    if (b + 1 < many) {
      next.add(args.z, images[b + 1], first);
    } else {
      add_both(next, 0);
    }
    A* norms = t.inv_z + b * width;
    Sweeps::norms(rows_of(args.z, b), z_stride, rows, t, norms);
    if (!invert_norms(t, norms)) {
      return std::nullopt;
    }
    Sweeps::add_scaled(rows_of(args.z, b), z_stride, next, t, norms, b == 0, t.sum_z);
  }
  LossSum total;
  for (int64_t a = 0; a < many; ++a) {
    Soon<S> rows, next;
    add_both(rows, a);
    if (a + 1 < many) {
      add_both(next, a + 1);
    } else {
      next.add(args.z, images[0], first + width);  // where the next tile begins
    }
    const S *p = rows_of(args.p, a), *z = rows_of(args.z, a);
    const A* own_scale = t.inv_z + a * width;
    Sweeps::dots(p, p_stride, z, z_stride, own_scale, rows, t, t.inv_p, t.dot);
    if (!invert_norms(t, t.inv_p)) {
      return std::nullopt;
    }
    finish_image(args, images[a], first, many, t, &total);
    if (args.dp.data != nullptr) {
      Sweeps::write(rows_of(args.dp, a), args.dp.stride[1], p, p_stride, z, z_stride, own_scale,
                    next, t, stream);
    }
  }
  return total;
}

template <class S, int NB>
LossSum pixels_tile(const DenseSimilarityArgs& args, int64_t group, int64_t first,
                    const DenseTile<Acc<S>>& t, bool stream) {
  const std::optional<LossSum> total = group_tile_rows<S, NB>(args, group, first, t, stream);
  return total.has_value() ? *total
                           : group_tile<S, PixelLanes<S, NB>>(args, group, first, t, stream);
}

template <class S>
LossSum any_group_tile(const DenseSimilarityArgs& args, int64_t group, int64_t first,
                       const DenseTile<Acc<S>>& t, bool by_channel, bool stream) {
  const int64_t vectors = t.width / kLanes<Acc<S>>;
  if (by_channel) {
    return group_tile<S, ChannelLanes<S>>(args, group, first, t, stream);
  }
  if (vectors % 4 == 0) {
    return pixels_tile<S, 4>(args, group, first, t, stream);
  }
  if (vectors % 2 == 0) {
    return pixels_tile<S, 2>(args, group, first, t, stream);
  }
  return pixels_tile<S, 1>(args, group, first, t, stream);
}

template <class S>
Status run(const DenseSimilarityArgs& args, const Workers& workers) {
  using A = Acc<S>;
  const int64_t pixels = args.p.pixels();
  int64_t largest = 0;
  for (int64_t g = 0; g < args.groups.count; ++g) {
    largest = larger(largest, args.groups.start[g + 1] - args.groups.start[g]);
  }
  const bool by_channel = args.p.stride[1] == 1 && args.p.stride[3] != 1 && args.p.channels() > 1;
  const int64_t channels = by_channel ? round_up(args.p.channels(), kLanes<A>) : args.p.channels();
  const bool need_z = args.dz.data != nullptr;
  // The width must not depend on the number of threads: the loss adds up tile by tile. Narrow rows
  // (32 in place of 64: 1.15 and 1.17 times, 16: 1.5 and 2.0) cost more than a second read of z; a
  // gradient of z needs both tiles whole, so there the width gives way. Small maps are cut into
  // four tiles, for as many threads.
  const int64_t widest = smaller<int64_t>(by_channel ? 32 : 64, round_up((pixels + 3) / 4, 16));
  const int64_t kept = 3 + largest + (need_z ? largest : 0);
  const int64_t fitting = kTileBytes / larger<int64_t>(kept * channels * sizeof(A), 1);
  const int32_t z = forced(args.forced, PlanField::dense_similarity_cpu_z);
  if (need_z && z > 1) {
    return Status::plan_refused;  // its gradient is made from what is kept
  }
  const bool keep_z = need_z || (z == 0 ? fitting >= widest : z == 1);
  const int64_t width =
      forced_or(args.forced, PlanField::dense_similarity_cpu_width,
                larger<int64_t>(16, need_z ? smaller(fitting / 16 * 16, widest) : widest));
  const int64_t tiles = (pixels + width - 1) / width;
  const double elements = static_cast<double>(args.p.batch()) * static_cast<double>(pixels);
  const int64_t used =
      workers_for(workers, tiles, 8 * elements * static_cast<double>(args.p.channels() + 4));
  Scratch scratch(DenseTile<A>::bytes(channels, largest, width, keep_z, need_z), used);
  Scratch partial(tiles * static_cast<int64_t>(sizeof(LossSum)), 1);
  if (scratch.failed() || partial.failed()) {
    return Status::out_of_memory;
  }
  LossSum* sums = reinterpret_cast<LossSum*>(partial.of(0));
  const int32_t stores = forced(args.forced, PlanField::dense_similarity_cpu_stores);
  const bool large = elements * static_cast<double>(args.p.channels() * sizeof(S)) >= kStreamBytes;
  const bool stream = stores == 0 ? large : stores > 1;
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    DenseTile<A> tile(scratch.of(worker), channels, largest, width, keep_z, need_z);
    for (int64_t index = begin; index < end; ++index) {
      tile.count = smaller(width, pixels - index * width);
      sums[index] = LossSum{};
      for (int64_t g = 0; g < args.groups.count; ++g) {
        sums[index].add(any_group_tile<S>(args, g, index * width, tile, by_channel, stream));
      }
    }
    if (stream) {
      streaming_fence();
    }
  };
  split(workers, tiles, used, body);
  if (args.loss != nullptr) {
    LossSum total;
    for (int64_t i = 0; i < tiles; ++i) {
      total.add(sums[i]);
    }
    *args.loss = -(total.high + total.low) / elements;
  }
  return Status::ok;
}

}  // namespace

Status dense_similarity(const DenseSimilarityArgs& args, const Workers& workers) {
  return with_storage(args.p.dtype,
                      [&](auto storage) { return run<decltype(storage)>(args, workers); });
}

}  // namespace fastalign::FASTALIGN_ISA
