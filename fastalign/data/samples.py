"""What a reader hands over: images with their labels, and the category they make up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastalign.data.listing import PassedOver

GOOD = 0
ANOMALY = 1
UNKNOWN = -1


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        path: the image file.
        label: 0 good, 1 anomalous, -1 unknown.
        defect: kind of defect, the name of its folder; ``"good"`` for good images, ``""`` if
            unknown.
        mask_paths: the masks of an anomalous image, empty if there is none. Where there are several
            a pixel is anomalous that one of them marks: :func:`fastalign.data.load_masks`.
        split: the part of the data it came from: ``"train"``, ``"validation"``, ``"test"``, or the
            name that the data set gives, such as ``"test_private"``.
    """

    path: Path
    label: int
    defect: str
    mask_paths: tuple[Path, ...] = ()
    split: str = "train"

    @property
    def mask_path(self) -> Path | None:
        """The mask of an image that has one, None without.

        Raises:
            ValueError: the image has several; ``mask_paths`` holds them.
        """
        if len(self.mask_paths) > 1:
            raise ValueError(f"{self.path} has {len(self.mask_paths)} masks: use mask_paths.")
        return self.mask_paths[0] if self.mask_paths else None


@dataclass(frozen=True)
class Category:
    """One kind of part, as its folder describes it. All lists are sorted by path.

    Attributes:
        name: name of the folder.
        layout: the layout it was read as; see :data:`fastalign.data.LAYOUTS`.
        root: the folder.
        train: good images to learn from.
        validation: good images that the data set itself keeps apart; often none.
        test: good and anomalous images to evaluate on.
        unlabelled: images whose label is not published or not given.
        passed_over: all other files below the folder, each with the reason why it is not used.
        notes: what the reader noticed and a user may want to know, in sentences.
    """

    name: str
    layout: str
    root: Path
    train: list[Sample]
    validation: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    unlabelled: list[Sample] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def anomalous(self) -> list[Sample]:
        """The anomalous test images."""
        return [sample for sample in self.test if sample.label == ANOMALY]
