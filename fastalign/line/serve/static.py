"""The files of the page, by the path at which they are asked for."""

from __future__ import annotations

from importlib.resources import files

_SERVE, _REPORT = "fastalign.line.serve", "fastalign.report"
# Path: package, file and type. The slider is the report's.
PAGE = {
    "/": (_SERVE, "page.html", "text/html"),
    "/page.css": (_SERVE, "page.css", "text/css"),
    "/page.js": (_SERVE, "page.js", "text/javascript"),
    "/threshold.css": (_REPORT, "threshold.css", "text/css"),
    "/threshold.js": (_REPORT, "threshold.js", "text/javascript"),
}


def content(path: str) -> tuple[bytes, str]:
    """What is answered at one of the paths of :data:`PAGE`, and its type."""
    package, name, kind = PAGE[path]
    return files(package).joinpath(name).read_bytes(), kind
