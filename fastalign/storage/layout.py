"""Which room of a model each tensor of a file belongs to.

A file of version 1 names tensors without their rooms; the table gives both names. What ends with a
dot stands for all names that begin so.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Rooms = Mapping[str, Mapping[str, Tensor]]

POSE, FEATURES, DENSITY, MAPS = ROOMS = ("pose", "features", "density", "maps")

# Room, name in the room, name in the file.
_PLACES = (
    (POSE, "aligner.", "aligner."),
    (POSE, "ica.", "ica."),
    (POSE, "template.", "template."),
    (FEATURES, "backbone.", "backbone."),
    (FEATURES, "fca.", "fca."),
    (FEATURES, "adapters.", "adapters."),
    (DENSITY, "selection", "selection"),
    (DENSITY, "directions", "directions"),
    (DENSITY, "gaussians.", "density."),
    (DENSITY, "calibration", "calibration"),
    (MAPS, "image_threshold", "image_threshold"),
    (MAPS, "pixel_threshold", "pixel_threshold"),
    (MAPS, "regions.", "regions."),
)


def with_room(name: str) -> str:
    """The name of a tensor of a file with its room before it, ``density.calibration``; one that has
    its room already, or has none, stays."""
    if _moved(name, [(f"{room}.{inner}", "", "") for room, inner, _ in _PLACES]):
        return name
    found = _moved(name, [(place, room, inner) for room, inner, place in _PLACES])
    return name if found is None else ".".join(found)


def rooms_of(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file, or of a ``state_dict()``, by room.

    Raises:
        KeyError: names that no room has.
    """
    rooms: dict[str, dict[str, Tensor]] = {room: {} for room in ROOMS}
    unexpected = []
    for name, tensor in tensors.items():
        room, _, inner = with_room(name).partition(".")
        if room in rooms and inner:
            rooms[room][inner] = tensor
        else:
            unexpected.append(name)
    if unexpected:
        raise KeyError(f"unexpected tensors: {', '.join(unexpected)}")
    return rooms


def in_file(rooms: Rooms) -> dict[str, Tensor]:
    """The tensors of all rooms by their names in a file.

    Raises:
        KeyError: names that a file has no place for.
    """
    tensors = {}
    for room, inside in rooms.items():
        places = [(inner, "", place) for owner, inner, place in _PLACES if owner == room]
        for name, tensor in inside.items():
            found = _moved(name, places)
            if found is None:
                raise KeyError(f"tensor {name} of room {room} has no place in a file")
            tensors[found[1]] = tensor
    return tensors


def _moved(name: str, places: list[tuple[str, str, str]]) -> tuple[str, str] | None:
    """The second and the renamed third entry of the place that ``name`` has."""
    for old, room, new in places:
        if name == old or (old.endswith(".") and name.startswith(old)):
            return room, new + name.removeprefix(old)
    return None
