// All-pairs dense cosine similarity, its loss and its gradients, in O(B).
//
// Idea. With unit vectors p^, z^ and S(x) = sum_b z^_b(x), the sum over the other images of
// p^_a . z^_b is p^_a . (S - z^_a). A block takes a tile of locations with all images and channels:
//   1. each warp copies its images' z into shared memory and measures their lengths,
//   2. the block adds up S,
//   3. each warp copies its image's p there, gets |p| and p . (S - z^) in one sweep, and writes the
//      gradient in a second one.
// dz, where wanted, is the same once more with R = sum_a w_a p^_a in the place of S.
//
// Bytes that must move for loss and gradient: p and z in, dp out, 3 N. That is what moves where z
// of the tile (steps * 512 bytes an image) and p of each warp's image (as much a warp) fit into
// shared memory. Where p does not (`staged`), its second sweep reads L2; where z does not (`held`),
// two of its three sweeps do. DensePlan weighs these and the width of tiles against each other.
// dz reads p twice more from L2.
//
// Why so. Memory is the limit as long as enough bytes are on their way: copies into shared memory
// are asynchronous, p's are under way while lengths of z are measured, and tiles of 35 to 75 KiB
// put three and more blocks on an H100's multiprocessor, one computing while others load. Small
// chips get narrower tiles. A lane keeps to its vectors of the tile in every sweep, and they lie
// in shared memory in the order of lanes, so no access has a bank conflict in either layout, and
// layouts differ in one addressing rule only:
//   NCHW (N = V = 4): a vector is 4 locations of one channel; lanes run over locations, then
//     channels. In 16 bits it has 8 bytes, since eight locations' sums would crowd the registers;
//   channels_last (N = 1): 16 bytes of channels of one location; lanes run over channels first.
// V = 1 serves every other stride and size.
//
// Range. Where a squared length leaves [2^-60, 2^60] the vector is measured again, multiplied by
// the power of two that brings its largest entry near 1. From there on only the inverse length is
// used, and never its square, so lengths from 2^-127 to 2^127 serve.
#pragma once

#include "dense_tile.cuh"

namespace fastalign::cuda {

// Value, share of the loss and dp of one image, given one over its number of partners; dz's
// coefficient if dz is wanted. Gives the sum of the lane's values, each location's in one lane
// only.
template <class T, int V, int N, bool NeedZ>
FASTALIGN_DEVICE float dense_image(DenseLane<T, V, N, NeedZ>& at, int place, int image,
                                   float share) {
  const DenseTask<T>& task = at.task;
  float z_inverse[N], scale[N], squares[N], dots[N];
  at.read_stat(kInverseZ, place, z_inverse);
  fill<N>(scale, 1.0f);
#pragma unroll 1
  for (int attempt = 0;; ++attempt) {
    StepSums<V, N> square, dot;
    at.for_each_step([&](int k) {
      float p[V], z[V], sum[V], p_dot[N], p_square[N];
      at.read_p(image, k, p);
      at.read_z(place, image, k, z);
      at.read_sum(k, sum);
      fill<N>(p_dot, 0.0f);
      fill<N>(p_square, 0.0f);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const int n = j % N;
        const float own = p[j] * scale[n];
        p_square[n] = fmaf(own, own, p_square[n]);
        p_dot[n] = fmaf(own, fmaf(-z[j], z_inverse[n], sum[j]), p_dot[n]);
      }
      square.add(p_square, k);
      dot.add(p_dot, k);
    });
    square.total(squares);
    dot.total(dots);
    at.sum_over_channels(squares);
    at.sum_over_channels(dots);
    if (attempt == 1 || !at.any_out_of_range(squares)) {
      break;
    }
    at.rescale(squares, scale, [&](int k, float (&p)[V]) { at.read_p(image, k, p); });
  }

  float values = 0.0f, inverse[N], cosines[N], weight[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float scaled_inverse = inverse_length(squares[n]);
    inverse[n] = finite(scaled_inverse * scale[n]);
    cosines[n] = dots[n] * scaled_inverse;
    const float value = cosines[n] * share;
    if (at.leads && at.active) {
      values += value;
      if (task.value != nullptr) {
        task.value[image * task.pixels + at.location() + n] = value;
      }
    }
    weight[n] = (at.weight(image, n) * share) * inverse[n];
  }
  if (task.dp.data != nullptr) {
    at.for_each_step([&](int k) {
      float p[V], z[V], sum[V];
      at.read_p(image, k, p);
      at.read_z(place, image, k, z);
      at.read_sum(k, sum);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const int n = j % N;
        const float rest = fmaf(-z[j], z_inverse[n], sum[j]);
        p[j] = weight[n] * fmaf(-(p[j] * inverse[n]), cosines[n], rest);
      }
      at.write(task.dp, image, k, p);
    });
  }
  if constexpr (NeedZ) {
    at.write_stat(kWeightP, place, weight);
  }
  return values;
}

// dz = (g - (g . z^) z^) / |z| with g = R - w p^, the twin of dp with the weights inside R.
template <class T, int V, int N, bool NeedZ>
FASTALIGN_DEVICE void dense_image_z(DenseLane<T, V, N, NeedZ>& at, int place, int image) {
  float inverse[N], weight[N], dots[N];
  at.read_stat(kInverseZ, place, inverse);
  at.read_stat(kWeightP, place, weight);
  auto read = [&](int k, float (&unit)[V], float (&rest)[V]) {
    float p[V], sum[V];
    at.read_z(place, image, k, unit);
    at.read_p_again(image, k, p);
    at.read_sum(k, sum);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      unit[j] *= inverse[j % N];
      rest[j] = fmaf(-p[j], weight[j % N], sum[j]);
    }
  };
  StepSums<V, N> dot;
  at.for_each_step([&](int k) {
    float unit[V], rest[V], parts[N];
    read(k, unit, rest);
    fill<N>(parts, 0.0f);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      parts[j % N] = fmaf(unit[j], rest[j], parts[j % N]);
    }
    dot.add(parts, k);
  });
  dot.total(dots);
  at.sum_over_channels(dots);
  at.for_each_step([&](int k) {
    float unit[V], rest[V];
    read(k, unit, rest);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      rest[j] = inverse[j % N] * fmaf(-unit[j], dots[j % N], rest[j]);
    }
    at.write(at.task.dz, image, k, rest);
  });
}

// An image without partners: value and gradients are 0.
template <class T, int V, int N, bool NeedZ>
FASTALIGN_DEVICE void dense_alone(DenseLane<T, V, N, NeedZ>& at, int image) {
  const DenseTask<T>& task = at.task;
  float zeros[V];
  fill<V>(zeros, 0.0f);
  at.for_each_step([&](int k) {
    if (task.dp.data != nullptr) {
      at.write(task.dp, image, k, zeros);
    }
    if constexpr (NeedZ) {
      at.write(task.dz, image, k, zeros);
    }
  });
  for (int n = 0; n < N; ++n) {
    if (task.value != nullptr && at.leads && at.active) {
      task.value[image * task.pixels + at.location() + n] = 0.0f;
    }
  }
}

// NeedZ: dz is wanted; apart, since the rest then has registers for three blocks.
template <class T, int V, int N, bool NeedZ>
FASTALIGN_KERNEL(kDenseThreads, NeedZ ? 2 : 3)
dense_similarity_tile(DenseTask<T> task) {
  FASTALIGN_DYNAMIC_SHARED(unsigned char, shared);
  DenseLane<T, V, N, NeedZ> at(task, shared);
  const int batch = task.batch;
  for (int place = at.warp; task.held && place < batch; place += at.warps()) {
    at.request_z(place, task.groups.image(place));
  }
  commit_copies();
  if (task.staged && at.warp < batch) {
    at.request_p(task.groups.image(at.warp));
  }
  commit_copies();
  wait_for_copies<1>();
  for (int place = at.warp; place < batch; place += at.warps()) {
    at.measure_z(place, task.groups.image(place));
  }

  float total = 0.0f;
  for (int first = 0, end = 0; first < batch; first = end) {
    end = task.groups.end_of(first, batch);
    // Places go to warps round robin over the whole batch, so that a warp finds the p that it
    // fetched early, and its own z.
    const int mine = first + (at.warp + at.warps() - first % at.warps()) % at.warps();
    if (end - first == 1) {
      if (mine < end) {
        dense_alone(at, task.groups.image(mine));
      }
      continue;
    }
    const float share = 1.0f / static_cast<float>(end - first - 1);
    __syncthreads();  // lengths are there; the sum of the group before is no longer read
    at.add_up_z(first, end);
    __syncthreads();
    for (int place = mine; place < end; place += at.warps()) {
      const int image = task.groups.image(place);
      if (task.staged && place != at.warp) {
        at.request_p(image);
        commit_copies();
      }
      wait_for_copies<0>();
      total += dense_image(at, place, image, share);
    }
    if constexpr (NeedZ) {
      __syncthreads();
      at.add_up_p(first, end);
      __syncthreads();
      for (int place = mine; place < end; place += at.warps()) {
        dense_image_z(at, place, task.groups.image(place));
      }
    }
  }
  if (task.partial != nullptr) {
    const double sum = block_sum(static_cast<double>(total), reinterpret_cast<double*>(shared));
    if (threadIdx.x == 0) {
      task.partial[blockIdx.x] = sum;
    }
  }
}

}  // namespace fastalign::cuda
