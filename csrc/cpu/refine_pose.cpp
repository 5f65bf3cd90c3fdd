// refine_pose: all Gauss-Newton steps of a candidate, one candidate after the other in a thread.
//
// What a step needs of the template (its changes, its weight, padded to whole vectors) is laid out
// once for each thread, the edges of an image once for all of its candidates: 64 x 64 locations
// take 16 KB a map, so that all of it stays in the nearest caches. A pass samples a vector of
// locations of a row at a time and adds up all sums of pose.h in registers, in double.
//
// A sample counts only where its four neighbours lie in the image, so nothing is read outside.
#include "../common/pose.h"
#include "runs.h"
#include "scratch.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Doubles in a vector of A.
template <class A>
constexpr int kHalves = sizeof(A) == 4 ? 2 : 1;

template <class A>
FASTALIGN_INLINE Doubles wide_half(const Vec<A>& values, int half) {
  if constexpr (sizeof(A) == 4) {
    using Half = typename VectorOf<float, kLanes<double>>::type;
    Half part;
    std::memcpy(&part, reinterpret_cast<const char*>(&values) + half * sizeof(Half), sizeof(Half));
    return __builtin_convertvector(part, Doubles);
  } else {
    return values;
  }
}

template <class A>
FASTALIGN_INLINE Vec<A> gather(const A* from, const Bits<A>& index) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4) {
    return reinterpret_cast<Floats>(_mm512_i32gather_ps(reinterpret_cast<__m512i>(index), from, 4));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(A) == 4) {
    return reinterpret_cast<Floats>(_mm256_i32gather_ps(from, reinterpret_cast<__m256i>(index), 4));
  }
#endif
  Vec<A> values;
  for (int i = 0; i < kLanes<A>; ++i) {
    values[i] = from[index[i]];
  }
  return values;
}

// What all candidates share, [height][padded] each: x runs along a row and has one.
template <class A>
struct Template {
  int64_t height, width, padded;
  A *x, *value, *weight, *change;  // change: [P][height][padded]
  A* image;                        // [height][width]
  A *slope_x, *slope_y;            // of the template along a row
  double enough;                   // weight that must be in sight

  static int64_t bytes(int64_t height, int64_t width, int64_t parameters) {
    const int64_t padded = round_up(width, kLanes<A>);
    return 3 * carved<A>(padded) + 2 * carved<A>(height * padded) +
           carved<A>(parameters * height * padded) + carved<A>(height * width);
  }

  Template(const RefinePoseArgs& args, char* block)
      : height(args.edges.height()), width(args.edges.width()), padded(round_up(width, kLanes<A>)) {
    Carver carver(block);
    x = carver.take<A>(padded);
    value = carver.take<A>(height * padded);
    weight = carver.take<A>(height * padded);
    change = carver.take<A>(args.parameters * height * padded);
    image = carver.take<A>(height * width);
    slope_x = carver.take<A>(padded);
    slope_y = carver.take<A>(padded);
    for (int64_t i = 0; i < padded; ++i) {
      // What fills up a row is inside nowhere.
      x[i] = i < width ? centre(i, width) : static_cast<A>(__builtin_nan(""));
    }
    read(args.template_, value);
    read(args.weight, weight);
    Doubles total{};
    for (int64_t i = 0; i < height * padded; i += kLanes<A>) {
      for (int half = 0; half < kHalves<A>; ++half) {
        total += wide_half<A>(load(weight + i), half);
      }
    }
    enough = sum_lanes(total) * kPoseLeastCovered;
    set_changes(args);
  }

  // Normalised coordinate of a pixel.
  static A centre(int64_t i, int64_t count) {
    return static_cast<A>(2 * i + 1) / static_cast<A>(count) - A(1);
  }

  // [height, width] of any strides, zeros behind each row.
  void read(const View3& from, A* to) const {
    for (int64_t y = 0; y < height; ++y) {
      const A* row = static_cast<const A*>(from.data) + y * from.stride[1];
      read_stretch(row, from.stride[2], width, to + y * padded);
      for (int64_t i = width; i < padded; ++i) {
        to[y * padded + i] = A(0);
      }
    }
  }

  // The template's change with each parameter at the identity: its slope along the map's.
  void set_changes(const RefinePoseArgs& args) const {
    const A* generators = static_cast<const A*>(args.generators);
    const A by_x = static_cast<A>(width) / 4, by_y = static_cast<A>(height) / 4;
    for (int64_t y = 0; y < height; ++y) {
      const A *row = value + y * padded, at_y = centre(y, height);
      for (int64_t i = 0; i < padded; ++i) {
        slope_x[i] = slope_y[i] = A(0);
      }
      for (int64_t i = 1; i + 1 < width; ++i) {
        slope_x[i] = (row[i + 1] - row[i - 1]) * by_x;
      }
      for (int64_t i = 0; y > 0 && y + 1 < height && i < width; ++i) {
        slope_y[i] = (row[i + padded] - row[i - padded]) * by_y;
      }
      for (int64_t p = 0; p < args.parameters; ++p) {
        const A* g = generators + p * 6;
        const Vec<A> step_x = splat(g[0]), start_x = splat(g[1] * at_y + g[2]);
        const Vec<A> step_y = splat(g[3]), start_y = splat(g[4] * at_y + g[5]);
        A* to = change + (p * height + y) * padded;
        for (int64_t i = 0; i < padded; i += kLanes<A>) {
          const Vec<A> at_x = load(x + i);
          const Vec<A> along = load(slope_x + i) * (step_x * at_x + start_x) +
                               load(slope_y + i) * (step_y * at_x + start_y);
          store(to + i, at_x == at_x ? along : Vec<A>{});
        }
      }
    }
  }

  template <class S>
  void read_image(const View4& edges, int64_t index) const {
    read_run(plane_of<S>(edges, index, 0), pixel_walk(edges), 0, height * width, height * width,
             image);
  }
};

template <class A>
FASTALIGN_INLINE Bits<A> whole(const Vec<A>& at) {
  return __builtin_convertvector(at, Bits<A>);
}

// The sums of one pass over the template, at a pose.
template <class A, int P>
void add_up(const Template<A>& t, const Pose<A>& pose, double* sums) {
  constexpr int count = pose_sums(P), lanes = kLanes<A>;
  const A width = static_cast<A>(t.width), height = static_cast<A>(t.height);
  const Vec<A> inside_x = splat(A(1) - A(2) / width), inside_y = splat(A(1) - A(2) / height);
  const Vec<A> half_x = splat(width / 2), half_y = splat(height / 2);
  const Vec<A> middle_x = splat((width - 1) / 2), middle_y = splat((height - 1) / 2);
  const Vec<A> along_x = splat(pose.entry[0]), along_y = splat(pose.entry[3]);
  const Bits<A> row_step = Bits<A>{} + static_cast<int32_t>(t.width);
  Doubles total[count] = {};
  for (int64_t y = 0; y < t.height; ++y) {
    const A at_y = Template<A>::centre(y, t.height);
    const Vec<A> start_x = splat(pose.entry[1] * at_y + pose.entry[2]);
    const Vec<A> start_y = splat(pose.entry[4] * at_y + pose.entry[5]);
    for (int64_t i = 0; i < t.padded; i += lanes) {
      const int64_t at = y * t.padded + i;
      const Vec<A> x = load(t.x + i);
      const Vec<A> to_x = along_x * x + start_x, to_y = along_y * x + start_y;
      // Comparisons with what is not finite are false.
      const Bits<A> inside = (abs_of(to_x) <= inside_x) & (abs_of(to_y) <= inside_y);
      if (!any_lane(inside)) {
        continue;
      }
      const Vec<A> zero{};
      const Vec<A> column = inside ? to_x * half_x + middle_x : zero;
      const Vec<A> row = inside ? to_y * half_y + middle_y : zero;
      const Bits<A> left = whole<A>(column), top = whole<A>(row);
      const Vec<A> right = column - __builtin_convertvector(left, Vec<A>);
      const Vec<A> below = row - __builtin_convertvector(top, Vec<A>);
      const Bits<A> index = top * row_step + left;
      const Vec<A> a = gather(t.image, index), b = gather(t.image + 1, index);
      const Vec<A> c = gather(t.image + t.width, index);
      const Vec<A> d = gather(t.image + t.width + 1, index);
      const Vec<A> upper = a + right * (b - a), lower = c + right * (d - c);
      const Vec<A> image = inside ? upper + below * (lower - upper) : zero;
      const Vec<A> weight = inside ? load(t.weight + at) : zero;
      const Vec<A> value = load(t.value + at);
      FASTALIGN_UNROLL
      for (int half = 0; half < kHalves<A>; ++half) {
        Doubles feature[pose_features(P)];
        feature[0] = wide_half<A>(weight, half);
        feature[1] = wide_half<A>(value, half);
        feature[2] = wide_half<A>(image, half);
        FASTALIGN_UNROLL
        for (int p = 0; p < P; ++p) {
          feature[kPoseFirst + p] =
              wide_half<A>(load(t.change + p * t.height * t.padded + at), half);
        }
        total[0] += feature[0];
        for (int f = 1; f < pose_features(P); ++f) {
          const Doubles weighted = feature[0] * feature[f];
          total[pose_sum(f, 0)] += weighted;
          for (int g = 1; g <= f; ++g) {
            total[pose_sum(f, g)] += weighted * feature[g];
          }
        }
      }
    }
  }
  for (int k = 0; k < count; ++k) {
    sums[k] = sum_lanes(total[k]);
  }
}

template <class A, int P>
void refine(const RefinePoseArgs& args, const Template<A>& t, PoseTrack<A>* track) {
  for (int64_t iteration = 0;; ++iteration) {
    double sums[pose_sums(P)], rows[P][P + 1];
    add_up<A, P>(t, track->at, sums);
    const double correlation = normal_equations<P>(sums, t.enough, rows);
    if (iteration == 0) {
      track->correlation = correlation;
    } else {
      keep_best(track, correlation);
    }
    if (iteration == args.iterations) {
      return;
    }
    solve_step<P>(rows);
    track->at = moved_pose<P>(track->at, rows, static_cast<const A*>(args.generators));
  }
}

template <class A>
using Refine = void (*)(const RefinePoseArgs&, const Template<A>&, PoseTrack<A>*);

template <class A>
Refine<A> refine_with(int parameters) {
  constexpr Refine<A> all[kMostPoseParameters] = {refine<A, 1>, refine<A, 2>, refine<A, 3>,
                                                  refine<A, 4>, refine<A, 5>, refine<A, 6>};
  return all[parameters - 1];
}

template <class S>
Status run(const RefinePoseArgs& args, const Workers& workers) {
  using A = Acc<S>;
  const int64_t height = args.edges.height(), width = args.edges.width();
  const int64_t tasks = args.edges.batch() * args.candidates;
  const double passes = static_cast<double>(tasks) * static_cast<double>(args.iterations + 1);
  const double work = passes * static_cast<double>(height * width) *
                      static_cast<double>(pose_sums(static_cast<int>(args.parameters)));
  const int64_t used = workers_for(workers, tasks, work);
  Scratch scratch(Template<A>::bytes(height, width, args.parameters), used);
  if (scratch.failed()) {
    return Status::out_of_memory;
  }
  const Refine<A> refine = refine_with<A>(static_cast<int>(args.parameters));
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    const Template<A> t(args, scratch.of(worker));
    int64_t present = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / args.candidates, candidate = task % args.candidates;
      if (image != present) {
        t.template read_image<S>(args.edges, image);
        present = image;
      }
      PoseTrack<A> track;
      for (int64_t k = 0; k < 6; ++k) {
        const int64_t offset = image * args.theta_stride[0] + candidate * args.theta_stride[1] +
                               k / 3 * args.theta_stride[2] + k % 3 * args.theta_stride[3];
        track.at.entry[k] = static_cast<const A*>(args.theta)[offset];
      }
      track.best = track.at;
      refine(args, t, &track);
      std::memcpy(static_cast<A*>(args.refined) + task * 6, track.best.entry, 6 * sizeof(A));
      static_cast<A*>(args.correlation)[task] = static_cast<A>(track.correlation);
    }
  };
  split(workers, tasks, used, body);
  return Status::ok;
}

}  // namespace

Status refine_pose(const RefinePoseArgs& args, const Workers& workers) {
  return with_storage(args.edges.dtype,
                      [&](auto storage) { return run<decltype(storage)>(args, workers); });
}

}  // namespace fastalign::FASTALIGN_ISA
