// The sweeps of dense_similarity over rows where they lie, without a packed copy.
//
// Serves tiles whose z does not stay in the second-level cache, with planes that are runs of
// neighbouring pixels and vectors in range. Without copies nothing but S is written on the way:
// that is half the traffic between the first two caches. Rows are read twice, from the second-level
// cache or, where they lie a power of two apart and push each other out, from the third; so a tile
// that fits is better packed.
#pragma once

#include "dense_tile.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

template <class S, int NB>
struct RowSweeps {
  using A = Acc<S>;
  static constexpr int64_t lanes = kLanes<A>;
  static constexpr int64_t block = NB * lanes;
  static constexpr int64_t lines = block * sizeof(S) > 64 ? block * sizeof(S) / 64 : 1;

  // Squared norms; NB vectors of pixels stay in registers over all channels.
  static void norms(const S* rows, int64_t stride, const Soon<S>& ahead, const DenseTile<A>& t,
                    A* squared) {
    const Soon<S> soon = ahead;
    const int64_t channels = t.channels, width = t.width;
    for (int64_t start = 0; start < width; start += block) {
      Vec<A> squares[NB] = {};
      for (int64_t fold = 0; fold < channels; fold += kFold) {
        const int64_t last = smaller(fold + kFold, channels);
        Vec<A> part[NB] = {};
        for (int64_t c = fold; c < last; ++c) {
          soon.template during<lines>(c, channels, start);
          for (int v = 0; v < NB; ++v) {
            const Vec<A> value = load_acc(rows + c * stride + start + v * lanes);
            part[v] += value * value;
          }
        }
        for (int v = 0; v < NB; ++v) {
          squares[v] += part[v];
        }
      }
      for (int v = 0; v < NB; ++v) {
        store(squared + start + v * lanes, squares[v]);
      }
    }
  }

  // sum (+)= rows * scale.
  static void add_scaled(const S* rows, int64_t stride, const Soon<S>& ahead, const DenseTile<A>& t,
                         const A* scale, bool first, A* sum) {
    const Soon<S> soon = ahead;
    const int64_t channels = t.channels, width = t.width;
    for (int64_t start = 0; start < width; start += block) {
      Vec<A> scales[NB];
      for (int v = 0; v < NB; ++v) {
        scales[v] = load(scale + start + v * lanes);
      }
      for (int64_t c = 0; c < channels; ++c) {
        soon.template before<lines>(c, start);
        for (int v = 0; v < NB; ++v) {
          A* to = sum + c * width + start + v * lanes;
          const Vec<A> share = load_acc(rows + c * stride + start + v * lanes) * scales[v];
          store(to, first ? share : load(to) + share);
        }
      }
    }
  }

  // Squared norms of p and its dot products with the sum over the other images.
  static void dots(const S* p, int64_t p_stride, const S* z, int64_t z_stride, const A* own_scale,
                   const Soon<S>& ahead, const DenseTile<A>& t, A* squared, A* dot) {
    const Soon<S> soon = ahead;
    const int64_t channels = t.channels, width = t.width;
    const A* sum = t.sum_z;
    for (int64_t start = 0; start < width; start += block) {
      Vec<A> squares[NB] = {}, products[NB] = {}, scales[NB];
      for (int v = 0; v < NB; ++v) {
        scales[v] = load(own_scale + start + v * lanes);
      }
      for (int64_t fold = 0; fold < channels; fold += kFold) {
        const int64_t last = smaller(fold + kFold, channels);
        Vec<A> part[NB] = {}, part_dot[NB] = {};
        for (int64_t c = fold; c < last; ++c) {
          soon.template during<lines>(c, channels, start);
          for (int v = 0; v < NB; ++v) {
            const int64_t i = start + v * lanes;
            const Vec<A> value = load_acc(p + c * p_stride + i);
            const Vec<A> other =
                load(sum + c * width + i) - load_acc(z + c * z_stride + i) * scales[v];
            part[v] += value * value;
            part_dot[v] += value * other;
          }
        }
        for (int v = 0; v < NB; ++v) {
          squares[v] += part[v];
          products[v] += part_dot[v];
        }
      }
      for (int v = 0; v < NB; ++v) {
        store(squared + start + v * lanes, squares[v]);
        store(dot + start + v * lanes, products[v]);
      }
    }
  }

  // to = outer * (sum - z * own_scale) - p * factor.
  static void write(S* to, int64_t to_stride, const S* p, int64_t p_stride, const S* z,
                    int64_t z_stride, const A* own_scale, const Soon<S>& ahead,
                    const DenseTile<A>& t, bool stream) {
    const Soon<S> soon = ahead;
    const int64_t channels = t.channels, width = t.width;
    const A* sum = t.sum_z;
    for (int64_t start = 0; start < width; start += block) {
      Vec<A> outers[NB], scales[NB], factors[NB];
      for (int v = 0; v < NB; ++v) {
        outers[v] = load(t.outer + start + v * lanes);
        scales[v] = load(own_scale + start + v * lanes);
        factors[v] = load(t.factor + start + v * lanes);
      }
      for (int64_t c = 0; c < channels; ++c) {
        soon.template before<lines>(c, start);
        S* out = to + c * to_stride + start;
        const bool around = sizeof(S) == sizeof(A) && stream &&
                            reinterpret_cast<uintptr_t>(out) % kVectorBytes == 0;
        for (int v = 0; v < NB; ++v) {
          const int64_t i = start + v * lanes;
          const Vec<A> other =
              load(sum + c * width + i) - load_acc(z + c * z_stride + i) * scales[v];
          const Vec<A> value = outers[v] * other - load_acc(p + c * p_stride + i) * factors[v];
          if constexpr (sizeof(S) == sizeof(A)) {
            if (around) {
              store_streaming(out + v * lanes, value);
              continue;
            }
          }
          store_acc(out + v * lanes, value);
        }
      }
    }
  }
};

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA
