"""What the readers share: filling the lists of a category folder by folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastalign.data.files import (
    IMAGE_SUFFIXES,
    NORMAL_NAMES,
    direct_images,
    find_folder,
    list_images,
    subfolders,
)
from fastalign.data.masks import MASK_FOLDERS, match_masks, separate_masks
from fastalign.data.samples import ANOMALY, GOOD, UNKNOWN, Category, Sample
from fastalign.errors import InputError


@dataclass
class Parts:
    """The lists of a category while they are collected."""

    root: Path
    layout: str
    notes: list[str] = field(default_factory=list)
    train: list[Sample] = field(default_factory=list)
    validation: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    unlabelled: list[Sample] = field(default_factory=list)

    def good(self, folder: Path, split: str) -> list[Sample]:
        """Good images of a folder; none in it is an error."""
        images, _ = separate_masks(list_images(folder))
        if not images:
            raise InputError(
                f"{folder}: no images in this folder of good ones; put some there. These endings "
                f"count as images: {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        return [Sample(path, GOOD, "good", None, split) for path in images]

    def anomalies(self, folder: Path, mask_folder: Path | None, split: str) -> list[Sample]:
        """Anomalous images of one kind of defect, with their masks where there are any."""
        images, beside = separate_masks(list_images(folder))
        masks, unused = match_masks(images, folder, mask_folder, beside)
        if unused:
            self.notes.append(
                f"{len(unused)} masks belong to no image and are not used; the first: {unused[0]}"
            )
        return [Sample(path, ANOMALY, folder.name, masks.get(path), split) for path in images]

    def labelled(self, folder: Path | None, mask_root: Path | None, split: str) -> list[Sample]:
        """A test folder with one folder per kind, good ones under a name of their own."""
        samples: list[Sample] = []
        if folder is None:
            return samples
        for kind in subfolders(folder):
            name = kind.name.casefold()
            if name in MASK_FOLDERS:
                continue
            if name in NORMAL_NAMES:
                images, _ = separate_masks(list_images(kind))
                samples += [Sample(path, GOOD, "good", None, split) for path in images]
            else:
                mask_folder = find_folder(mask_root, [kind.name]) if mask_root else None
                samples += self.anomalies(kind, mask_folder, split)
        self.flat(folder, split)
        return samples

    def flat(self, folder: Path, split: str) -> None:
        """Images directly in a folder that has no labels."""
        images = direct_images(folder)
        self.unlabelled += [Sample(path, UNKNOWN, "", None, split) for path in images]
        if images:
            self.notes.append(f"{len(images)} images in {folder} have no label")

    def category(self) -> Category:
        """The category, its lists sorted by path."""
        for samples in (self.train, self.validation, self.test, self.unlabelled):
            samples.sort(key=lambda sample: sample.path.as_posix())
        missing = [s for s in self.test if s.label == ANOMALY and s.mask_path is None]
        if missing:
            anomalous = sum(sample.label == ANOMALY for sample in self.test)
            self.notes.append(
                f"{len(missing)} of {anomalous} anomalous test images have no mask; the first: "
                f"{missing[0].path}"
            )
        return Category(
            name=self.root.resolve().name,
            layout=self.layout,
            root=self.root,
            train=self.train,
            validation=self.validation,
            test=self.test,
            unlabelled=self.unlabelled,
            notes=self.notes,
        )


def normal_in(root: Path, *folders: str) -> Path | None:
    """The folder of good images in ``root / folders``, whatever the case of the names."""
    place: Path | None = root
    for name in folders:
        place = find_folder(place, [name]) if place is not None else None
    return find_folder(place, NORMAL_NAMES) if place is not None else None


def find_mask_root(root: Path) -> Path | None:
    """The folder of masks in ``root``."""
    return find_folder(root, MASK_FOLDERS)
