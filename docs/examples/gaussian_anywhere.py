"""DenseGaussian on any feature map: the stages of a CNN, the tokens of a timm ViT."""

import timm
import torch
from sklearn.metrics import roc_auc_score

from fastalign import nn
from fastalign.data import ImageDataset, collect, open_category
from fastalign.engine.demo import demo_category

torch.manual_seed(0)
with demo_category() as folder:
    part = open_category(folder)
    train, test = (collect(ImageDataset(s, (128, 128))) for s in (part.train, part.test))

cnn = nn.FeatureBackbone(layers=["blocks.2"], weights="embedded")
# Random weights, so that nothing is downloaded; pretrained=True takes timm's.
vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=128).eval()


def tokens(images):
    """[B,N,C] without class token as [B,C,h,w]."""
    x = vit.forward_features(images)[:, vit.num_prefix_tokens :]
    return x.mT.unflatten(2, vit.patch_embed.grid_size)[:, :64]  # 64 of 192 channels


for name, features in (("CNN", lambda x: cnn(x)[0]), ("ViT, random", tokens)):
    with torch.no_grad():
        x = features(train)
        density = nn.DenseGaussian(x.shape[1], x.shape[2:])
        for batch in x.split(8):  # a stream; memory does not grow
            density.update(batch)
        density.finalize()
        distance = density(features(test))  # [B,h,w]
    auroc = roc_auc_score([sample.label for sample in part.test], distance.amax((1, 2)))
    print(f"{name}: features {tuple(x.shape[1:])}, image AUROC {auroc:.3f}")
