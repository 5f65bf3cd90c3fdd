// warp_affine: options, pixel maps from theta, gradients of theta from the kernel's partial sums.
#include "ops.h"
#include "warp_options.h"

namespace fastalign::host {
namespace {

// theta[b] as six doubles, whatever its strides.
std::vector<double> read_theta(const Tensor& theta, int64_t batch) {
  check_cpu(theta, "theta");
  check_shape(theta, "theta", {batch, 2, 3});
  const bool wide = theta.scalar_type() == ScalarType::Double;
  FASTALIGN_CHECK(wide || theta.scalar_type() == ScalarType::Float,
                  "theta must be float32 or float64");
  std::vector<double> values;
  values.reserve(static_cast<size_t>(batch) * 6);
  const void* data = theta.const_data_ptr();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t entry = 0; entry < 6; ++entry) {
      const int64_t offset =
          b * theta.stride(0) + (entry / 3) * theta.stride(1) + (entry % 3) * theta.stride(2);
      values.push_back(wide ? static_cast<const double*>(data)[offset]
                            : static_cast<double>(static_cast<const float*>(data)[offset]));
    }
  }
  return values;
}

std::vector<AffinePixels> pixel_maps(const std::vector<double>& theta, int64_t in_h, int64_t in_w,
                                     int64_t out_h, int64_t out_w, bool align_corners) {
  std::vector<AffinePixels> maps;
  for (size_t b = 0; b + 6 <= theta.size(); b += 6) {
    maps.push_back(affine_pixels(theta.data() + b, in_h, in_w, out_h, out_w, align_corners));
  }
  return maps;
}

}  // namespace

Tensor warp_affine(Tensor x, Tensor theta, int64_t height, int64_t width, std::string mode,
                   std::string padding_mode, bool align_corners) {
  WarpAffineArgs args{};
  args.x = view4(x, "x");
  check_source(x);
  FASTALIGN_CHECK(height >= 0 && width >= 0, "the output size must not be negative");
  set_options(args, mode, padding_mode, align_corners);
  const auto values = read_theta(theta, x.size(0));
  const auto maps = pixel_maps(values, x.size(2), x.size(3), height, width, align_corners);
  args.maps = maps.data();
  args.exact = theta.scalar_type() == ScalarType::Double;
  Tensor out =
      empty_map(x, {x.size(0), x.size(1), height, width}, x.scalar_type(), is_channels_last(x));
  args.out = view4(out, "out");
  if (out.numel() > 0) {
    FASTALIGN_RUN_KERNEL(warp_affine, args);
  }
  return out;
}

std::tuple<Tensor, Tensor> warp_affine_backward(Tensor grad, Tensor x, Tensor theta,
                                                std::string mode, std::string padding_mode,
                                                bool align_corners, bool need_x, bool need_theta,
                                                bool deterministic) {
  (void)deterministic;  // the CPU kernels have no other way
  WarpAffineBackwardArgs args{};
  args.x = view4(x, "x");
  args.grad = view4(grad, "grad");
  check_source(x);
  check_shape(grad, "grad", {x.size(0), x.size(1), grad.size(2), grad.size(3)});
  FASTALIGN_CHECK(args.grad.dtype == args.x.dtype, "grad and x must have the same dtype");
  set_options(args, mode, padding_mode, align_corners);
  const int64_t batch = x.size(0), out_h = grad.size(2), out_w = grad.size(3);
  const auto values = read_theta(theta, batch);
  const auto maps = pixel_maps(values, x.size(2), x.size(3), out_h, out_w, align_corners);
  args.maps = maps.data();

  Tensor dx = need_x ? empty_gradient(x) : no_gradient(x);
  if (need_x) {
    args.dx = view4(dx, "dx");
  }
  std::vector<double> dmaps(need_theta ? static_cast<size_t>(batch) * 6 : 0, 0.0);
  args.dmaps = need_theta ? dmaps.data() : nullptr;
  if (grad.numel() > 0 && (need_x || need_theta)) {
    FASTALIGN_RUN_KERNEL(warp_affine_backward, args);
  } else if (need_x) {
    torch::stable::zero_(dx);
  }
  if (!need_theta) {
    return {dx, no_gradient(theta)};
  }
  // Position is linear in theta: with the normalised output coordinate xn = sx * ox + bx,
  // d(source pixel) / d(theta row) = pixels_per_unit * (xn, yn, 1), and the kernel has summed
  // gradient * (ox, oy, 1) in double.
  double sx = 0, bx = 0, sy = 0, by = 0;
  normalised_axis(out_w, align_corners, &sx, &bx);
  normalised_axis(out_h, align_corners, &sy, &by);
  Tensor dtheta = empty_map(theta, {batch, 2, 3}, theta.scalar_type(), false);
  void* data = dtheta.mutable_data_ptr();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t row = 0; row < 2; ++row) {
      const double scale = pixels_per_unit(row == 0 ? x.size(3) : x.size(2), align_corners);
      const double* sums = dmaps.data() + b * 6 + row * 3;
      const double entries[3] = {scale * (sx * sums[0] + bx * sums[2]),
                                 scale * (sy * sums[1] + by * sums[2]), scale * sums[2]};
      for (int64_t col = 0; col < 3; ++col) {
        const int64_t at = b * 6 + row * 3 + col;
        if (theta.scalar_type() == ScalarType::Double) {
          static_cast<double*>(data)[at] = entries[col];
        } else {
          static_cast<float*>(data)[at] = static_cast<float>(entries[col]);
        }
      }
    }
  }
  return {dx, dtheta};
}

}  // namespace fastalign::host
