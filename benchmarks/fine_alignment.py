"""Whether fine alignment pays: projections that are trained by it against ones that are not.

    python benchmarks/fine_alignment.py --data DIR [--categories screw_plate,cookie]

Fine alignment pulls the features of a location together across photographs. Here it has work that
the Gaussians cannot do for it: views of the same photographs in other light (brightness, contrast,
colour temperature, a gradient, a patch of light, blur) must agree as well. Each way to project the
features of the aligned photographs is followed by the same whitening, density and map. Two
questions: figures on the test photographs, and false alarms on good photographs in a light that no
training photograph has. Writes a table and JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastalign import FYD, FYDConfig
from fastalign.bench.protocol import Images, Jitter, figures, read_category, scores_of
from fastalign.models.rooms import warp
from fastalign.models.thresholds import limit_of
from fastalign.nn import DenseGaussian, LowRank, Predictor, Projector, Whitening
from fastalign.nn.directions import rotation
from fastalign.ops import dense_similarity_loss

RESULTS = Path(__file__).parent / "results"
WIDTHS = (32, 64, 0)
# Views of each photograph, photographs of a step, steps, and the rate of SGD.
VIEWS, BATCH, STEPS, RATE = 3, 8, 150, 0.05
# Of the good photographs, by the share of pixels that are nearly white: the light that is held out.
BRIGHT, HELD_OUT = 0.85, 0.25
STRENGTH, FOLDS = 3.0, 5


class Described(NamedTuple):
    """Features ``[N,C,h,w]``, poses ``[N,2,3]`` or None, valid ``[N,h,w]`` bool."""

    features: Tensor
    theta: Tensor | None
    valid: Tensor


def in_other_light(images: Tensor, generator: torch.Generator) -> Tensor:
    """One view of each of images ``[N,3,H,W]``."""

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(images), *shape, generator=generator)

    number, _, height, width = images.shape
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    angle = draw(0, 6.3, 1, 1)
    ramp = draw(0, 0.3, 1, 1) * (x * angle.cos() + y * angle.sin())
    middle = draw(-1, 1, 1, 1), draw(-1, 1, 1, 1)
    near = (y - middle[0]).square() + (x - middle[1]).square()
    spot = draw(0, 0.5, 1, 1) * (-near / draw(0.05, 0.5, 1, 1)).exp()
    light = draw(0.7, 1.3, 1, 1) * (1 + ramp + spot)
    warmth = torch.cat(
        [draw(0.9, 1.1, 1, 1, 1), torch.ones(number, 1, 1, 1), draw(0.9, 1.1, 1, 1, 1)], 1
    )
    mean = images.mean((2, 3), keepdim=True)
    found = (mean + (images - mean) * draw(0.8, 1.2, 1, 1, 1)) * light[:, None] * warmth
    blurred = F.avg_pool2d(F.pad(found, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(found, blurred, draw(0, 1, 1, 1, 1)).clamp(0, 1)


def describe(model: FYD, images: Tensor, theta: Tensor | None = None) -> Described:
    """The features that the density of ``model`` sees, whitening undone: channels of its stages, of
    images that are aligned, by theta or, None, as the model aligns them."""
    features, poses, valid = [], [], []
    for at, batch in enumerate(images.split(BATCH)):
        pose = model.pose(batch) if theta is None else theta.split(BATCH)[at]
        stages, moved = model.features.encode(warp(batch, pose), pose)
        used = [s for s, channels in zip(stages, model.features.described, strict=True) if channels]
        size = used[0].shape[2:]
        wide = [F.interpolate(s, size, mode="bilinear", align_corners=False) for s in used[1:]]
        features.append(torch.cat([used[0], *wide], 1))
        seen = model.maps.valid(moved)
        everywhere = torch.ones(len(batch), *size, dtype=torch.bool)
        valid.append(everywhere if seen is None else seen)
        if moved is not None:
            poses.append(moved)
    return Described(torch.cat(features), torch.cat(poses) if poses else None, torch.cat(valid))


def samples(given: Described) -> tuple[Tensor, Tensor]:
    """Every second location each way, ``[N,L,C]``, and where valid ``[N,L]``."""
    picked = given.features[:, :, ::2, ::2].flatten(2).transpose(1, 2)
    return picked, given.valid[:, ::2, ::2].flatten(1)


def deviations(given: Described) -> Tensor:
    """Of samples from the mean of their location, where valid, ``[M,C]``."""
    found, valid = samples(given)
    weight = valid[..., None].float()
    mean = (found * weight).sum(0) / weight.sum(0).clamp_min(1)
    return (found - mean)[valid]


# Ways to project: of the features of training photographs and of their views to a module ----------


def principal(width: int, given: Described, views: list[Described]) -> nn.Module:
    """The directions in which normal images vary most."""
    axes = torch.linalg.eigh(torch.cov(deviations(given).T.double()))[1]
    return linear(axes.flip(1)[:, :width].T)


def at_random(width: int, given: Described, views: list[Described]) -> nn.Module:
    """Orthonormal directions that know of nothing."""
    return linear(rotation(width, given.features.shape[1]))


def whitened(width: int, given: Described, views: list[Described]) -> nn.Module:
    """What the model does: whitened, then a fixed rotation."""
    return linear(Whitening.of_samples(*samples(given), width).directions)


def with_light(width: int, given: Described, views: list[Described]) -> nn.Module:
    """As the model does, with the differences between views counted as normal variation: the linear
    projection that makes views agree best, in closed form."""
    channels = given.features.shape[1]
    own = torch.cov(deviations(given).T.double())
    apart = torch.cat([deviations(pair(given, view)) for view in views])
    covariance = own + torch.cov(apart.T.double())
    covariance += 0.5 * own.diagonal().mean() * torch.eye(channels)
    variances, axes = torch.linalg.eigh(covariance)
    root = (axes * variances.rsqrt()) @ axes.T
    return linear(rotation(width, channels) @ root)


def pair(given: Described, view: Described) -> Described:
    """Photographs and their views as the differences of the two."""
    return Described(view.features - given.features, None, given.valid & view.valid)


def trained(head: Callable[[int, int], nn.Module]) -> Callable[..., nn.Module]:
    """A head that the fine loss trains, on photographs and their views at once."""

    def made(width: int, given: Described, views: list[Described]) -> nn.Module:
        torch.manual_seed(0)
        project = head(given.features.shape[1], width)
        predict = Predictor(width)
        parameters = [*project.parameters(), *predict.parameters()]
        rule = torch.optim.SGD(parameters, lr=RATE, momentum=0.9)
        scale = given.features.std()
        project.train(), predict.train()
        with torch.enable_grad():
            for _ in range(STEPS):
                chosen = torch.randperm(len(given.features))[: BATCH // 2]
                view = views[int(torch.randint(len(views), ()))]
                both = torch.cat([given.features[chosen], view.features[chosen]]) / scale
                z = project(both.clone())
                loss = dense_similarity_loss(predict(z), z.detach())
                rule.zero_grad()
                loss.backward()
                rule.step()
        project.eval().requires_grad_(False)
        return Scaled(project, float(scale))

    return made


class Scaled(nn.Module):
    """A head on features over a number."""

    def __init__(self, head: nn.Module, scale: float) -> None:
        super().__init__()
        self.head, self.scale = head, scale

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features / self.scale)


def linear(rows: Tensor) -> nn.Module:
    """A 1x1 convolution of these rows ``[D,C]``."""
    made = nn.Conv2d(rows.shape[1], rows.shape[0], 1, bias=False)
    made.weight.data = rows.float()[:, :, None, None]
    return made.requires_grad_(False)


WAYS: dict[str, Callable[..., nn.Module]] = {
    "principal components": principal,
    "random orthogonal": at_random,
    "whitened (the model)": whitened,
    "whitened, light as normal variation": with_light,
    "fine alignment, linear": trained(lambda c, d: nn.Conv2d(c, d, 1, bias=False)),
    "fine alignment, three layers": trained(lambda c, d: Projector(c, None, d)),
}


# Judging ------------------------------------------------------------------------------------------


class Judge:
    """Density and maps on projected features, whitened again so that all are judged alike."""

    def __init__(self, model: FYD, project: nn.Module, given: Described) -> None:
        self.model, self.project = model, project
        self.given = given._replace(features=project(given.features))
        self.density, self.turn = self._fit(list(range(len(given.features))))

    def _fit(self, chosen: list[int]) -> tuple[DenseGaussian, nn.Module]:
        part = Described(*(None if x is None else x[chosen] for x in self.given))  # type: ignore[arg-type]
        width = part.features.shape[1]
        turn = linear(Whitening.of_samples(*samples(part), width).directions)
        size = (part.features.shape[2], part.features.shape[3])
        density = DenseGaussian(width, size).update(turn(part.features), part.valid)
        rank = min(64, len(chosen) - 1)
        return density.finalize(form=LowRank(STRENGTH, rank), min_count=2), turn

    def maps(self, features: Tensor, theta: Tensor | None, of: Any = None) -> Tensor:
        density, turn = of or (self.density, self.turn)
        support = None if density.supported_everywhere else density.support
        return self.model.maps.map_from(density(turn(features)), theta, support)[0]

    def scores(self, given: Described) -> tuple[Tensor, Tensor]:
        maps = self.maps(self.project(given.features), given.theta)
        return scores_of(maps), maps

    def limit(self) -> tuple[float, float]:
        """The threshold of scores of photographs by densities of the others, and their median."""
        number = len(self.given.features)
        found = torch.empty(number)
        for fold in range(FOLDS):
            mine = list(range(fold, number, FOLDS))
            of = self._fit([i for i in range(number) if i % FOLDS != fold])
            theta = None if self.given.theta is None else self.given.theta[mine]
            found[mine] = scores_of(self.maps(self.given.features[mine], theta, of))
        return limit_of(found.tolist(), 0.99)[0], float(found.median())


def by_light(images: Images) -> tuple[Tensor, Tensor]:
    """All good photographs, in two sets: in ordinary light, and in that which is held out."""
    good = torch.cat([images.train, images.validation, images.test[images.labels == 0]])
    share = (good.amin(1) > BRIGHT).float().mean((1, 2))
    order = share.argsort()
    cut = int(round((1 - HELD_OUT) * len(good)))
    return good[order[:cut]], good[order[cut:]]


def seen_in_views(model: FYD, images: Tensor) -> tuple[Described, list[Described]]:
    """Photographs, and views of them in other light, aligned alike."""
    theta = model.pose(images)
    generator = torch.Generator().manual_seed(0)
    views = [in_other_light(images, generator) for _ in range(VIEWS)]
    return describe(model, images, theta), [describe(model, view, theta) for view in views]


def measure(images: Images) -> dict[str, Any]:
    """Figures of every way at every width."""
    learned = torch.cat([images.train, images.validation])
    config = FYDConfig(aspect=images.aspect, epochs=0)
    model = FYD(config).fit(images.train, images.validation, seed=0)
    ordinary, other = by_light(images)
    second = FYD(config).fit(ordinary, seed=0)
    found: dict[str, Any] = {"ordinary": len(ordinary), "other": len(other), "rows": {}}
    with torch.no_grad():
        given, views = seen_in_views(model, learned)
        test = describe(model, images.test)
        dim, dim_views = seen_in_views(second, ordinary)
        bright = describe(second, other)
        every = given.features.shape[1]
        for width in WIDTHS:
            for name, way in WAYS.items():
                judge = Judge(model, way(width or every, given, views), given)
                scores, maps = judge.scores(test)
                row = figures(scores.numpy(), maps, images)
                judge = Judge(second, way(width or every, dim, dim_views), dim)
                limit, middle = judge.limit()
                scores, _ = judge.scores(bright)
                row["false_alarms"] = float((scores > limit).float().mean())
                row["ordinary_score"] = float(scores.median()) / middle
                found["rows"][f"{name}, {width or every}"] = row
                print(name, width or every, json.dumps(row), flush=True)
    return found


def page(found: dict[str, Any]) -> str:
    """The tables."""
    lines = ["# Whether fine alignment pays", "", *(__doc__ or "").splitlines()[4:12], ""]
    for category, part in found.items():
        lines += [
            f"## {category}",
            "",
            f"Other light: fitted on {part['ordinary']} good photographs, judged on the "
            f"{part['other']} brightest; their median score is over the median of the others.",
            "",
            "| projection, dimensions | image AUROC | pixel AUROC | AUPRO | other light: false "
            "alarms | median score |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in part["rows"].items():
            lines.append(
                f"| {name} | {row['image_auroc']:.3f} | {row['pixel_auroc']:.4f} | "
                f"{row['aupro_30']:.3f} | {row['false_alarms']:.0%} | {row['ordinary_score']:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--categories", default="screw_plate,cookie")
    parser.add_argument("--name", default="fine_alignment")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for category in given.categories.split(","):
        images = read_category(given.data / category, (256, 256), Jitter(), 0)
        found[category] = measure(images)
        (RESULTS / f"{given.name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / f"{given.name}.md").write_text(page(found))


if __name__ == "__main__":
    main()
