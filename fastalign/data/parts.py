"""What the readers share: filling the lists of a category folder by folder."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from fastalign.data.beside import tell_apart
from fastalign.data.classes import find_good, split_kinds
from fastalign.data.files import IMAGE_SUFFIXES, NORMAL_NAMES, find_folder, subfolders
from fastalign.data.listing import describe, list_images, passed_over_below
from fastalign.data.masks import (
    MASK_FOLDERS,
    MAYBE_MASK_FOLDERS,
    Masks,
    load_masks,
    match_masks,
)
from fastalign.data.samples import ANOMALY, GOOD, UNKNOWN, Category, Sample
from fastalign.data.suspects import looks_like_mask, refuse_masks
from fastalign.errors import InputError
from fastalign.words import count, part_of

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "rgb")
"""Names of a folder of photographs that lies beside one of masks."""

SHAPE_FOLDERS = ("xyz", "depth", "depths", "pcd", "pointcloud", "point_cloud", "normals")
"""Names of a folder of what else a camera for shapes gives of each photograph."""

_READERS = 4
_SHOWN = 3


@dataclass
class Parts:
    """The lists of a category while they are collected.

    ``reasons`` says of files, and of folders with all that is in them, why they are not used;
    ``read`` holds files that were used otherwise than as an image or a mask of one.
    """

    root: Path
    layout: str
    notes: list[str] = field(default_factory=list)
    train: list[Sample] = field(default_factory=list)
    validation: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    unlabelled: list[Sample] = field(default_factory=list)
    reasons: dict[Path, str] = field(default_factory=dict)
    read: set[Path] = field(default_factory=set)
    _looked_in: dict[Path, Path] = field(default_factory=dict)

    def good(self, folder: Path, split: str) -> list[Sample]:
        """Good images of a folder; none in it is an error, and so is a mask that marks a defect."""
        samples = self.good_if_any(folder, split)
        if not samples:
            raise InputError(
                f"{folder}: no images in this folder of good ones; put some there. These endings "
                f"count as images: {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        return samples

    def good_if_any(self, folder: Path, split: str) -> list[Sample]:
        """Good images of a folder, which may be empty."""
        images, masks = self._open(folder, None)
        for image, marked in zip(masks, marks(masks), strict=True):
            if marked:
                raise InputError(
                    f"{masks[image][0]}: this mask marks a defect in {image}, which lies among the "
                    "good photographs; move it to a folder of defects, or take the mask out."
                )
            self.read.update(masks[image])
        return [Sample(path, GOOD, "good", (), split) for path in images]

    def flat_good(self, folder: Path, split: str) -> list[Sample]:
        """Good images directly in a folder, whatever lies in the folders below it."""
        return [Sample(path, GOOD, "good", (), split) for path in list_images(folder, below=False)]

    def anomalies(self, folder: Path, mask_folder: Path | None, split: str) -> list[Sample]:
        """Anomalous images of one kind of defect, with their masks where there are any."""
        images, masks = self._open(folder, mask_folder)
        return [Sample(path, ANOMALY, folder.name, masks.get(path, ()), split) for path in images]

    def by_masks(self, folder: Path, split: str) -> None:
        """Images without folders of kinds: a mask that is not blank makes one anomalous. Where some
        are blank every good image has one, and an image without is of unknown kind; where none is
        blank, only defects have masks."""
        images, masks = self._open(folder, None)
        marked = dict(zip(masks, marks(masks), strict=True))
        all_have_masks = not all(marked.values())
        for image in images:
            if image not in masks and all_have_masks:
                self._aside(image, (), "without a mask, and so not known to be good")
            elif not marked.get(image, False):
                self.read.update(masks.get(image, ()))
                samples = self.train if split == "train" else self.test
                samples.append(Sample(image, GOOD, "good", (), split))
            elif split == "train":
                self._aside(image, masks[image], "defect in a training image, by its mask")
            else:
                self.test.append(Sample(image, ANOMALY, "defect", masks[image], split))

    def move_good(self, samples: Sequence[Sample]) -> None:
        """Learn from good images that were listed to evaluate with."""
        moved = set(samples)
        self.test = [sample for sample in self.test if sample not in moved]
        self.train += [replace(sample, split="train") for sample in samples]

    def labelled(self, folder: Path | None, mask_root: Path | None, split: str) -> list[Sample]:
        """A test folder with one folder per kind, good ones under a name of their own."""
        samples: list[Sample] = []
        if folder is None:
            return samples
        own_masks = mask_folder_in(folder)
        kinds = [kind for kind in subfolders(folder) if kind != own_masks]
        learned = find_folder(self.root, ["train"])
        for kind, is_good in split_kinds(kinds, learned).items():
            if is_good:
                samples += self.good_if_any(kind, split)
            else:
                masks = find_folder(mask_root, [kind.name]) if mask_root else None
                samples += self.anomalies(kind, masks, split)
        self.flat(folder, split)
        return samples

    def flat(self, folder: Path, split: str) -> None:
        """Images directly in a folder that has no labels."""
        images = list_images(folder, below=False)
        self.unlabelled += [Sample(path, UNKNOWN, "", (), split) for path in images]
        if images:
            self.notes.append(f"{folder}: {count(len(images), 'image', 'have no label')}")

    def leave(self, folders: Sequence[Path | None], reason: str) -> None:
        """Say why folders are not used; those that are None do not count."""
        self.reasons.update((folder, reason) for folder in folders if folder is not None)

    def category(self) -> Category:
        """The category, its lists sorted by path, and every other file accounted for.

        Raises:
            InputError: some of the photographs are masks.
        """
        for samples in (self.train, self.validation, self.test, self.unlabelled):
            samples.sort(key=lambda sample: sample.path.as_posix())
        everything = [*self.train, *self.validation, *self.test, *self.unlabelled]
        refuse_masks([sample.path for sample in everything], self.root)
        if missing := self._missing_masks():
            self.notes.append(missing)
        masks = (mask for sample in everything for mask in sample.mask_paths)
        used = {*(sample.path for sample in everything), *masks, *self.read}
        passed_over = passed_over_below(
            self.root, used, self.reasons, f"no place in the layout {self.layout}"
        )
        return Category(
            name=self.root.resolve().name,
            layout=self.layout,
            root=self.root,
            train=self.train,
            validation=self.validation,
            test=self.test,
            unlabelled=self.unlabelled,
            passed_over=passed_over,
            notes=[*self.notes, *describe(passed_over, self.root)],
        )

    def _open(self, folder: Path, mask_folder: Path | None) -> tuple[list[Path], Masks]:
        """The photographs of a folder and their masks, which lie in ``mask_folder``, in a folder
        within, or beside the photographs."""
        masks_within = mask_folder_in(folder)
        shapes = [f for f in subfolders(folder) if f.name.casefold() in SHAPE_FOLDERS]
        self.leave(shapes, "shapes and no photographs")
        aside = {*shapes, masks_within}
        files = [path for path in list_images(folder) if aside.isdisjoint(path.parents)]
        photographs = find_folder(folder, IMAGE_FOLDERS)
        if photographs is None or any(photographs not in path.parents for path in files):
            photographs = folder
        images, beside, same = tell_apart(files)
        looked_in = mask_folder or masks_within
        masks, unused = match_masks(images, photographs, looked_in, beside, same)
        self.leave(unused, "mask of no image")
        self._looked_in.update((image, looked_in or photographs) for image in images)
        return images, masks

    def _aside(self, image: Path, masks: Sequence[Path], reason: str) -> None:
        self.leave([image], reason)
        self.leave(masks, "mask of an image that is not used")

    def _missing_masks(self) -> str | None:
        """A sentence about anomalous images without a mask, and the names that were expected."""
        anomalous = [sample for sample in self.test if sample.label == ANOMALY]
        missing = [sample.path for sample in anomalous if not sample.mask_paths]
        if not missing:
            return None
        text = (
            f"{part_of(len(missing), len(anomalous), 'anomalous test image', 'have no mask')}; the "
            f"first: {missing[0]}, whose mask would be {missing[0].stem}_mask.png"
        )
        place = self._looked_in.get(missing[0])
        if place is None or place in missing[0].parents:
            return text + ", in ground_truth/<defect>"
        names = [path.name for path in list_images(place)]
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        return f"{text} in {place}, which holds {shown or 'no image'}"


def marks(masks: Masks) -> list[bool]:
    """Whether each image's masks mark anything."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda paths: bool(load_masks(paths).any()), masks.values()))


def normal_in(root: Path, *folders: str) -> Path | None:
    """The folder of good images in ``root / folders``: see :func:`find_good`."""
    place: Path | None = root
    for name in folders:
        place = find_folder(place, [name]) if place is not None else None
    if place is not None and not folders and list_images(place, below=False):
        # Beside photographs that are good themselves only a plain name says otherwise.
        return find_folder(place, NORMAL_NAMES)
    return find_good(place)


def mask_folder_in(folder: Path) -> Path | None:
    """The folder of masks in ``folder``; under a name that photographs might have as well, such as
    ``label``, it counts if what it holds looks like masks.

    Raises:
        InputError: there are several.
    """
    found = find_folder(folder, MASK_FOLDERS)
    if found is None and (maybe := find_folder(folder, MAYBE_MASK_FOLDERS)) is not None:
        images = list_images(maybe)
        if images and all(looks_like_mask(path) for path in images[:_SHOWN]):
            return maybe
    return found
