"""Which folders hold good images and which defects, by the names that people give them."""

from __future__ import annotations

import enum
import re
from pathlib import Path

from fastalign.data.files import NORMAL_NAMES, find_folder, subfolders
from fastalign.errors import InputError


class Kind(enum.Enum):
    """What a folder's name says of the images in it."""

    GOOD = "good"
    DEFECTIVE = "defective"  # in general: bad, NG, def_front
    UNKNOWN = "unknown"  # such as the name of a kind of defect
    BOTH = "both"


# Good as a part of a longer name (ok_front, good_parts); the others only where nothing else is
# said, since a cut may be clean and a hole may pass.
_GOOD = frozenset("good goods ok okay normal normals".split())
_GOOD_ALONE = frozenset(
    "pass passed passing accept accepted acceptable clean intact flawless healthy nominal perfect "
    "conforming conform compliant correct positive io gut gutteil gutteile bon bueno buono".split()
)
_BAD = frozenset(
    "bad ng nok ko nio def defect defects defective defectives anomaly anomalies anomalous anomal "
    "abnormal abnormals fault faults faulty fail failed failing failure reject rejected rejects "
    "scrap nonconforming unacceptable incorrect schlecht ausschuss defekt defekte mauvais malo "
    "difettoso".split()
)
_NOT = frozenset("no not non without free un ohne sans sin".split())
# What names say besides: of the view, of what they hold, of the split.
_NEUTRAL = frozenset(
    "front back rear top bottom left right side view views image images img imgs photo photos "
    "picture pictures part parts piece pieces product products item items sample samples data set "
    "train training test testing val valid validation class cls label and of the a cropped crop "
    "resized only all new old".split()
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def kind_of_name(name: str) -> Kind:
    """What the name of a folder says: ``ok_front``, ``Defect-free`` and ``0_normal`` are good,
    ``def_front``, ``NG`` and ``not_ok`` are defective."""
    words = [word.casefold() for word in _WORD.findall(name)]
    together = "".join(words)
    if together in ("io", "ok"):  # i.O., O.K.
        return Kind.GOOD
    if together in ("nio", "notok", "nok", "ng"):
        return Kind.DEFECTIVE
    negated = any(word in _NOT for word in words)
    rest = [word for word in words if word not in _NEUTRAL and word not in _NOT]
    is_good = any(word in _GOOD for word in rest)
    is_good |= len(rest) == 1 and rest[0] in _GOOD_ALONE
    bad = [word in _BAD for word in rest]
    # "Nondefective" and "notgood" in one word.
    for word in rest:
        for no in ("non", "not", "un"):
            is_good |= word.startswith(no) and word[len(no) :] in _BAD
            bad.append(word.startswith(no) and word[len(no) :] in _GOOD | _GOOD_ALONE)
    if is_good and any(bad):
        # Good, without defects.
        return Kind.GOOD if negated else Kind.BOTH
    if is_good:
        return Kind.DEFECTIVE if negated else Kind.GOOD
    if any(bad):
        if negated:
            return Kind.GOOD
        return Kind.DEFECTIVE if len(rest) == 1 else Kind.UNKNOWN
    return Kind.UNKNOWN


def find_good(folder: Path | None) -> Path | None:
    """The folder of good images in ``folder``: good, ok or normal, else the one whose name says so
    in other words; None without one.

    Raises:
        InputError: there are several.
    """
    if folder is None:
        return None
    plain = find_folder(folder, NORMAL_NAMES)
    if plain is not None:
        return plain
    found = [entry for entry in subfolders(folder) if kind_of_name(entry.name) is Kind.GOOD]
    if len(found) > 1:
        listed = ", ".join(entry.name for entry in found)
        raise InputError(
            f"{folder}: the folders {listed} all hold good images by their names; put these into "
            f"one, {folder / 'good'}."
        )
    return found[0] if found else None


def split_kinds(folders: list[Path], learned: Path | None) -> dict[Path, bool]:
    """Whether each of the folders of a test set holds good images.

    Args:
        folders: one for each kind.
        learned: the folder of training images beside them, with folders of its own.

    Raises:
        InputError: the names leave open which images are good.
    """
    kinds = {folder: kind_of_name(folder.name) for folder in folders}
    both = [folder for folder, kind in kinds.items() if kind is Kind.BOTH]
    if both:
        raise InputError(
            f"{both[0]}: the name of this folder speaks of good and of defective images; name one "
            f"of good images {both[0].parent / 'good'}, and others after their defect."
        )
    if folders and Kind.GOOD not in kinds.values():
        unknown = [folder for folder, kind in kinds.items() if kind is Kind.UNKNOWN]
        learned_from = (
            {entry.name.casefold() for entry in subfolders(learned)} if learned else set()
        )
        shared = [folder for folder in unknown if folder.name.casefold() in learned_from]
        if shared or (unknown and Kind.DEFECTIVE in kinds.values()):
            suspect = (shared or unknown)[0]
            raise InputError(
                f"{suspect}: do these images show good parts or a kind of defect? No folder beside "
                f"it is named as one of good images is (good, ok, normal). If it is that one, "
                f"rename it to {suspect.parent / 'good'}; if no image is good, rename the folders "
                "after their defects."
            )
    return {folder: kind is Kind.GOOD for folder, kind in kinds.items()}
