"""Two SpatialAlign layers choose two views of a picture for one classifier."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from fastalign import ops
from fastalign.nn import SpatialAlign

torch.manual_seed(0)
digits = load_digits()  # 1797 scans of handwritten digits, 8 x 8, part of scikit-learn
images, labels = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
pose = (torch.rand(len(images), 3) - 0.5) * torch.tensor([1.0, 0.8, 0.8])
pose = ops.affine.from_parameters(pose, "rotation_translation")
images = ops.warp_affine(F.pad(images, (4, 4, 4, 4)), pose)


class Views(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.aligns = nn.ModuleList(SpatialAlign(1, "similarity") for _ in range(number))
        layers = nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(32 * 16 * max(number, 1), 10)

    def forward(self, x):
        views = [align(x).aligned for align in self.aligns] or [x]
        return self.head(torch.cat([self.body(view) for view in views], 1))


for number in (0, 1, 2):
    model = Views(number)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(EP):
        for batch in torch.randperm(1200).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        right = model(images[1200:]).argmax(1) == labels[1200:]
    print(f"{number} views: {right.float().mean():.3f} of the test digits right")
