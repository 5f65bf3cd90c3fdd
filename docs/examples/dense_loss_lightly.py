"""lightly's SimSiam heads on every location of a feature map, trained by dense_similarity_loss."""

import torch
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead

from fastalign import nn, ops
from fastalign.data import ImageDataset, collect, open_category
from fastalign.engine.demo import demo_category


def dense(head, x):
    """A head for vectors [N,C] on a map [B,C,h,w]."""
    rows = x.permute(0, 2, 3, 1)
    return head(rows.flatten(0, 2)).view(*rows.shape[:3], -1).permute(0, 3, 1, 2)


torch.manual_seed(0)
with demo_category() as folder:
    images = collect(ImageDataset(open_category(folder).train, (128, 128)))
with torch.no_grad():
    features = nn.FeatureBackbone(layers=["blocks.2"], weights="embedded")(images)[0]

channels = features.shape[1]
projection = SimSiamProjectionHead(channels, 64, 64)
prediction = SimSiamPredictionHead(64, 16, 64)
parameters = [*projection.parameters(), *prediction.parameters()]
optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
for step in range(31):
    z = dense(projection, features[torch.randperm(len(features))[:16]])
    p = dense(prediction, z)
    loss = ops.dense_similarity_loss(p, z.detach())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step}: loss {loss.item():.4f}, spread {nn.std_of_normalised(z):.2f}")
