"""What wakes whoever looks into a folder: the system's events, where it has them for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from fastalign.errors import BackendError, ConfigError, extra

MODES = ("auto", "events", "poll")
# File systems on which a change by another machine makes no event here, or may make none.
_REMOTE = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "gluster", "lustre", "fuse", "virtiofs")
_MOUNTS = Path("/proc/self/mountinfo")


def choose(mode: str, folder: Path) -> bool:
    """Whether events are used: as ``mode`` says, with ``auto`` where watchfiles is installed and
    the folder lies on a file system of this machine.

    Raises:
        ConfigError: no such mode.
        BackendError: events are asked for, and watchfiles is missing.
    """
    if mode not in MODES:
        raise ConfigError(f"--events {mode!r}: use one of {', '.join(MODES)}.")
    there = find_spec("watchfiles") is not None
    if mode == "events" and not there:
        raise BackendError(
            "--events events needs watchfiles, which is not installed; install it with: "
            f"{extra('watch')}, or let the folder be polled (--events poll)."
        )
    return mode == "events" or (mode == "auto" and there and not is_remote(folder))


def is_remote(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether a folder lies on a network drive or the like; False where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    place, kind = "", ""
    for line in lines:
        about, _, rest = line.partition(" - ")
        fields = about.split()
        if len(fields) < 5 or not rest:
            continue
        # Blanks in names are written as octal numbers.
        point = fields[4].replace("\\040", " ")
        if folder.resolve().is_relative_to(point) and len(point) >= len(place):
            place, kind = point, rest.split()[0]
    return kind.startswith(_REMOTE)


class Events:
    """Sets an event whenever something changes below a folder, from a thread of its own.

    Args:
        folder: the folder.
        wake: what is set.
        lost: told why, where the system gives no events (any more): from then on look now and then.
    """

    def __init__(self, folder: Path, wake: threading.Event, lost: Callable[[str], None]) -> None:
        self._folder, self._wake, self._lost = folder, wake, lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fastalign-events", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        import watchfiles

        try:
            changes = watchfiles.watch(
                self._folder,
                watch_filter=None,
                debounce=200,
                step=50,
                stop_event=self._stop,
                rust_timeout=500,
                raise_interrupt=False,
                ignore_permission_denied=True,
            )
            for _ in changes:
                self._wake.set()
        except Exception as error:
            # Whatever it is (no more inotify watches, the folder gone), looking goes on without.
            if not self._stop.is_set():
                self._lost(f"no events of {self._folder} ({error}); it is polled")
                self._wake.set()
