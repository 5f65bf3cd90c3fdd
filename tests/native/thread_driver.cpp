// All kernels of one instruction set with four threads against one: to be built with a race
// detector, and with FASTALIGN_WORK_PER_WORKER=1, so that small tensors occupy all four.
//
// Results must be the same to the last bit, whatever order the threads come in. Torch is not in
// the process: the detector knows every thread and every lock. Called with the word "race", two
// threads share each piece of work, which the detector must find.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/common/half.h"
#include "../../csrc/common/packed.h"
#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cpu/levels.h"

namespace {

using namespace fastalign;

constexpr int64_t kBatch = 5, kHeight = 23, kWidth = 29, kOutHeight = 21, kOutWidth = 31;

const KernelTable kTable = FASTALIGN_TABLE(FASTALIGN_ISA);

int64_t most_threads = 0;  // at once, since it was last set to 0
bool race = false;

Workers one_thread() {
  return {1, [](int64_t workers, void (*task)(void*, int64_t), void* context) {
            for (int64_t worker = 0; worker < workers; ++worker) {
              task(context, worker);
            }
          }};
}

// A thread for each worker, the last one started first.
Workers four_threads() {
  return {4, [](int64_t workers, void (*task)(void*, int64_t), void* context) {
            most_threads = std::max(most_threads, workers);
            std::vector<std::thread> threads;
            for (int64_t worker = workers - 1; worker >= 0; --worker) {
              threads.emplace_back(task, context, race ? worker / 2 : worker);
            }
            for (std::thread& thread : threads) {
              thread.join();
            }
          }};
}

// A small generator of our own: numbers in [-1, 1), the same everywhere.
struct Random {
  uint64_t state = 1;
  double operator()() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state >> 11) / static_cast<double>(uint64_t{1} << 52) - 1.0;
  }
};

size_t bytes_of(DType dtype) {
  return dtype == DType::float64 ? 8 : (dtype == DType::float32 ? 4 : 2);
}

struct Buffer {
  DType dtype;
  std::vector<char> bytes;

  Buffer(DType type, int64_t count)
      : dtype(type), bytes(static_cast<size_t>(count) * bytes_of(type), char{0x7f}) {}

  void fill(Random& random) {
    const size_t step = bytes_of(dtype);
    for (size_t at = 0; at < bytes.size(); at += step) {
      const double value = random();
      const float narrow = static_cast<float>(value);
      const Half half = float_to_half(narrow);
      const BFloat16 brain = float_to_bfloat16(narrow);
      const void* from = dtype == DType::float64   ? static_cast<const void*>(&value)
                         : dtype == DType::float32 ? static_cast<const void*>(&narrow)
                         : dtype == DType::float16 ? static_cast<const void*>(&half)
                                                   : static_cast<const void*>(&brain);
      std::memcpy(bytes.data() + at, from, step);
    }
  }
};

// [batch, channels, height, width], dense in the plain order or in channels_last.
View4 view(Buffer& buffer, int64_t batch, int64_t channels, int64_t height, int64_t width,
           bool channels_last) {
  View4 result{buffer.bytes.data(), buffer.dtype, {batch, channels, height, width}, {}};
  const int64_t pixels = height * width;
  const int64_t plain[4] = {channels * pixels, pixels, width, 1};
  const int64_t last[4] = {channels * pixels, 1, width * channels, channels};
  std::memcpy(result.stride, channels_last ? last : plain, sizeof(plain));
  return result;
}

struct Setting {
  DType dtype;
  bool channels_last;
  int64_t channels;

  DType accumulation() const { return dtype == DType::float64 ? dtype : DType::float32; }
  Buffer maps(int64_t height = kHeight, int64_t width = kWidth) const {
    return Buffer(dtype, kBatch * channels * height * width);
  }
  View4 of(Buffer& buffer, int64_t height = kHeight, int64_t width = kWidth) const {
    return view(buffer, kBatch, channels, height, width, channels_last);
  }
};

using Outputs = std::vector<std::string>;

std::string text(const Buffer& buffer) { return {buffer.bytes.begin(), buffer.bytes.end()}; }
std::string text(const double* values, int64_t count) {
  return {reinterpret_cast<const char*>(values), static_cast<size_t>(count) * sizeof(double)};
}

const int64_t kOrder[kBatch] = {0, 2, 4, 1, 3};
const int64_t kStart[3] = {0, 3, 5};
const Groups kGroups{kOrder, kStart, 2};
constexpr int64_t kLocations = kBatch * kHeight * kWidth;
const int64_t kMapStride[3] = {kHeight * kWidth, kWidth, 1};

View3 view3(const void* data) { return {data, {kMapStride[0], kMapStride[1], kMapStride[2]}}; }

Outputs dense_similarity(const Workers& workers, const Setting& s, bool loss_only) {
  Random random;
  Buffer p = s.maps(), z = s.maps(), dp = s.maps(), dz = s.maps();
  Buffer grad(s.accumulation(), kLocations), value(s.accumulation(), kLocations);
  p.fill(random), z.fill(random), grad.fill(random);
  double loss = 0;
  DenseSimilarityArgs args{};
  args.p = s.of(p), args.z = s.of(z), args.dp = s.of(dp), args.dz = s.of(dz);
  args.groups = kGroups;
  if (loss_only) {
    args.loss = &loss;
  } else {
    args.grad = view3(grad.bytes.data());
    args.value = nullptr;
  }
  kTable.dense_similarity(args, workers);
  DenseSimilarityArgs forward{};
  forward.p = args.p, forward.z = args.z, forward.groups = kGroups;
  forward.value = value.bytes.data();
  kTable.dense_similarity(forward, workers);
  return {text(dp), text(dz), text(value), text(&loss, 1)};
}

Outputs pairwise_distance(const Workers& workers, const Setting& s, bool squared) {
  Random random;
  Buffer h = s.maps(), dh = s.maps();
  Buffer value(s.accumulation(), kLocations);
  h.fill(random);
  std::vector<char> mask(kLocations);
  for (char& valid : mask) {
    valid = random() > -0.5;
  }
  double loss = 0;
  PairwiseDistanceArgs args{};
  args.h = s.of(h), args.dh = s.of(dh);
  args.mask = view3(mask.data());
  args.groups = kGroups;
  args.squared = squared;
  args.loss = &loss;
  kTable.pairwise_distance(args, workers);
  PairwiseDistanceArgs forward{};
  forward.h = args.h, forward.mask = args.mask, forward.groups = kGroups;
  forward.squared = squared;
  forward.value = value.bytes.data();
  kTable.pairwise_distance(forward, workers);
  return {text(dh), text(value), text(&loss, 1)};
}

Outputs warp_affine(const Workers& workers, const Setting& s, Interpolation mode, Padding padding,
                    bool align_corners) {
  Random random;
  Buffer x = s.maps(), dx = s.maps();
  Buffer out = s.maps(kOutHeight, kOutWidth), grad = s.maps(kOutHeight, kOutWidth);
  x.fill(random), grad.fill(random);
  std::vector<AffinePixels> maps;
  for (int64_t b = 0; b < kBatch; ++b) {
    double theta[6] = {0.9, -0.3, 0.0, 0.3, 1.1, 0.0};
    for (double& entry : theta) {
      entry += 0.2 * random();
    }
    if (b == 3) {  // singular: every pixel of a line samples the same place
      theta[3] = theta[0], theta[4] = theta[1];
    }
    maps.push_back(affine_pixels(theta, kHeight, kWidth, kOutHeight, kOutWidth, align_corners));
  }
  WarpAffineArgs forward{};
  forward.x = s.of(x), forward.out = s.of(out, kOutHeight, kOutWidth);
  forward.maps = maps.data();
  forward.mode = mode, forward.padding = padding, forward.align_corners = align_corners;
  kTable.warp_affine(forward, workers);
  std::vector<double> dmaps(kBatch * 6);
  WarpAffineBackwardArgs args{};
  args.grad = s.of(grad, kOutHeight, kOutWidth), args.x = forward.x, args.dx = s.of(dx);
  args.maps = maps.data();
  args.mode = mode, args.padding = padding, args.align_corners = align_corners;
  args.dmaps = dmaps.data();
  kTable.warp_affine_backward(args, workers);
  return {text(out), text(dx), text(dmaps.data(), kBatch * 6)};
}

// `rank` negative: packed.
Outputs mahalanobis(const Workers& workers, const Setting& s, DType stored, int64_t rank,
                    bool squared) {
  Random random;
  const int64_t pixels = kHeight * kWidth;
  const int64_t packed = rank < 0 ? s.channels * (s.channels + 1) / 2 : rank * s.channels;
  Buffer x = s.maps(), dx = s.maps();
  Buffer mean(s.accumulation(), s.channels * pixels), dmean(s.accumulation(), s.channels * pixels);
  Buffer whitener(stored, pixels * packed), dwhitener(stored, pixels * packed);
  Buffer grad(s.accumulation(), kLocations), value(s.accumulation(), kLocations);
  x.fill(random), mean.fill(random), whitener.fill(random), grad.fill(random);
  MahalanobisArgs args{};
  args.x = s.of(x), args.dx = s.of(dx);
  args.mean = view(mean, 1, s.channels, kHeight, kWidth, s.channels_last);
  args.whitener = whitener.bytes.data();
  args.whitener_dtype = stored;
  args.whitener_stride[0] = packed, args.whitener_stride[1] = rank < 0 ? 1 : s.channels;
  args.whitener_stride[2] = 1;
  args.low_rank = rank >= 0, args.rank = rank;
  args.squared = squared;
  args.grad = view3(grad.bytes.data());
  args.dmean = dmean.bytes.data();
  args.dwhitener = dwhitener.bytes.data();
  kTable.mahalanobis(args, workers);
  MahalanobisArgs forward = args;
  forward.grad = {}, forward.dx = {}, forward.dmean = nullptr, forward.dwhitener = nullptr;
  forward.value = value.bytes.data();
  kTable.mahalanobis(forward, workers);
  return {text(dx), text(dmean), text(dwhitener), text(value)};
}

// One task for each candidate of an image; the edges are of one channel, whatever the setting has.
Outputs refine_pose(const Workers& workers, const Setting& s, int64_t parameters) {
  Random random;
  const int64_t pixels = kHeight * kWidth, candidates = 3;
  const DType own = s.accumulation();
  Buffer edges(s.dtype, kBatch * pixels), theta(own, kBatch * candidates * 6);
  Buffer model(own, pixels), weight(own, pixels), generators(own, parameters * 6);
  Buffer refined(own, kBatch * candidates * 6), correlation(own, kBatch * candidates);
  for (Buffer* buffer : {&edges, &theta, &model, &weight, &generators}) {
    buffer->fill(random);
  }
  RefinePoseArgs args{};
  args.edges = view(edges, kBatch, 1, kHeight, kWidth, s.channels_last);
  args.theta = theta.bytes.data();
  const int64_t strides[4] = {candidates * 6, 6, 3, 1};
  std::memcpy(args.theta_stride, strides, sizeof(strides));
  args.candidates = candidates;
  args.template_ = view3(model.bytes.data()), args.weight = view3(weight.bytes.data());
  args.generators = generators.bytes.data();
  args.parameters = parameters, args.iterations = 2;
  args.refined = refined.bytes.data(), args.correlation = correlation.bytes.data();
  kTable.refine_pose(args, workers);
  return {text(refined), text(correlation)};
}

// One channel, whatever the setting has; strips of rows where there are more of these.
Outputs anomaly_map(const Workers& workers, const Setting& s, bool is_mask) {
  Random random;
  const int64_t pixels = kHeight * kWidth, height = 70, width = 9, count = 5;
  const DType own = s.accumulation();
  Buffer distance(s.dtype, kBatch * pixels), evidence(own, kBatch * pixels), taps(own, count);
  Buffer value(own, kBatch * height * width), share(own, kBatch * height * width);
  distance.fill(random), evidence.fill(random), taps.fill(random);
  const std::string mask(static_cast<size_t>(kBatch * pixels), char{1});
  std::vector<AffinePixels> maps;
  for (int64_t b = 0; b < kBatch; ++b) {
    const double theta[6] = {0.9, -0.3, 0.1 * random(), 0.3, 1.1, 0.0};
    maps.push_back(affine_pixels(theta, kHeight, kWidth, height, width, false));
  }
  AnomalyMapArgs args{};
  args.distance = view(distance, kBatch, 1, kHeight, kWidth, s.channels_last);
  args.evidence = view3(is_mask ? mask.data() : evidence.bytes.data());
  args.is_mask = is_mask;
  args.taps = taps.bytes.data(), args.count = count;
  args.height = height, args.width = width;
  args.maps = maps.data();
  args.value = value.bytes.data(), args.share = share.bytes.data();
  kTable.anomaly_map(args, workers);
  return {text(value), text(share)};
}

// The sums of a fit, and its whiteners in the storage type that is as wide as the features'.
Outputs gaussian_fit(const Workers& workers, const Setting& s) {
  Random random;
  const int64_t pixels = kHeight * kWidth, packed = s.channels * (s.channels + 1) / 2;
  Buffer x = s.maps();
  x.fill(random);
  Buffer count(DType::float64, pixels), mean(DType::float64, pixels * s.channels);
  Buffer outer(DType::float32, pixels * packed);
  for (Buffer* sums : {&count, &mean, &outer}) {
    std::fill(sums->bytes.begin(), sums->bytes.end(), char{0});
  }
  MomentsArgs args{};
  args.x = s.of(x);
  args.count = reinterpret_cast<int64_t*>(count.bytes.data());
  args.mean = reinterpret_cast<double*>(mean.bytes.data());
  args.outer = reinterpret_cast<float*>(outer.bytes.data());
  kTable.moments(args, workers);
  kTable.moments(args, workers);
  const DType stored = s.dtype == DType::float64 ? DType::float32 : s.dtype;
  Buffer whitener(stored, pixels * packed);
  const std::vector<double> share(static_cast<size_t>(pixels), 0.1);
  const std::string kept(static_cast<size_t>(pixels), char{1});
  std::string lost(static_cast<size_t>(pixels), char{0});
  WhitenerArgs whiten{};
  whiten.outer = args.outer, whiten.share = share.data();
  whiten.kept = reinterpret_cast<const bool*>(kept.data());
  whiten.channels = s.channels, whiten.locations = pixels, whiten.shrinkage = 0.01;
  whiten.whitener = whitener.bytes.data(), whiten.whitener_dtype = stored;
  whiten.lost = reinterpret_cast<bool*>(lost.data());
  kTable.whitener(whiten, workers);
  return {text(count), text(mean), text(outer), text(whitener), lost};
}

using Call = std::function<Outputs(const Workers&, const Setting&)>;

std::vector<std::pair<std::string, Call>> calls() {
  std::vector<std::pair<std::string, Call>> list;
  list.emplace_back("gaussian_fit", gaussian_fit);
  for (const int64_t parameters : {1, 6}) {
    list.emplace_back("refine_pose",
                      [=](auto& w, auto& s) { return refine_pose(w, s, parameters); });
  }
  for (const bool flag : {false, true}) {
    list.emplace_back("anomaly_map", [flag](auto& w, auto& s) { return anomaly_map(w, s, flag); });
    list.emplace_back("dense_similarity",
                      [flag](auto& w, auto& s) { return dense_similarity(w, s, flag); });
    list.emplace_back("pairwise_distance",
                      [flag](auto& w, auto& s) { return pairwise_distance(w, s, flag); });
    list.emplace_back("mahalanobis", [flag](auto& w, auto& s) {
      const DType stored = s.dtype == DType::float64 || flag ? s.accumulation() : DType::bfloat16;
      return mahalanobis(w, s, stored, -1, flag);
    });
    list.emplace_back("mahalanobis", [flag](auto& w, auto& s) {
      const DType stored = s.dtype == DType::float64 || !flag ? s.accumulation() : DType::float16;
      return mahalanobis(w, s, stored, 5, flag);
    });
    for (const Interpolation mode : {Interpolation::bilinear, Interpolation::nearest}) {
      for (const Padding padding : {Padding::zeros, Padding::border, Padding::reflection}) {
        list.emplace_back("warp_affine",
                          [=](auto& w, auto& s) { return warp_affine(w, s, mode, padding, flag); });
      }
    }
  }
  return list;
}

}  // namespace

int main(int argc, char** argv) {
  race = argc > 1 && std::string(argv[1]) == "race";
  int runs = 0, failures = 0;
  const DType dtypes[] = {DType::float32, DType::float64, DType::float16, DType::bfloat16};
  const char* names[] = {"float32", "float64", "float16", "bfloat16"};
  for (const auto& [name, call] : calls()) {
    for (int d = 0; d < 4; ++d) {
      for (const bool channels_last : {false, true}) {
        const Setting setting{dtypes[d], channels_last, channels_last ? 21 : 3};
        most_threads = 0;
        const bool same = call(one_thread(), setting) == call(four_threads(), setting);
        ++runs;
        if (!same || most_threads != 4) {
          ++failures;
          std::printf("%s, %s, %s: %d threads, results %s\n", name.c_str(), names[d],
                      channels_last ? "channels_last" : "contiguous",
                      static_cast<int>(most_threads), same ? "the same" : "DIFFER");
        }
      }
    }
  }
  std::printf("%d comparisons, %d failed\n", runs, failures);
  return failures == 0 ? 0 : 1;
}
