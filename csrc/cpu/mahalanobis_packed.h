// Products with packed lower triangles L: mahalanobis' first form of a whitener.
#pragma once

#include <type_traits>

#include "../common/packed.h"
#include "mahalanobis_many.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Calls take(values) for each vector of one block of rows: values[r] holds entries
// [column, column + lanes) of row first + r, zero beyond the diagonal.
template <int Rows, class W, class Take>
FASTALIGN_INLINE void for_each_vector(const W* packed, int64_t first, Take&& take) {
  using A = Acc<W>;
  constexpr int64_t lanes = kLanes<A>;
  const W* rows[Rows];
  for (int r = 0; r < Rows; ++r) {
    rows[r] = packed + packed_row(first + r);
  }
  Vec<A> values[Rows];
  const int64_t whole = first / lanes * lanes;
  for (int64_t column = 0; column < whole; column += lanes) {
    for (int r = 0; r < Rows; ++r) {
      values[r] = load_acc(rows[r] + column);
    }
    take(column, values);
  }
  // The diagonal falls into this vector, or into the next ones where vectors are short.
  for (int64_t column = whole; column < first + Rows; column += lanes) {
    for (int r = 0; r < Rows; ++r) {
      const int64_t left = first + r + 1 - column;
      values[r] = left <= 0 ? Vec<A>{} : load_first(rows[r] + column, smaller(left, lanes));
    }
    take(column, values);
  }
}

// L d for N images: sums of squares [N], and with Keep the products themselves [N][padded].
template <class W, int N, bool Keep>
void whiten(const W* packed, int64_t channels, int64_t padded, const Acc<W>* deviation,
            Acc<W>* squares, Acc<W>* white) {
  using A = Acc<W>;
  typename Four<A>::type sums[N] = {};
  int64_t first = 0;
  for (; first + kRows <= channels; first += kRows) {
    prefetch_ahead(packed + packed_row(first), packed + packed_row(first + kRows));
    Vec<A> products[kRows][N] = {};
    const auto multiply = [&](int r, int64_t column, const Vec<A>& values) {
      for (int n = 0; n < N; ++n) {
        products[r][n] += values * load(deviation + n * padded + column);
      }
    };
    if constexpr (N == 1) {
      // One image: memory is the limit, and a stream without jumps is what it gives most to.
      for (int r = 0; r < kRows; ++r) {
        for_each_vector<1>(packed, first + r, [&](int64_t column, const Vec<A>* values) {
          multiply(r, column, values[0]);
        });
      }
    } else {
      for_each_vector<kRows>(packed, first, [&](int64_t column, const Vec<A>* values) {
        for (int r = 0; r < kRows; ++r) {
          multiply(r, column, values[r]);
        }
      });
    }
    for (int n = 0; n < N; ++n) {
      const auto four =
          sum_lanes_of_four<A>(products[0][n], products[1][n], products[2][n], products[3][n]);
      sums[n] += four * four;
      if constexpr (Keep) {
        std::memcpy(white + n * padded + first, &four, sizeof(four));
      }
    }
  }
  A totals[N];
  for (int n = 0; n < N; ++n) {
    totals[n] = (sums[n][0] + sums[n][1]) + (sums[n][2] + sums[n][3]);
  }
  for (; first < channels; ++first) {
    Vec<A> products[N] = {};
    for_each_vector<1>(packed, first, [&](int64_t column, const Vec<A>* values) {
      for (int n = 0; n < N; ++n) {
        products[n] += values[0] * load(deviation + n * padded + column);
      }
    });
    for (int n = 0; n < N; ++n) {
      const A one = sum_lanes(products[n]);
      totals[n] += one * one;
      if constexpr (Keep) {
        white[n * padded + first] = one;
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    squares[n] = totals[n];
  }
}

template <class W, bool Keep>
void whiten_all(const W* packed, const GaussianTile<Acc<W>>& t, const Acc<W>* deviation) {
  using A = Acc<W>;
  const int64_t channels = t.channels, padded = t.padded;
  int64_t image = 0;
  const auto many = [&](auto count) {
    constexpr int vectors = count(), images = vectors * kBeside<A>;
    if constexpr (kBeside<A> > 1 && sizeof(A) == 4) {
      for (; image + images <= t.images; image += images) {
        interleave(deviation + image * padded, padded, vectors, t.fours);
        whiten_many<W, vectors, Keep>(packed, channels, padded, t.fours, t.squares + image,
                                      t.white + image * padded);
      }
    }
  };
  many(std::integral_constant<int, 2>{});
  many(std::integral_constant<int, 1>{});
  for (; image + kImages <= t.images; image += kImages) {
    whiten<W, kImages, Keep>(packed, channels, padded, deviation + image * padded,
                             t.squares + image, t.white + image * padded);
  }
  for (; image < t.images; ++image) {
    whiten<W, 1, Keep>(packed, channels, padded, deviation + image * padded, t.squares + image,
                       t.white + image * padded);
  }
}

// gradient [images][padded] = L^T white, four rows of L at a time.
template <class W>
void factor_transposed(const W* packed, const GaussianTile<Acc<W>>& t, Acc<W>* gradient) {
  using A = Acc<W>;
  const int64_t channels = t.channels, padded = t.padded, images = t.images;
  for (int64_t i = 0; i < images * padded; i += kLanes<A>) {
    store(gradient + i, Vec<A>{});
  }
  int64_t first = 0;
  for (; first + kRows <= channels; first += kRows) {
    for_each_vector<kRows>(packed, first, [&](int64_t column, const Vec<A>* values) {
      for (int64_t b = 0; b < images; ++b) {
        const A* white = t.white + b * padded + first;
        A* to = gradient + b * padded + column;
        store(to, load(to) + ((values[0] * splat(white[0]) + values[1] * splat(white[1])) +
                              (values[2] * splat(white[2]) + values[3] * splat(white[3]))));
      }
    });
  }
  for (; first < channels; ++first) {
    for_each_vector<1>(packed, first, [&](int64_t column, const Vec<A>* values) {
      for (int64_t b = 0; b < images; ++b) {
        A* to = gradient + b * padded + column;
        store(to, load(to) + values[0] * splat(t.white[b * padded + first]));
      }
    });
  }
}

// d L = sum over images of white d^T, its lower triangle; packed [C(C+1)/2] is dense.
template <class W>
void factor_gradient(const GaussianTile<Acc<W>>& t, const Acc<W>* deviation, W* packed) {
  using A = Acc<W>;
  constexpr int64_t lanes = kLanes<A>;
  for (int64_t row = 0; row < t.channels; ++row) {
    W* to = packed + packed_row(row);
    for (int64_t column = 0; column <= row; column += lanes) {
      Vec<A> sum{};
      for (int64_t b = 0; b < t.images; ++b) {
        sum += load(deviation + b * t.padded + column) * splat(t.white[b * t.padded + row]);
      }
      const int64_t left = row + 1 - column;
      if (left >= lanes) {
        store_acc(to + column, sum);
      } else {
        store_first(to + column, sum, left);
      }
    }
  }
}

// L of one location at a time, as contiguous entries: in place where they are, else gathered.
template <class W>
struct PackedFactor {
  using A = Acc<W>;
  static constexpr bool kPullsFirst = false;  // the whitener's gradient is made without
  const MahalanobisArgs& args;
  const GaussianTile<A>& t;
  const W* entries;

  static int64_t rows(const MahalanobisArgs&) { return 0; }
  static int64_t size(const MahalanobisArgs& args) { return packed_size(args.x.channels()); }
  static bool is_gathered(const MahalanobisArgs& args) { return args.whitener_stride[1] != 1; }

  PackedFactor(const MahalanobisArgs& given, const GaussianTile<A>& tile, int64_t location)
      : args(given), t(tile) {
    entries = static_cast<const W*>(args.whitener) + location * args.whitener_stride[0];
    if (is_gathered(args)) {
      W* to = static_cast<W*>(t.factor);
      for (int64_t i = 0; i < size(args); ++i) {
        to[i] = entries[i * args.whitener_stride[1]];
      }
      entries = to;
    }
  }

  // t.squares, and where `keep` t.white.
  void whiten_images(const A* deviation, bool keep) const {
    if (keep) {
      whiten_all<W, true>(entries, t, deviation);
    } else {
      whiten_all<W, false>(entries, t, deviation);
    }
  }

  // L d of one image of those that were whitened and not kept.
  const A* white_of(const A* deviation, int64_t image) const {
    A square;
    whiten<W, 1, true>(entries, t.channels, t.padded, deviation + image * t.padded, &square,
                       t.white);
    return t.white;
  }

  void transposed(A* gradient) const { factor_transposed(entries, t, gradient); }
  void whitener_gradient(const A* deviation, W* to) const { factor_gradient(t, deviation, to); }
};

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA
