"""warp_affine in place of affine_grid + grid_sample: the same values, gradients, no grid tensor."""

import torch
from torch.nn import functional as F

from fastalign import ops
from fastalign.data import ImageDataset, collect, open_category
from fastalign.engine.demo import demo_category

with demo_category() as folder:
    images = collect(ImageDataset(open_category(folder).train, (256, 256)))[:8]
turn = torch.linspace(-0.5, 0.5, 8)
pose = torch.stack([turn, turn / 5, turn / 4], 1)  # radians, half widths, half heights
theta = ops.affine.from_parameters(pose, "rotation_translation")
theta.requires_grad_()

grid = F.affine_grid(theta, list(images.shape), align_corners=False)
theirs = F.grid_sample(images, grid, align_corners=False)
ours = ops.warp_affine(images, theta)
print(f"largest difference: {(ours - theirs).abs().max():.1e}")

target = images.flip(0)
for name, warped in (("grid_sample", theirs), ("warp_affine", ours)):
    (gradient,) = torch.autograd.grad((warped - target).square().mean(), theta, retain_graph=True)
    print(f"{name}: gradient of theta[0] {[round(v, 4) for v in gradient[0].flatten().tolist()]}")

print(f"grid not built: {grid.numel() * grid.element_size() / 2**20:.0f} MiB")
half = ops.warp_affine(images.half(), theta)  # coordinates stay in float32
print(f"float16 images: {half.dtype}, largest difference {(half - theirs).abs().max():.1e}")
inverse = ops.affine.invert(theta)  # closed form
seen = ops.affine.valid_mask(inverse, (256, 256))
lost = (ops.warp_affine(ours, inverse) - images).abs().mean(1)
print(f"there and back: mean difference {lost[seen].mean():.4f}")
