// Pixels of a row as [pixel][Lanes] in scratch: a block of channels side by side, whatever the
// layout of the tensor. Channels beyond the last are 0 and are not written back.
//
// Planes (contiguous tensors) are transposed in registers, four pixels of four channels at a time:
// written element by element, this would take as long as the arithmetic of a warp's gradient.
#pragma once

#include <type_traits>

#include "runs.h"
#include "transpose.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

template <class A>
using Four = typename VectorOf<A, 4>::type;

template <class S>
FASTALIGN_INLINE Four<Acc<S>> load_four(const S* from) {
  Four<Acc<S>> value;
  if constexpr (sizeof(S) == sizeof(Acc<S>)) {
    std::memcpy(&value, from, sizeof(value));
  } else {
    for (int k = 0; k < 4; ++k) {
      value[k] = to_acc(from[k]);
    }
  }
  return value;
}

template <class S>
FASTALIGN_INLINE void store_four(S* to, const Four<Acc<S>>& value) {
  if constexpr (sizeof(S) == sizeof(Acc<S>)) {
    std::memcpy(to, &value, sizeof(value));
  } else {
    for (int k = 0; k < 4; ++k) {
      to[k] = from_acc<S>(value[k]);
    }
  }
}

// Rows become columns.
template <class V>
FASTALIGN_INLINE void transpose_four(V* r) {
  const V a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
  const V b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  const V c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
  const V d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  r[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  r[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  r[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  r[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

// `Given` of four planes to scratch.
template <class S, int Lanes, int Given>
FASTALIGN_INLINE void read_planes(const S* from, int64_t c_step, int64_t pixels, Acc<S>* to) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float> && Lanes == 4 && Given > 0) {
    if (pixels >= 4) {
      return read_few_planes<Given>(from, c_step, pixels, to);
    }
  }
#endif
  int64_t i = 0;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) {
    i = read_long_planes<Given>(from, c_step, pixels, to, Lanes);
  }
#endif
  for (; i + 4 <= pixels; i += 4) {
    Four<Acc<S>> r[4] = {};
    for (int k = 0; k < Given; ++k) {
      r[k] = load_four(from + k * c_step + i);
    }
    transpose_four(r);
    for (int k = 0; k < 4; ++k) {
      store_four(to + (i + k) * Lanes, r[k]);
    }
  }
  for (; i < pixels; ++i) {
    for (int k = 0; k < 4; ++k) {
      to[i * Lanes + k] = k < Given ? to_acc(from[k * c_step + i]) : Acc<S>(0);
    }
  }
}

template <class S, int Lanes, int Given>
FASTALIGN_INLINE void write_planes(S* to, int64_t c_step, int64_t pixels, const Acc<S>* from,
                                   [[maybe_unused]] bool stream) {
  int64_t i = 0;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) {
    i = write_few_planes<Lanes, Given>(to, c_step, pixels, from, stream);
  }
#endif
  for (; i + 4 <= pixels; i += 4) {
    Four<Acc<S>> r[4];
    for (int k = 0; k < 4; ++k) {
      r[k] = load_four(from + (i + k) * Lanes);
    }
    transpose_four(r);
    for (int k = 0; k < Given; ++k) {
      store_four(to + k * c_step + i, r[k]);
    }
  }
  for (; i < pixels; ++i) {
    for (int k = 0; k < Given; ++k) {
      to[k * c_step + i] = from_acc<S>(from[i * Lanes + k]);
    }
  }
}

// Calls fn with the number of planes, 0 to 4, as a constant.
template <class Fn>
FASTALIGN_INLINE void with_planes(int64_t count, Fn&& fn) {
  switch (count) {
    case 0:
      return fn(std::integral_constant<int, 0>{});
    case 1:
      return fn(std::integral_constant<int, 1>{});
    case 2:
      return fn(std::integral_constant<int, 2>{});
    case 3:
      return fn(std::integral_constant<int, 3>{});
    default:
      return fn(std::integral_constant<int, 4>{});
  }
}

// Asks for what read_block reads: short pieces of many planes, which hardware does not foresee.
template <class S, int Lanes>
FASTALIGN_INLINE void prefetch_block(const View4& view, int64_t image, int64_t channel, int64_t row,
                                     int64_t column, int64_t pixels) {
  if (view.stride[3] != 1 || pixels <= 0) {
    return;
  }
  constexpr int64_t line = kLineBytes / static_cast<int64_t>(sizeof(S));
  const S* from = plane_of<S>(view, image, channel) + row * view.stride[2] + column;
  for (int64_t c = 0; c < smaller<int64_t>(Lanes, view.channels() - channel); ++c) {
    for (int64_t i = 0; i < pixels; i += line) {
      prefetch(from + c * view.stride[1] + i);
    }
    prefetch(from + c * view.stride[1] + pixels - 1);
  }
}

// `pixels` neighbours of a row for the channels [channel, channel + Lanes).
template <class S, int Lanes>
void read_block(const View4& view, int64_t image, int64_t channel, int64_t row, int64_t column,
                int64_t pixels, Acc<S>* to) {
  const int64_t channels = smaller<int64_t>(Lanes, view.channels() - channel);
  const S* from =
      plane_of<S>(view, image, channel) + row * view.stride[2] + column * view.stride[3];
  const int64_t c_step = view.stride[1], p_step = view.stride[3];
  if (p_step == 1) {
    for (int64_t c = 0; c < Lanes; c += 4) {
      with_planes(clamp_between<int64_t>(channels - c, 0, 4), [&](auto given) {
        read_planes<S, Lanes, given()>(from + c * c_step, c_step, pixels, to + c);
      });
    }
    return;
  }
  if (c_step == 1 && channels == Lanes) {
    for (int64_t i = 0; i < pixels; ++i) {
      for (int64_t c = 0; c < Lanes; c += smaller<int64_t>(Lanes, kLanes<Acc<S>>)) {
        if constexpr (Lanes >= kLanes<Acc<S>>) {
          store(to + i * Lanes + c, load_acc(from + i * p_step + c));
        } else {
          for (int64_t k = 0; k < Lanes; ++k) {
            to[i * Lanes + k] = to_acc(from[i * p_step + k]);
          }
        }
      }
    }
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < pixels; ++i) {
      to[i * Lanes + c] = to_acc(from[c * c_step + i * p_step]);
    }
  }
  for (int64_t c = channels; c < Lanes; ++c) {
    for (int64_t i = 0; i < pixels; ++i) {
      to[i * Lanes + c] = 0;
    }
  }
}

// `stream`: around the caches where that is possible; the rows are whole cache lines then.
template <class S, int Lanes>
void write_block(const View4& view, int64_t image, int64_t channel, int64_t row, int64_t column,
                 int64_t pixels, const Acc<S>* from, bool stream) {
  const int64_t channels = smaller<int64_t>(Lanes, view.channels() - channel);
  S* to = plane_of<S>(view, image, channel) + row * view.stride[2] + column * view.stride[3];
  const int64_t c_step = view.stride[1], p_step = view.stride[3];
  if (p_step == 1) {
    for (int64_t c = 0; c < channels; c += 4) {
      with_planes(smaller<int64_t>(channels - c, 4), [&](auto given) {
        if constexpr (given() > 0) {
          write_planes<S, Lanes, given()>(to + c * c_step, c_step, pixels, from + c, stream);
        }
      });
    }
    return;
  }
  if (c_step == 1) {
    for (int64_t i = 0; i < pixels; ++i) {
      write_stretch(to + i * p_step, 1, channels, from + i * Lanes);
    }
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < pixels; ++i) {
      to[c * c_step + i * p_step] = from_acc<S>(from[i * Lanes + c]);
    }
  }
}

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA
