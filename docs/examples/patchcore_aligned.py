"""SpatialAlign in front of anomalib's PatchCore; maps come back in the frame of each photograph."""

import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from sklearn.metrics import roc_auc_score

from fastalign import nn, ops
from fastalign.data import ImageDataset, collect, open_category
from fastalign.engine.demo import demo_category

torch.manual_seed(0)
with demo_category() as folder:
    part = open_category(folder)
    train, test = (collect(ImageDataset(s, (128, 128))) for s in (part.train, part.test))

align = nn.SpatialAlign(3, "rotation_translation", grid=64, max_angle=30)
optimizer = torch.optim.SGD(align.parameters(), lr=0.01, momentum=0.9)
for step in range(11):
    aligned, _, valid = align(train)
    loss = ops.pairwise_distance_loss(aligned, valid)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step}: distance between the photographs {loss.item():.4f}")

backbone = nn.FeatureBackbone(layers=["blocks.1", "blocks.2"], weights="embedded")
patchcore = PatchcoreModel(backbone.layers, "tf_efficientnet_lite0", pre_trained=False)
patchcore.feature_extractor.forward = lambda x: dict(zip(backbone.layers, backbone(x), strict=True))
for name, front in (("as it is", ops.affine.identity), ("aligned", align.localise)):
    with torch.no_grad():
        pose = [front(x) if name == "aligned" else front(len(x)) for x in (train, test)]
        patchcore.train()(ops.warp_affine(train, pose[0], padding_mode="border"))
        patchcore.subsample_embedding(0.004)
        result = patchcore.eval()(ops.warp_affine(test, pose[1], padding_mode="border"))
        maps = ops.warp_affine(result.anomaly_map, ops.affine.invert(pose[1]))
    auroc = roc_auc_score([sample.label for sample in part.test], result.pred_score)
    print(f"{name}: image AUROC {auroc:.3f}, maps {tuple(maps.shape)}")
