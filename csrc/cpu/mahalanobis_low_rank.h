// Products with I - V^T V for a few rows V: mahalanobis' low-rank form of a whitener.
//
// Idea. w = d - V^T (V d). Four rows at a time: their products with the deviations of up to four
// images, then what these take away, while the rows are in L1. So V crosses memory once, whatever
// the number of rows; w is made in scratch, which 4 rows read and write once.
#pragma once

#include "mahalanobis_tile.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Calls take(column, values) for each vector of `Rows` rows, zero behind the last channel.
template <int Rows, class W, class Take>
FASTALIGN_INLINE void for_each_column(const W* rows, int64_t stride, int64_t channels,
                                      Take&& take) {
  using A = Acc<W>;
  constexpr int64_t lanes = kLanes<A>;
  Vec<A> values[Rows];
  int64_t column = 0;
  for (; column + lanes <= channels; column += lanes) {
    for (int r = 0; r < Rows; ++r) {
      values[r] = load_acc(rows + r * stride + column);
    }
    take(column, values);
  }
  if (column < channels) {
    for (int r = 0; r < Rows; ++r) {
      values[r] = load_first(rows + r * stride + column, channels - column);
    }
    take(column, values);
  }
}

// Takes what lies along `Rows` rows away from `to`, for the vectors `from` [N][padded] of N images;
// `products` [N][kept] receives the rows' products with them.
template <class W, int N, int Rows>
FASTALIGN_INLINE void take_rows(const W* rows, int64_t stride, int64_t channels, int64_t padded,
                                const Acc<W>* from, Acc<W>* to, Acc<W>* products, int64_t kept) {
  using A = Acc<W>;
  Vec<A> sums[Rows][N] = {};
  for_each_column<Rows>(rows, stride, channels, [&](int64_t column, const Vec<A>* values) {
    for (int n = 0; n < N; ++n) {
      const Vec<A> own = load(from + n * padded + column);
      for (int r = 0; r < Rows; ++r) {
        sums[r][n] += values[r] * own;
      }
    }
  });
  A factors[N][Rows];
  for (int n = 0; n < N; ++n) {
    if constexpr (Rows == 4) {
      const auto four = sum_lanes_of_four<A>(sums[0][n], sums[1][n], sums[2][n], sums[3][n]);
      std::memcpy(factors[n], &four, sizeof(four));
    } else {
      for (int r = 0; r < Rows; ++r) {
        factors[n][r] = sum_lanes(sums[r][n]);
      }
    }
    std::memcpy(products + n * kept, factors[n], sizeof(factors[n]));
  }
  for_each_column<Rows>(rows, stride, channels, [&](int64_t column, const Vec<A>* values) {
    for (int n = 0; n < N; ++n) {
      A* at = to + n * padded + column;
      Vec<A> left = load(at);
      for (int r = 0; r < Rows; ++r) {
        left -= values[r] * splat(factors[n][r]);
      }
      store(at, left);
    }
  });
}

// V of one location at a time: rows of contiguous channels, in place where they are, else gathered.
template <class W>
struct LowRank {
  using A = Acc<W>;
  static constexpr bool kPullsFirst = true;  // the whitener's gradient holds V g
  const MahalanobisArgs& args;
  const GaussianTile<A>& t;
  const W* v;
  int64_t stride;

  static int64_t rows(const MahalanobisArgs& args) { return round_up(args.rank, kRows); }
  static int64_t size(const MahalanobisArgs& args) { return args.rank * args.x.channels(); }
  static bool is_gathered(const MahalanobisArgs& args) { return args.whitener_stride[2] != 1; }

  LowRank(const MahalanobisArgs& given, const GaussianTile<A>& tile, int64_t location)
      : args(given), t(tile), stride(given.whitener_stride[1]) {
    v = static_cast<const W*>(args.whitener) + location * args.whitener_stride[0];
    if (is_gathered(args)) {
      W* to = static_cast<W*>(t.factor);
      for (int64_t r = 0; r < args.rank; ++r) {
        for (int64_t c = 0; c < t.channels; ++c) {
          to[r * t.channels + c] = v[r * stride + c * args.whitener_stride[2]];
        }
      }
      v = to, stride = t.channels;
    }
  }

  // to = from - V^T (V from) for N images, and products = V from.
  template <int N>
  void complement(const A* from, A* to, A* products) const {
    std::memcpy(to, from, static_cast<size_t>(N * t.padded) * sizeof(A));
    int64_t row = 0;
    for (; row + kRows <= args.rank; row += kRows) {
      const W* rows = v + row * stride;
      prefetch_ahead(rows, rows + kRows * stride);
      take_rows<W, N, kRows>(rows, stride, t.channels, t.padded, from, to, products + row, t.rows);
    }
    for (; row < args.rank; ++row) {
      take_rows<W, N, 1>(v + row * stride, stride, t.channels, t.padded, from, to, products + row,
                         t.rows);
    }
  }

  void complements(const A* from, A* to, A* products) const {
    int64_t image = 0;
    for (; image + kImages <= t.images; image += kImages) {
      complement<kImages>(from + image * t.padded, to + image * t.padded,
                          products + image * t.rows);
    }
    for (; image < t.images; ++image) {
      complement<1>(from + image * t.padded, to + image * t.padded, products + image * t.rows);
    }
  }

  // t.squares and t.white.
  void whiten_images(const A* deviation, bool) const {
    complements(deviation, t.white, t.products);
    for (int64_t b = 0; b < t.images; ++b) {
      const A* white = t.white + b * t.padded;
      Vec<A> sum{};
      for (int64_t c = 0; c < t.padded; c += kLanes<A>) {
        sum += load(white + c) * load(white + c);
      }
      t.squares[b] = sum_lanes(sum);
    }
  }

  const A* white_of(const A*, int64_t image) const { return t.white + image * t.padded; }

  A* pulled() const { return t.products + t.images * t.rows; }

  // The matrix is symmetric.
  void transposed(A* gradient) const { complements(t.white, gradient, pulled()); }

  // d V = - sum over images of (V d) g^T + (V g) d^T for g = white, after transposed().
  void whitener_gradient(const A* deviation, W* to) const {
    constexpr int64_t lanes = kLanes<A>;
    for (int64_t row = 0; row < args.rank; ++row) {
      for (int64_t column = 0; column < t.channels; column += lanes) {
        Vec<A> sum{};
        for (int64_t b = 0; b < t.images; ++b) {
          const int64_t at = b * t.padded + column, product = b * t.rows + row;
          sum -= load(t.white + at) * splat(t.products[product]) +
                 load(deviation + at) * splat(pulled()[product]);
        }
        W* out = to + row * t.channels + column;
        if (column + lanes <= t.channels) {
          store_acc(out, sum);
        } else {
          store_first(out, sum, t.channels - column);
        }
      }
    }
  }
};

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA
