"""What extras of pyproject.toml and the project itself ask for, one requirement on each line.

    python tools/extras.py lint test > requirements.txt

So that packages can be fetched while the native code, which needs torch alone, is compiled. pip
itself names the requirements of a project only together with the project, which it builds first.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


def requirements(project: dict, extras: Sequence[str]) -> list[str]:
    """Of the project and these extras of it; an extra may name others, as ``name[one,other]``.

    Raises:
        SystemExit: the project has no such extra.
    """
    found = list(project["dependencies"])
    left, seen = list(extras), set(extras)
    while left:
        extra = left.pop(0)
        if extra not in project["optional-dependencies"]:
            raise SystemExit(f"error: {extra!r} is no extra of {project['name']}")
        for line in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[([\w, -]+)\]", line)
            others = [] if own is None else re.split(r"\s*,\s*", own[1])
            left += [name for name in others if name not in seen]
            seen.update(others)
            if own is None:
                found.append(line)
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    read = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    print("\n".join(requirements(read["project"], sys.argv[1:])))
