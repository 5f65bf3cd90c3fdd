// What a lane of dense_similarity knows of its block's tile: addresses, sums and reductions.
//
// A lane's part of an image is `steps` vectors of V elements. NCHW (N = V): the vector holds V
// locations of one channel, and lanes run over locations, then channels. Else (N = 1): it holds V
// channels of one location. The `lanes` lanes that share locations are added up by shuffles.
#pragma once

#include "copy_async.cuh"
#include "fields.cuh"
#include "groups.cuh"
#include "lengths.cuh"
#include "reduce.cuh"
#include "values.h"

namespace fastalign::cuda {

constexpr int kDenseThreads = 256;

template <class T>
struct DenseTask {
  Field<const T> p, z;
  Field<T> dp, dz;  // data null: not wanted
  Map<float> grad;  // data null: `weight` everywhere
  float* value;     // [B, H*W] or null
  double* partial;  // [blocks] or null
  GroupOrder groups;
  int batch, channels;
  Rows rows;
  int64_t pixels;
  float weight;
  // From DensePlan.
  int lanes, steps;
  bool channels_first;  // neighbouring lanes differ in channels rather than in locations
  bool held;            // z stays in shared memory
  bool staged;          // so does p of the image that a warp is at
  float* spill;         // V = 1: sums and statistics if they do not fit there; else null
};

// Numbers for each image and location of a tile.
enum DenseStat {
  kInverseZ,  // 1 / |z|
  kWeightP    // weight / |p|, for dz
};

// Offsets of a block's shared memory in bytes.
struct DenseShared {
  int64_t z, p, sum, stats, bytes;
  int64_t spilled;  // floats of sum and stats, which may lie elsewhere
};

FASTALIGN_HD int64_t round_to_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

FASTALIGN_HD DenseShared dense_shared(int64_t batch, int64_t warps, int64_t steps,
                                      int64_t locations, int64_t vector, int64_t element, bool held,
                                      bool staged, bool need_z, bool spill) {
  DenseShared s;
  const int64_t image = steps * 32 * vector * element;
  s.z = kMaxWarps * 8;  // the block's sum needs a double for each warp
  s.p = s.z + (held ? round_to_16(batch * image) : 0);
  s.sum = s.p + (staged ? round_to_16(warps * image) : 0);
  const int64_t sums = steps * 32 * vector, stats = batch * locations * (need_z ? 2 : 1);
  s.stats = s.sum + sums * 4;
  s.bytes = spill ? s.sum : s.stats + stats * 4;
  s.spilled = sums + stats;
  return s;
}

// Sums over steps for N locations. Without vectors the steps can be many, and runs of them fold.
template <int V, int N>
struct StepSums {
  FoldedSum sums[N];

  FASTALIGN_DEVICE void add(const float (&values)[N], int k) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      sums[n].add(values[n], V == 1 ? k : 0);
    }
  }
  FASTALIGN_DEVICE void total(float (&values)[N]) const {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      values[n] = V == 1 ? sums[n].total() : sums[n].part;
    }
  }
};

template <class T, int V, int N, bool NeedZ>
struct DenseLane {
  const DenseTask<T>& task;
  int lane, warp;
  int channel, channel_step;  // of the lane's first vector; from step to step
  int own_steps;              // that lie inside the channels and the map
  int slot;                   // its first location inside the tile
  bool active;                // its locations exist
  bool leads;                 // of the lanes that share its locations, it writes results
  Vec<T, V>* z_slots;         // [places][steps][32 lanes]
  Vec<T, V>* p_slots;         // of this warp: [steps][32 lanes]
  float* sum;                 // [steps][V / 4][32 lanes][4], or [steps][32 lanes]
  float* stats;               // [DenseStat][places][locations]
  Pixel pixel;

  FASTALIGN_DEVICE DenseLane(const DenseTask<T>& given, unsigned char* shared) : task(given) {
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = static_cast<int>(threadIdx.x) / 32;
    const int columns = 32 / task.lanes;  // of lanes, along locations
    const bool channels_first = V > 1 ? N == 1 : task.channels_first;
    const int row = channels_first ? lane % task.lanes : lane / columns;
    slot = (channels_first ? lane / task.lanes : lane % columns) * N;
    leads = row == 0;
    channel = row * (V / N);
    channel_step = task.lanes * (V / N);
    active = location() < task.pixels;
    pixel = pixel_at(active ? location() : 0, task.rows);
    own_steps = active ? (task.channels - channel + channel_step - 1) / channel_step : 0;
    const bool spill = V == 1 && task.spill != nullptr;
    const DenseShared layout = dense_shared(task.batch, warps(), task.steps, locations(), V,
                                            sizeof(T), task.held, task.staged, NeedZ, spill);
    z_slots = reinterpret_cast<Vec<T, V>*>(shared + layout.z) + lane;
    p_slots = reinterpret_cast<Vec<T, V>*>(shared + layout.p) + warp * task.steps * 32 + lane;
    sum = reinterpret_cast<float*>(shared + layout.sum);
    stats = reinterpret_cast<float*>(shared + layout.stats);
    if (spill) {
      sum = task.spill + blockIdx.x * layout.spilled;
      stats = sum + static_cast<int64_t>(task.steps) * 32 * V;
    }
  }

  FASTALIGN_DEVICE int warps() const { return static_cast<int>(blockDim.x) / 32; }

  // Of a tile, and the lane's first.
  FASTALIGN_DEVICE int locations() const { return 32 / task.lanes * N; }
  FASTALIGN_DEVICE int64_t location() const {
    return static_cast<int64_t>(blockIdx.x) * locations() + slot;
  }

  FASTALIGN_DEVICE bool valid(int k) const { return k < own_steps; }

  // As many steps at once as keep loads on their way without crowding the registers.
  template <class Step>
  FASTALIGN_DEVICE void for_each_step(Step&& step) const {
#pragma unroll(V == 8 ? 1 : 2)
    for (int k = 0; k < task.steps; ++k) {
      step(k);
    }
  }

  // One channel: the unit vector is a sign, exactly.
  FASTALIGN_DEVICE void convert(const Vec<T, V>& vector, float (&values)[V]) const {
    to_floats(vector, values);
    if constexpr (V == 1) {
      if (task.channels == 1 && values[0] != 0.0f && values[0] - values[0] == 0.0f) {
        values[0] = values[0] > 0.0f ? 1.0f : -1.0f;
      }
    }
  }

  FASTALIGN_DEVICE Vec<T, V>* z_slot(int place, int k) const {
    return z_slots + (place * task.steps + k) * 32;
  }

  // Starts the copy of an image; only this lane will read its own vectors before a barrier.
  FASTALIGN_DEVICE void request_z(int place, int image) const {
    for_each_step([&](int k) { request(z_slot(place, k), task.z, image, k); });
  }

  FASTALIGN_DEVICE void request_p(int image) const {
    for_each_step([&](int k) { request(p_slots + k * 32, task.p, image, k); });
  }

  FASTALIGN_DEVICE void request(Vec<T, V>* to, const Field<const T>& from, int image, int k) const {
    if (valid(k)) {
      copy_async(to, from.data + offset(from, image, k));
    } else {
      *to = Vec<T, V>{};
    }
  }

  FASTALIGN_DEVICE void read_z(int place, int image, int k, float (&values)[V]) const {
    if (task.held) {
      convert(load_vec<V>(z_slot(place, k)->lane), values);
    } else {
      convert(load(task.z, image, k), values);
    }
  }

  FASTALIGN_DEVICE void read_p(int image, int k, float (&values)[V]) const {
    if (task.staged) {
      convert(load_vec<V>(p_slots[k * 32].lane), values);
    } else {
      read_p_again(image, k, values);
    }
  }

  // Of any image, not only the one that the warp is at.
  FASTALIGN_DEVICE void read_p_again(int image, int k, float (&values)[V]) const {
    convert(load(task.p, image, k), values);
  }

  FASTALIGN_DEVICE Vec<T, V> load(const Field<const T>& from, int image, int k) const {
    return valid(k) ? load_vec<V, Cache::readonly>(from.data + offset(from, image, k))
                    : Vec<T, V>{};
  }

  FASTALIGN_DEVICE void write(const Field<T>& to, int image, int k,
                              const float (&values)[V]) const {
    if (valid(k)) {
      store_vec(to.data + offset(to, image, k), from_floats<T>(values));
    }
  }

  template <class F>
  FASTALIGN_DEVICE int64_t offset(const F& field, int image, int k) const {
    return image * field.image + pixel.in(field) + (channel + k * channel_step) * field.channel;
  }

  // The sum of the group, S or R.
  FASTALIGN_DEVICE void read_sum(int k, float (&values)[V]) const {
    if constexpr (V == 1) {
      values[0] = sum[k * 32 + lane];
    } else {
#pragma unroll
      for (int quarter = 0; quarter < V / 4; ++quarter) {
        const auto part = load_vec<4>(sum + ((k * (V / 4) + quarter) * 32 + lane) * 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          values[quarter * 4 + j] = part[j];
        }
      }
    }
  }

  FASTALIGN_DEVICE void write_sum(int k, const float (&values)[V]) const {
    if constexpr (V == 1) {
      sum[k * 32 + lane] = values[0];
    } else {
#pragma unroll
      for (int quarter = 0; quarter < V / 4; ++quarter) {
        Vec<float, 4> part;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          part[j] = values[quarter * 4 + j];
        }
        store_vec(sum + ((k * (V / 4) + quarter) * 32 + lane) * 4, part);
      }
    }
  }

  FASTALIGN_DEVICE float* stat(DenseStat which, int place) const {
    return stats + (static_cast<int64_t>(which) * task.batch + place) * locations() + slot;
  }

  FASTALIGN_DEVICE void read_stat(DenseStat which, int place, float (&values)[N]) const {
    const float* from = stat(which, place);
    if constexpr (N == 1) {
      values[0] = *from;
    } else {
#pragma unroll
      for (int n = 0; n < N; n += 4) {
        const auto part = load_vec<4>(from + n);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          values[n + j] = part[j];
        }
      }
    }
  }

  FASTALIGN_DEVICE void write_stat(DenseStat which, int place, const float (&values)[N]) const {
    if (leads) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        stat(which, place)[n] = values[n];
      }
    }
  }

  // Adds up or maximises over the lanes that share locations; all of them get the result.
  template <class Join>
  FASTALIGN_DEVICE void over_channels(float (&values)[N], Join&& join) const {
    const bool channels_first = V > 1 ? N == 1 : task.channels_first;
    const int from = channels_first ? 1 : 32 / task.lanes;
    const int to = channels_first ? task.lanes : 32;
    for (int offset = from; offset < to; offset *= 2) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        values[n] = join(values[n], __shfl_xor_sync(kAllLanes, values[n], offset));
      }
    }
  }

  FASTALIGN_DEVICE void sum_over_channels(float (&values)[N]) const {
    over_channels(values, [](float a, float b) { return a + b; });
  }

  FASTALIGN_DEVICE bool any_out_of_range(const float (&squares)[N]) const {
    bool outside = false;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      outside |= !in_range(squares[n]);
    }
    return __any_sync(kAllLanes, active && outside) != 0;
  }

  // New factors where the squared lengths are out of range; a location's do not depend on others.
  template <class Read>
  FASTALIGN_DEVICE void rescale(const float (&squares)[N], float (&scale)[N], Read&& read) const {
    float largest[N];
    fill<N>(largest, 0.0f);
    for_each_step([&](int k) {
      float values[V];
      read(k, values);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        largest[j % N] = larger_or_nan(largest[j % N], fabsf(values[j]));
      }
    });
    over_channels(largest, larger_or_nan);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      scale[n] = in_range(squares[n]) ? 1.0f : power_of_two_scale(largest[n]);
    }
  }

  // Inverse length of z, for all lanes to read after a barrier.
  FASTALIGN_DEVICE void measure_z(int place, int image) const {
    float scale[N], squares[N];
    fill<N>(scale, 1.0f);
#pragma unroll 1
    for (int attempt = 0;; ++attempt) {
      StepSums<V, N> square;
      for_each_step([&](int k) {
        float values[V], parts[N];
        read_z(place, image, k, values);
        fill<N>(parts, 0.0f);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const float own = values[j] * scale[j % N];
          parts[j % N] = fmaf(own, own, parts[j % N]);
        }
        square.add(parts, k);
      });
      square.total(squares);
      sum_over_channels(squares);
      if (attempt == 1 || !any_out_of_range(squares)) {
        break;
      }
      rescale(squares, scale, [&](int k, float (&values)[V]) { read_z(place, image, k, values); });
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
      squares[n] = finite(inverse_length(squares[n]) * scale[n]);
    }
    write_stat(kInverseZ, place, squares);
  }

  // Upstream gradient of the lane's n-th location.
  FASTALIGN_DEVICE float weight(int image, int n) const {
    if (task.grad.data == nullptr || !active) {
      return task.weight;
    }
    const Pixel here = N == 1 ? pixel : pixel_at(location() + n, task.rows);
    return task.grad.data[image * task.grad.image + here.in(task.grad)];
  }

  // S = sum of z^ over the places of a group; warps share the steps.
  FASTALIGN_DEVICE void add_up_z(int first, int end) const {
    add_up(kInverseZ, first, end, [&](int place, int k, float (&values)[V]) {
      read_z(place, task.groups.image(place), k, values);
    });
  }

  // R = sum of w p^.
  FASTALIGN_DEVICE void add_up_p(int first, int end) const {
    add_up(kWeightP, first, end, [&](int place, int k, float (&values)[V]) {
      read_p_again(task.groups.image(place), k, values);
    });
  }

  template <class Read>
  FASTALIGN_DEVICE void add_up(DenseStat factor, int first, int end, Read&& read) const {
    for (int k = warp; k < task.steps; k += warps()) {
      float total[V];
      fill<V>(total, 0.0f);
#pragma unroll(V == 8 ? 1 : 2)
      for (int place = first; place < end; ++place) {
        float values[V], factors[N];
        read(place, k, values);
        read_stat(factor, place, factors);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          total[j] = fmaf(values[j], factors[j % N], total[j]);
        }
      }
      write_sum(k, total);
    }
  }
};

}  // namespace fastalign::cuda
