"""dense_similarity_loss in a plain PyTorch loop: features of all photographs agree by location."""

import torch
from torch.nn import functional as F

from fastalign import nn, ops
from fastalign.data import ImageDataset, collect, open_category
from fastalign.engine.demo import demo_category

torch.manual_seed(0)
with demo_category() as folder:
    images = collect(ImageDataset(open_category(folder).train, (128, 128)))
with torch.no_grad():
    features = nn.FeatureBackbone(layers=["blocks.2"], weights="embedded")(images)[0]  # [B,C,h,w]

projector = nn.Projector(features.shape[1])
predictor = nn.Predictor(features.shape[1])
parameters = [*projector.parameters(), *predictor.parameters()]
optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
for step in range(31):
    batch = features[torch.randperm(len(features))[:16]]
    z = projector(batch)
    p = predictor(z)
    loss = ops.dense_similarity_loss(p, z.detach())  # all 16 * 15 pairs at every location
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        spread = nn.std_of_normalised(z)  # 1 isotropic, 0 collapsed
        print(f"step {step}: loss {loss.item():.4f}, spread {spread:.2f}")

with torch.no_grad():
    p, z = F.normalize(p, dim=1), F.normalize(z, dim=1)
    cosine = torch.einsum("achw,bchw->abhw", p, z)  # what the loss never builds
    pairs = cosine[~torch.eye(16, dtype=torch.bool)].mean()
    print(f"last loss from all pairs, one by one: {-pairs:.4f}")
