"""From photographs that were found in a folder to their lines, pictures and messages."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from fastalign.engine.inputs import Input
from fastalign.engine.pictures import PictureWriter
from fastalign.engine.table import Row
from fastalign.errors import InputError
from fastalign.line.finder import Found
from fastalign.line.journal import Journal
from fastalign.line.notify import Notifier
from fastalign.line.scorer import MOST_FAULTS, Judged, LineScorer, Photograph, told
from fastalign.models.detail import Detail
from fastalign.verdict import Verdict


class LineJudge:
    """Judges photographs in their order.

    Args:
        scorer: has the model.
        writer: of pictures.
        journal: gets a line for each.
        notifier: told of some of them.
        notify: verdicts that it is told of.
        save_all: pictures of good ones as well.
        note: told what a user may want to know.

    Attributes:
        judged: how many have a line.
    """

    def __init__(
        self,
        scorer: LineScorer,
        writer: PictureWriter,
        journal: Journal,
        notifier: Notifier,
        notify: Sequence[str],
        save_all: bool,
        note: Callable[[str], None],
    ) -> None:
        self._scorer, self._writer, self._journal = scorer, writer, journal
        self._notifier, self._notify, self._save_all = notifier, notify, save_all
        self._note = note
        self._faults = 0
        self.judged = 0

    def add(self, found: Sequence[Found]) -> Iterator[dict[str, Any]]:
        """Score photographs together; the line of each, once it is in the journal."""
        images = [one.image for one in found if one.image is not None]
        prepared = [self._scorer.prepare(image) for image in images]
        details = iter(self._scorer.score(prepared) if prepared else [])
        for one in found:
            name = one.arrival.name
            if one.image is None:
                row = self._scorer.unread(name, one.reason)
            else:
                row = self._row(name, one.image, next(details))
            wanted = self._notifier.wanted and row.verdict.text in self._notify
            about = {**told(row), **one.arrival.record(), "notify": wanted}
            line = self._journal.add_photograph(about)
            assert line is not None, "what has a line is not found again"
            if wanted:
                self._notifier.tell(line)
            self.judged += 1
            yield line

    def _row(self, name: str, image: Photograph, detail: Detail | Exception) -> Row:
        try:
            if isinstance(detail, Exception):
                raise detail
            judged = self._scorer.say(name, image, detail)
        except Exception as error:
            # One photograph shall not end the line; many one after the other are no photograph's.
            self._faults += 1
            if self._faults >= MOST_FAULTS:
                raise
            self._note(traceback.format_exc())
            reason = f"unexpected error: {type(error).__name__}: {error}"
            return self._scorer.unread(name, reason)
        self._faults = 0
        return self._with_pictures(name, image, judged)

    def _with_pictures(self, name: str, image: Photograph, judged: Judged) -> Row:
        row = judged.row
        if not self._save_all and row.verdict is Verdict.GOOD:
            return row
        place = Input(Path(name), name, Path(PurePosixPath(name)))
        try:
            return replace(row, files=self._writer.write(place, image, judged.map))
        except InputError as error:
            cause = f"its pictures could not be written: {error}"
            return replace(row, reason="; ".join(filter(None, (row.reason, cause))))
