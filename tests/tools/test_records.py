"""What is recorded is of the present sources, and anything else is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from records import inputs  # noqa: E402
from records.checks import CHECKS  # noqa: E402
from records.inputs import digest, imported, included  # noqa: E402
from records.store import Check, StaleRecord, Unavailable, findings, known, make, read  # noqa: E402


@pytest.fixture(scope="module")
def parsed() -> dict[str, Callable]:
    """The steps by which imports are followed, each done once for a file of the checkout."""
    steps = {name: getattr(inputs, name) for name in ("_imports", "_files_of")}

    def once(step: Callable) -> Callable:
        return cache(lambda *given: tuple(step(*given)))

    return {name: once(step) for name, step in steps.items()}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_record_is_of_these_sources(check, parsed, monkeypatch):
    for name, step in parsed.items():
        monkeypatch.setattr(inputs, name, step)
    assert set(known(check)) == set(check.units())


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Two units, which share a header."""
    (tmp_path / "one.cu").write_text('#include "shared.h"\nint one;\n')
    (tmp_path / "two.cu").write_text('#include "shared.h"\nint two;\n')
    (tmp_path / "shared.h").write_text("int shared;\n")
    return tmp_path


@pytest.fixture
def check(sources: Path) -> Check:
    return Check(
        "words",
        units=lambda: ["one", "two"],
        inputs=lambda unit: included([sources / f"{unit}.cu"]),
        find=lambda unit: {"words": [(sources / f"{unit}.cu").read_text().split()]},
        made_with=lambda: {"python": "3"},
        root=sources,
    )


@pytest.fixture
def folder(check: Check, sources: Path) -> Path:
    """Of the record, which is written."""
    assert make(check, folder=sources / "records") == ["one", "two"]
    return sources / "records"


def test_a_record_gives_what_was_found_and_nothing_is_done_twice(check, folder):
    assert findings(check, folder)["two"] == {"words": [["#include", '"shared.h"', "int", "two;"]]}
    before = check.file(folder).read_bytes()
    assert make(check, folder=folder) == []
    assert make(check, every=True, folder=folder) == ["one", "two"]
    assert check.file(folder).read_bytes() == before


def test_one_byte_of_a_source_is_noticed(check, folder, sources):
    (sources / "two.cu").write_text('#include "shared.h"\nint twp;\n')
    with pytest.raises(StaleRecord, match=r"run `make records`:\ntwo: two.cu has changed$"):
        findings(check, folder)
    assert make(check, folder=folder) == ["two"]
    assert "twp;" in findings(check, folder)["two"]["words"][0]


def test_what_is_included_counts_and_by_whom(check, folder, sources):
    (sources / "shared.h").write_text("long shared;\n")
    with pytest.raises(StaleRecord, match="one: shared.h has changed\ntwo: shared.h has changed"):
        findings(check, folder)
    (sources / "shared.h").write_text("int shared;\n")
    (sources / "more.h").write_text("")
    (sources / "one.cu").write_text('#include "more.h"\nint one;\n')
    with pytest.raises(StaleRecord, match="more.h has come to be used, one.cu has changed, shared"):
        findings(check, folder)


def test_facts_and_units_count(check, folder):
    with pytest.raises(StaleRecord, match="flags has come to be used"):
        findings(replace(check, facts=lambda unit: {"flags": ["-O3"]}), folder)
    with pytest.raises(StaleRecord, match="three is not in it"):
        findings(replace(check, units=lambda: ["one", "two", "three"]), folder)
    with pytest.raises(StaleRecord, match="two: there is no such thing"):
        findings(replace(check, units=lambda: ["one"]), folder)


def test_a_record_that_was_edited_is_noticed(check, folder):
    path = check.file(folder)
    path.write_text(path.read_text().replace("two;", "tow;"))
    with pytest.raises(StaleRecord, match="what it says of two was not written by the tool"):
        findings(check, folder)
    path.write_text("{")
    with pytest.raises(StaleRecord, match="words.json is damaged"):
        findings(check, folder)
    path.unlink()
    with pytest.raises(StaleRecord, match="there is no record words.json"):
        findings(check, folder)
    assert make(check, folder=folder) == ["one", "two"]


def test_what_is_done_stays_where_the_rest_fails(check, folder, sources):
    def fails(unit: str) -> object:
        if unit == "two":
            raise RuntimeError("does not compile")
        return "found"

    (sources / "shared.h").write_text("long shared;\n")
    with pytest.raises(RuntimeError, match="does not compile"):
        make(replace(check, find=fails), folder=folder)
    assert read(check, folder)["one"]["findings"] == "found"
    with pytest.raises(StaleRecord, match="`make records`:\ntwo: shared.h has changed"):
        findings(check, folder)


def test_without_a_tool_nothing_is_written(check, folder, sources):
    def missing() -> dict[str, str]:
        raise Unavailable("no compiler")

    before = check.file(folder).read_bytes()
    assert make(replace(check, made_with=missing), folder=folder) == []
    (sources / "shared.h").write_text("long shared;\n")
    with pytest.raises(Unavailable, match="no compiler"):
        make(replace(check, made_with=missing), folder=folder)
    assert check.file(folder).read_bytes() == before


def test_a_digest_is_the_same_on_every_machine(tmp_path):
    text = 'int a;  // one\n\n/* two\n */\nconst char* b = "// no comment";\n'
    same = tmp_path / "elsewhere" / "a.h"
    same.parent.mkdir()
    same.write_bytes(
        text.replace("// one", "").replace("/* two\n */", "").replace("\n", "\r\n").encode()
    )
    (tmp_path / "a.h").write_text(text)
    assert digest(same) == digest(tmp_path / "a.h")
    (tmp_path / "a.h").write_text(text.replace("// no comment", "// a comment"))
    assert digest(same) != digest(tmp_path / "a.h")
    # Of Python, where a comment may be an instruction to a tool, everything counts.
    (tmp_path / "a.py").write_text("a = 1\n")
    (tmp_path / "b.py").write_text("a = 1  # one\n")
    assert digest(tmp_path / "a.py") != digest(tmp_path / "b.py")


def test_imports_are_followed_through_tools_tests_and_kernels(tmp_path):
    for path, text in {
        "tools/start.py": "from helpers import parts\nimport fastalign.kernels.op\n",
        "tests/ops/helpers/__init__.py": "",
        "tests/ops/helpers/parts.py": "import json, fastalign.ops.backends\n",
        "kernels/__init__.py": "",
        "kernels/op.py": "from fastalign.ops.layout import empty\n",
        "fastalign/ops/layout.py": "from fastalign.ops import backends\n",
        "fastalign/ops/backends.py": "",
        "tools/other.py": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = imported([tmp_path / "tools" / "start.py"], tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in found} == {
        "tools/start.py",
        "tests/ops/helpers/__init__.py",
        "tests/ops/helpers/parts.py",
        "kernels/__init__.py",
        "kernels/op.py",
        "fastalign/ops/layout.py",
    }


def test_a_changed_kernel_of_the_project_makes_its_record_stale(repository, tmp_path):
    """In a copy; the other sources' records stay good."""
    for folder in ("csrc", "tools", "tests/records"):
        shutil.copytree(repository / folder, tmp_path / folder)
    command = [sys.executable, str(tmp_path / "tools" / "make_records.py")]
    command += ["--list", "machine_code"]
    kernel = tmp_path / "csrc" / "cuda" / "warp_theta.cuh"
    kernel.write_text(kernel.read_text().replace("0", "1", 1))
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    source = "warp_affine_backward.cu"
    assert said == f"machine_code, {source}: csrc/cuda/warp_theta.cuh has changed\n"


def test_records_hold_no_paths_of_a_machine(repository):
    for check in CHECKS:
        for entry in json.loads(check.file().read_text()).values():
            assert not [path for path in entry["depends"] if Path(path).is_absolute()]
        assert str(repository) not in check.file().read_text()
