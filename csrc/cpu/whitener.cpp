// Packed inverse Cholesky factors of packed sums of outer products, one matrix per location.
//
// Idea. Cholesky's recurrences run along rows and leave a vector unit idle at the ends, so as many
// locations as a vector of doubles has lanes are factored side by side: entry (i, j) of all of them
// is one vector, every operation is a whole one, and the code is the same for any C. A group is
// transposed into scratch, factored, inverted in place and written out in its storage type; its
// C (C + 1) / 2 vectors stay in L2. Both recurrences take blocks of four rows by `kColumns`
// columns, so that a vector that was loaded enters several products.
//
// Bytes: the sums read once, the whiteners written once; in float32 they may take the place of the
// sums, group by group.
//
// A pivot that does not stand out from the rounding of the float32 sums says nothing, even where it
// is positive: the location is reported as lost. It is divided by 1 instead, so that no NaN is
// made on the way.
#include <cfloat>

#include "../common/packed.h"
#include "runs.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

constexpr int64_t kGroup = kLanes<double>;
constexpr int kRows = 4;
#if defined(__AVX512F__)
constexpr int kColumns = 4;  // 16 sums in 32 registers
#else
constexpr int kColumns = 2;
#endif

// A lower triangle of vectors, packed by rows.
struct Triangle {
  double* data;

  FASTALIGN_INLINE double* at(int64_t row, int64_t column) const {
    return data + packed_index(row, column) * kGroup;
  }
  FASTALIGN_INLINE Doubles get(int64_t row, int64_t column) const { return load(at(row, column)); }
  FASTALIGN_INLINE void put(int64_t row, int64_t column, const Doubles& value) const {
    store(at(row, column), value);
  }
};

// sums[r][c] = sum over k in [from, to) of left(r, k) * right(c, k).
template <int Rows, int Columns, class Left, class Right>
FASTALIGN_INLINE void multiply(int64_t from, int64_t to, Left&& left, Right&& right,
                               Doubles (&sums)[Rows][Columns]) {
  for (int64_t k = from; k < to; ++k) {
    Doubles across[Columns];
    for (int c = 0; c < Columns; ++c) {
      across[c] = right(c, k);
    }
    for (int r = 0; r < Rows; ++r) {
      const Doubles down = left(r, k);
      for (int c = 0; c < Columns; ++c) {
        sums[r][c] += down * across[c];
      }
    }
  }
}

// Columns [column, column + Columns) of the rows [row, row + Rows), all at or left of the diagonal
// block; the columns before them are done. `inverse` holds 1 / diagonal of the rows before.
template <int Rows, int Columns>
FASTALIGN_INLINE void factor_block(const Triangle& t, const double* inverse, int64_t row,
                                   int64_t column) {
  Doubles sums[Rows][Columns] = {};
  multiply<Rows, Columns>(
      0, column, [&](int r, int64_t k) { return t.get(row + r, k); },
      [&](int c, int64_t k) { return t.get(column + c, k); }, sums);
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) {
      Doubles value = t.get(row + r, column + c) - sums[r][c];
      for (int k = 0; k < c; ++k) {
        value -= t.get(row + r, column + k) * t.get(column + c, column + k);
      }
      t.put(row + r, column + c, value * load(inverse + (column + c) * kGroup));
    }
  }
}

// The diagonal block itself.
template <int Rows>
FASTALIGN_INLINE void factor_corner(const Triangle& t, double* inverse, int64_t row,
                                    Bits<double>* lost) {
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c <= r; ++c) {
      Doubles value = t.get(row + r, row + c);
      const Doubles variance = value;
      for (int64_t k = 0; k < row + c; ++k) {
        value -= t.get(row + r, k) * t.get(row + c, k);
      }
      if (c < r) {
        t.put(row + r, row + c, value * load(inverse + (row + c) * kGroup));
        continue;
      }
      const Bits<double> sound = value > variance * static_cast<double>(FLT_EPSILON);
      *lost |= ~sound;
      const Doubles root = sqrt_of(sound ? value : splat(1.0));
      t.put(row + r, row + r, root);
      store(inverse + (row + r) * kGroup, 1.0 / root);
    }
  }
}

template <int Rows>
FASTALIGN_INLINE void factor_rows(const Triangle& t, double* inverse, int64_t row,
                                  Bits<double>* lost) {
  int64_t column = 0;
  for (; column + kColumns <= row; column += kColumns) {
    factor_block<Rows, kColumns>(t, inverse, row, column);
  }
  for (; column < row; ++column) {
    factor_block<Rows, 1>(t, inverse, row, column);
  }
  factor_corner<Rows>(t, inverse, row, lost);
}

// Columns [column, column + Columns) of the inverse M in the rows [row, row + Rows), all left of
// the diagonal block: M_i = -(sum over column <= k < i of L_ik M_k) / L_ii. `kept` [Rows][row +
// Rows] holds these rows of L.
template <int Rows, int Columns>
FASTALIGN_INLINE void invert_block(const Triangle& t, const double* inverse, const double* kept,
                                   int64_t row, int64_t column) {
  const int64_t pitch = (row + Rows) * kGroup;
  const auto factor = [&](int r, int64_t k) { return load(kept + r * pitch + k * kGroup); };
  Doubles sums[Rows][Columns] = {};
  for (int first = 0; first < Columns; ++first) {
    for (int r = 0; r < Rows; ++r) {
      for (int c = 0; c <= first; ++c) {
        sums[r][c] += factor(r, column + first) * t.get(column + first, column + c);
      }
    }
  }
  multiply<Rows, Columns>(
      column + Columns, row, factor, [&](int c, int64_t k) { return t.get(k, column + c); }, sums);
  for (int r = 0; r < Rows; ++r) {
    const Doubles scale = load(inverse + (row + r) * kGroup);
    for (int c = 0; c < Columns; ++c) {
      for (int k = 0; k < r; ++k) {
        sums[r][c] += factor(r, row + k) * t.get(row + k, column + c);
      }
      t.put(row + r, column + c, -sums[r][c] * scale);
    }
  }
}

template <int Rows>
FASTALIGN_INLINE void invert_rows(const Triangle& t, const double* inverse, double* kept,
                                  int64_t row) {
  const int64_t pitch = (row + Rows) * kGroup;
  for (int r = 0; r < Rows; ++r) {
    std::memcpy(kept + r * pitch, t.at(row + r, 0),
                static_cast<size_t>((row + r + 1) * kGroup) * sizeof(double));
  }
  int64_t column = 0;
  for (; column + kColumns <= row; column += kColumns) {
    invert_block<Rows, kColumns>(t, inverse, kept, row, column);
  }
  for (; column < row; ++column) {
    invert_block<Rows, 1>(t, inverse, kept, row, column);
  }
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < r; ++c) {
      Doubles sum{};
      for (int k = c; k < r; ++k) {
        sum += load(kept + r * pitch + (row + k) * kGroup) * t.get(row + k, row + c);
      }
      t.put(row + r, row + c, -sum * load(inverse + (row + r) * kGroup));
    }
    t.put(row + r, row + r, load(inverse + (row + r) * kGroup));
  }
}

Bits<double> factor(const Triangle& t, double* inverse, int64_t channels) {
  Bits<double> lost{};
  int64_t row = 0;
  for (; row + kRows <= channels; row += kRows) {
    factor_rows<kRows>(t, inverse, row, &lost);
  }
  for (; row < channels; ++row) {
    factor_rows<1>(t, inverse, row, &lost);
  }
  return lost;
}

void invert(const Triangle& t, const double* inverse, double* kept, int64_t channels) {
  int64_t row = 0;
  for (; row + kRows <= channels; row += kRows) {
    invert_rows<kRows>(t, inverse, kept, row);
  }
  for (; row < channels; ++row) {
    invert_rows<1>(t, inverse, kept, row);
  }
}

// `count` locations from `first` as a triangle of vectors of covariances; lanes beyond the last one
// repeat it.
void read_group(const WhitenerArgs& args, int64_t first, int64_t count, const Triangle& t) {
  const int64_t size = packed_size(args.channels);
  for (int64_t lane = 0; lane < kGroup; ++lane) {
    const int64_t location = first + smaller(lane, count - 1);
    const float* from = args.outer + location * size;
    const double share = args.share[location];
    for (int64_t i = 0; i < size; ++i) {
      t.data[i * kGroup + lane] = static_cast<double>(from[i]) * share;
    }
  }
  for (int64_t c = 0; c < args.channels; ++c) {
    t.put(c, c, t.get(c, c) + args.shrinkage);
  }
}

template <class W>
void write_group(const WhitenerArgs& args, int64_t first, int64_t count, const Triangle& t) {
  const int64_t size = packed_size(args.channels);
  for (int64_t lane = 0; lane < count; ++lane) {
    W* to = static_cast<W*>(args.whitener) + (first + lane) * size;
    const bool kept = args.kept[first + lane];
    for (int64_t i = 0; i < size; ++i) {
      to[i] = from_acc<W>(kept ? static_cast<float>(t.data[i * kGroup + lane]) : 0.0f);
    }
  }
}

template <class W>
Status run(const WhitenerArgs& args, const Workers& workers) {
  const int64_t channels = args.channels, size = packed_size(channels);
  const int64_t groups = (args.locations + kGroup - 1) / kGroup;
  const double work = static_cast<double>(size) * static_cast<double>(channels) *
                      static_cast<double>(args.locations);
  const int64_t used = workers_for(workers, groups, work);
  const int64_t bytes = carved<double>(size * kGroup) + carved<double>(channels * kGroup) +
                        carved<double>(kRows * channels * kGroup);
  Scratch scratch(bytes, used);
  if (scratch.failed()) {
    return Status::out_of_memory;
  }
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    Carver carver(scratch.of(worker));
    const Triangle t{carver.take<double>(size * kGroup)};
    double* inverse = carver.take<double>(channels * kGroup);
    double* kept = carver.take<double>(kRows * channels * kGroup);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t first = index * kGroup, count = smaller(kGroup, args.locations - first);
      read_group(args, first, count, t);
      const Bits<double> lost = factor(t, inverse, channels);
      for (int64_t lane = 0; lane < count; ++lane) {
        args.lost[first + lane] = args.kept[first + lane] && lost[lane] != 0;
      }
      if (args.whitener != nullptr) {
        invert(t, inverse, kept, channels);
        write_group<W>(args, first, count, t);
      }
    }
  };
  split(workers, groups, used, body);
  return Status::ok;
}

}  // namespace

Status whitener(const WhitenerArgs& args, const Workers& workers) {
  switch (args.whitener_dtype) {
    case DType::float16:
      return run<Half>(args, workers);
    case DType::bfloat16:
      return run<BFloat16>(args, workers);
    default:
      return run<float>(args, workers);
  }
}

}  // namespace fastalign::FASTALIGN_ISA
