import json
import sys
from pathlib import Path

import pytest

from fastalign.errors import BackendError, ConfigError, InputError
from fastalign.line import wake
from fastalign.line.arrivals import MOST_WAITING, Settling, look_for_photographs
from fastalign.line.journal import Arrival, Journal


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_file_is_due_when_it_has_stayed_as_it_is(clock):
    settling = Settling(2, 10, clock)
    small, large = Arrival("a", 5, 1), Arrival("a", 9, 1)
    settling.see(small)
    clock.now = 1.9
    settling.see(large)
    clock.now = 3.8
    settling.see(large)
    assert settling.due() == [] and settling.next_due() == pytest.approx(0.1)
    clock.now = 4.0
    assert settling.due() == [large] and settling.next_due() == 0
    assert settling.late(large) == pytest.approx(0.1)
    settling.take(large)
    assert len(settling) == 0 and settling.next_due() is None


def test_one_that_cannot_be_read_is_waited_for_ever_less_often_and_not_for_ever(clock):
    settling = Settling(1, 10, clock)
    file = Arrival("a", 5, 1)
    settling.see(file)
    times = []
    while True:
        clock.now += settling.next_due()
        times.append(clock.now)
        if not settling.postpone(file):
            break
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert times[0] == 1 and times[-1] == 10 and len(times) <= 7
    assert gaps[:-1] == sorted(gaps[:-1])


def test_as_many_wait_as_may(clock):
    settling = Settling(1, 10, clock)
    for index in range(MOST_WAITING + 5):
        settling.see(Arrival(str(index), 1, 1))
    assert len(settling) == MOST_WAITING


def test_photographs_are_found_by_their_endings(tmp_path):
    names = ("b.JPG", "a.png", "c.txt", ".d.png", "sub/e.tif", "out/masks/f.png", "g.jpg.part")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dead.png").symlink_to("nowhere")
    found = list(look_for_photographs(tmp_path, str(tmp_path / "out")))
    assert [arrival.name for arrival in found] == ["a.png", "b.JPG", "sub/e.tif"]
    assert {arrival.size for arrival in found} == {5}
    with pytest.raises(OSError):
        list(look_for_photographs(tmp_path / "nowhere", ""))


@pytest.mark.parametrize(
    ("folder", "remote"),
    [
        ("/data/in", False),
        ("/mnt/line 1/in", True),
        ("/mnt/line 1", True),
        ("/mnt/other", False),
        ("/srv/cam", True),
        ("/srv/cam/local", False),
        ("/srv/camera", False),
    ],
)
def test_network_drives_are_known(tmp_path, folder, remote):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /mnt/line\\0401 rw - cifs //nas/line rw\n"
        "31 22 0:41 / /srv/cam rw shared:9 - nfs4 nas:/cam rw\n"
        "32 31 8:2 / /srv/cam/local rw - xfs /dev/sdb1 rw\n"
        "a line of another kind\n"
    )
    assert wake.is_remote(Path(folder), mounts) is remote
    assert not wake.is_remote(Path(folder), tmp_path / "nowhere")


def test_events_are_used_where_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(wake, "find_spec", lambda name: object())
    monkeypatch.setattr(wake, "is_remote", lambda folder: False)
    assert [wake.choose(mode, tmp_path) for mode in wake.MODES] == [True, True, False]
    monkeypatch.setattr(wake, "is_remote", lambda folder: True)
    assert [wake.choose(mode, tmp_path) for mode in wake.MODES] == [False, True, False]
    monkeypatch.setattr(wake, "find_spec", lambda name: None)
    assert not wake.choose("auto", tmp_path)
    with pytest.raises(BackendError, match="watchfiles"):
        wake.choose("events", tmp_path)
    with pytest.raises(ConfigError, match="--events"):
        wake.choose("never", tmp_path)


def test_the_journal_knows_what_it_has_in_eight_bytes_each(tmp_path):
    journal = Journal(tmp_path / "verdicts.jsonl")
    arrivals = [Arrival(f"ü{index}", index, -index) for index in range(300)]
    for arrival in arrivals[::2]:
        journal.add_photograph({**arrival.record(), "notify": False})
    assert journal.add_photograph({**arrivals[0].record(), "notify": False}) is None
    journal.close()
    again = Journal(tmp_path / "verdicts.jsonl")
    assert [again.knows(arrival.key) for arrival in arrivals] == [True, False] * 150
    assert again.photographs == 150
    # Size and time tell a file from an earlier one of its name.
    assert len({Arrival("a", *about).key for about in ((1, 2), (2, 1), (12, 0), (1, 20))}) == 4
    again.close()


def test_names_that_are_no_text_come_back(tmp_path):
    if sys.platform == "win32":
        pytest.skip("names are text there")
    name = b"\xff.png".decode("utf-8", "surrogateescape")
    journal = Journal(tmp_path / "verdicts.jsonl")
    line = journal.add_photograph({**Arrival(name, 1, 1).record(), "notify": True})
    journal.close()
    assert json.loads((tmp_path / "verdicts.jsonl").read_text())["path"] == name
    again = Journal(tmp_path / "verdicts.jsonl")
    ((unnotified, _),) = again.unnotified
    assert again.knows(line["key"]) and unnotified["path"] == name
    again.close()


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"event": "photograph"}',
        '{"event": "photograph", "key": "xyz", "notify": false}',
        '{"event": "photograph", "key": "00", "path": "a"}',
        '{"no": "event"}',
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line):
    (tmp_path / "verdicts.jsonl").write_text('{"event": "begin"}\n' + line + "\n")
    with pytest.raises(InputError, match="line 2 is none of this journal"):
        Journal(tmp_path / "verdicts.jsonl")
