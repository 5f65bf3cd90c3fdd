"""What all steps of a fit work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fastalign.distributed import World
from fastalign.errors import ConfigError
from fastalign.models.config import FYDConfig
from fastalign.models.fitting.source import ImageSource, spread
from fastalign.models.fitting.survey import Survey
from fastalign.models.memory import MemoryPlan
from fastalign.models.progress import Progress


@dataclass(frozen=True)
class Setting:
    """Images, options and processes of a fit.

    Attributes:
        config: the options of the model.
        train: images of good parts.
        validation: others, for the thresholds, or None.
        seed: of everything random.
        world: the processes that fit one model together.
        progress: told about the course.
        plan: how many images at a time, and in how many bands.
        survey: what a look at all images has shown.
        turns: positions of the images that take turns for the thresholds.
    """

    config: FYDConfig
    train: ImageSource
    validation: ImageSource | None
    seed: int
    world: World
    progress: Progress
    plan: MemoryPlan
    survey: Survey
    turns: Sequence[int]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.train.device

    @property
    def judged(self) -> list[int]:
        """Training images to judge alignment on, spread evenly if there are more than asked for."""
        return spread(len(self.train), self.config.search_images)

    @property
    def images(self) -> dict[str, int]:
        """How many there are, by set."""
        validation = 0 if self.validation is None else len(self.validation)
        return {"train": len(self.train), "validation": validation}

    def check_agreement(self, settings: Mapping[str, Any], resume: bool) -> None:
        """All processes have to fit the same model on the same images.

        Raises:
            ConfigError: they were given different things.
        """
        own: dict[str, Any] = {
            "seed": self.seed,
            "training images": self.images["train"],
            "validation images": self.images["validation"],
            "resume": resume,
            **asdict(self.config),
            # Threads change the rounding alone.
            **{name: settings[name] for name in settings.keys() - {"config", "threads"}},
        }
        first = self.world.once(lambda: own, "the start of the fit")
        with self.world.together("the start of the fit"):
            names = sorted(own.keys() | first.keys())
            differing = [name for name in names if own.get(name) != first.get(name)]
            if differing:
                listed = (
                    f"{name} {own.get(name)!r}, not {first.get(name)!r}" for name in differing
                )
                raise ConfigError(
                    f"the processes of one fit were given different things: {'; '.join(listed)} as "
                    "the first one; give all of them the same, the whole data set included."
                )
