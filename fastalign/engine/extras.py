"""The optional parts of this installation: what they need, and what of it is there."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires
from typing import TypedDict

from fastalign.engine.environment import package_version

# Extras for those who use the package; the others are for work on it.
USERS = ("anomalib", "export", "heif", "openvino", "ray", "serve", "watch")
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)")


class Extra(TypedDict):
    """Packages of an extra with their versions, those that are missing, and the line for them."""

    installed: dict[str, str]
    missing: list[str]
    install: str


def extras() -> dict[str, Extra]:
    """Every extra for users, by name."""
    try:
        lines = requires("fastalign") or []
    except PackageNotFoundError:
        # A source tree that was put on the path says nothing about what it needs.
        lines = []
    found: dict[str, Extra] = {}
    for name in USERS:
        installed: dict[str, str] = {}
        missing = []
        wanted = []
        for line in lines:
            requirement, _, marker = line.partition(";")
            if not re.search(rf"extra\s*==\s*['\"]{name}['\"]", marker):
                continue
            match = _REQUIREMENT.match(requirement)
            package = match[1] if match else requirement
            version = package_version(package)
            if version is None:
                missing.append(package)
                wanted.append(requirement.strip())
            else:
                installed[package] = version
        line = "pip install " + " ".join(f'"{one}"' for one in wanted) if wanted else ""
        found[name] = {"installed": installed, "missing": missing, "install": line}
    return found
