"""Folders of good images by the names that people give them; never a guess."""

from __future__ import annotations

import pytest

from fastalign.data import open_category
from fastalign.data.classes import Kind, kind_of_name
from fastalign.errors import InputError


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            Kind.GOOD,
            "good Good OK ok okay normal NORMAL ok_front okBack Good-Parts 0_normal good1 i.O. iO "
            "O.K. defect-free no_defect NonDefective nondefective without_defects not_defective "
            "passed pass Accept clean gut test_ok class0_good good_images OK_top_view unfaulty "
            "good_no_defect",
        ),
        (
            Kind.DEFECTIVE,
            "def_front NG ng nok NOK not_ok NotOK not-good bad bad_parts defective defect 1_defect "
            "anomaly anomalous abnormal Fail rejected KO n.i.O. nio non_conforming notgood faulty "
            "no_good ungood NG_side",
        ),
        (Kind.UNKNOWN, "scratch broken_large contamination token book 000 defect_hole"),
        (Kind.BOTH, "good_and_bad ok_defect normal_anomaly"),
    ],
)
def test_names_say_what_they_say(kind, names):
    wrong = {name: kind_of_name(name) for name in names.split() if kind_of_name(name) is not kind}
    assert not wrong


@pytest.mark.parametrize(
    ("good", "bad"),
    [("ok_front", "def_front"), ("OK", "NG"), ("Good", "Bad"), ("passed", "failed"), ("iO", "niO")],
)
def test_two_classes_in_training_and_test(make, good, bad):
    root = make(*(f"{split}/{kind}/0.png" for split in ("train", "test") for kind in (good, bad)))
    category = open_category(root)
    assert [sample.path.parent.name for sample in category.train] == [good]
    assert {(s.path.parent.name, s.label) for s in category.test} == {(good, 0), (bad, 1)}
    assert "learned from" in " ".join(category.notes)


def test_two_classes_in_one_folder(make):
    category = open_category(make("ok_front/0.png", "def_front/0.png"))
    assert [sample.path.parent.name for sample in category.train] == ["ok_front"]
    assert [sample.defect for sample in category.test] == ["def_front"]


@pytest.mark.parametrize(
    "paths",
    [
        ("train/gutteil_x/0.png", "test/gutteil_x/0.png", "test/kratzer/0.png"),
        ("train/good/0.png", "test/ausgeliefert/0.png", "test/NG/0.png"),
        ("train/good/0.png", "test/good_and_bad/0.png", "test/scratch/0.png"),
        ("train/ok_front/0.png", "train/ok_back/0.png", "test/ok_front/0.png"),
    ],
)
def test_what_may_be_good_or_not_is_asked_about(make, paths):
    with pytest.raises(InputError, match="rename it|into one|speaks of good and of defective"):
        open_category(make(*paths))


def test_kinds_of_defects_alone_and_a_folder_beside_photographs_are_as_ever(make):
    category = open_category(make("train/good/0.png", "test/scratch/0.png", "test/hole/1.png"))
    assert [sample.label for sample in category.test] == [1, 1]
    category = open_category(make("set/0.png", "set/1.png", "set/ok_old/2.png") / "set")
    assert len(category.train) == 2
