// Bounds within which a square keeps its digits, and so do sums of squares and their inverses:
// what leaves them is computed again, divided by its largest part first.
#pragma once

namespace fastalign::FASTALIGN_ISA {

template <class A>
struct Limits;
template <>
struct Limits<float> {
  static constexpr float low = 0x1p-60f, high = 0x1p60f;
};
template <>
struct Limits<double> {
  static constexpr double low = 0x1p-400, high = 0x1p400;
};

}  // namespace fastalign::FASTALIGN_ISA
