"""Two SpatialAlign layers choose two views of a picture for one classifier."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from fastalign import ops
from fastalign.nn import SpatialAlign

torch.manual_seed(0)
digits = load_digits()  # 1797 scans of handwritten digits, 8 x 8, part of scikit-learn
images = nn.functional.pad(torch.tensor(digits.images).float()[:, None] / 16, (4, 4, 4, 4))
labels = torch.tensor(digits.target)


def moved(x):
    pose = (torch.rand(len(x), 3) - 0.5) * torch.tensor([1.0, 0.8, 0.8])  # turn, shift, shift
    return ops.warp_affine(x, ops.affine.from_parameters(pose, "rotation_translation"))


test = moved(images[1200:])
for number in (0, 1, 2):
    views = nn.ModuleList(SpatialAlign(1, "similarity") for _ in range(number))
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()]
    body, head = nn.Sequential(*layers), nn.LazyLinear(10)

    def classify(x, views=views, body=body, head=head):
        return head(torch.cat([body(v(x).aligned) for v in views] or [body(x)], 1))

    classify(test)
    optimizer = torch.optim.Adam(nn.ModuleList([views, body, head]).parameters(), lr=3e-3)
    for _ in range(10):
        for batch in torch.randperm(1200).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(classify(moved(images[batch])), labels[batch]).backward()
            optimizer.step()
    right = classify(test).argmax(1) == labels[1200:]
    print(f"{number} views: {right.float().mean():.3f} of the test digits right")
