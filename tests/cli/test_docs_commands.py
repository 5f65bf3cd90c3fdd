"""Commands that pages, the unit of systemd and the container file show are ones that there are."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONTAINERFILE = ROOT / "docs" / "examples" / "Containerfile"
LINE = (ROOT / "docs" / "on-the-line.md").read_text(encoding="utf-8")
PROGRAM = "/opt/fastalign/bin/fastalign"


def parse(words: list[str]) -> dict[str, object]:
    """The options of a command that is not run; an error where it takes no such words."""
    from fastalign.cli import app

    name, *arguments = words
    command = typer.main.get_command(app).commands[name]
    return command.make_context(name, list(arguments)).params


def shown(page: Path) -> Iterator[str]:
    """The commands of a page, without what stands for something else."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^    fastalign (.+)", text, re.M):
        yield re.sub(r" \[[A-Z]+\]|\s#.*", "", line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_are_taken(page):
    for line in shown(page):
        parse(shlex.split(line))


def test_what_is_no_command_would_be_seen(tmp_path):
    (tmp_path / "page.md").write_text("    fastalign watch in/ --model m \\\n      --outt out\n")
    with pytest.raises(Exception, match="No such option.*--outt"):
        test_commands_of_a_page_are_taken(tmp_path / "page.md")


def test_the_services_start_commands_that_there_are():
    starts = re.findall(rf"ExecStart={PROGRAM} ([^\n`]+)", LINE)
    assert [parse(shlex.split(start))["model"] for start in starts] == ["/srv/part.safetensors"] * 2
    unit = LINE.partition("```ini\n")[2].partition("```")[0]
    written = parse(shlex.split(starts[0]))["out"]
    assert f"ReadWritePaths={written}\n" in unit


# The container file ------------------------------------------------------------------------------


def instructions() -> dict[str, list[str]]:
    """What the container file says, by instruction."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(encoding="utf-8"), flags=re.M)
    found: dict[str, list[str]] = {}
    for line in filter(str.strip, text.replace("\\\n", " ").splitlines()):
        name, _, rest = line.partition(" ")
        found.setdefault(name, []).append(rest.strip())
    return found


def test_the_container_file_says_each_thing_once():
    found = instructions()
    known = ["FROM", "RUN", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD"]
    assert list(found) == known and all(len(said) == 1 for said in found.values())
    (image,) = re.findall(r"python:(3\.\d+)-slim$", found["FROM"][0])
    assert Requirement(f"a{metadata.metadata('fastalign')['Requires-Python']}").specifier.contains(
        image
    )


def test_it_installs_the_wheels_beside_it_without_a_network():
    (run,) = instructions()["RUN"]
    mount, *_ = re.findall(r"--mount=type=bind,source=(\w+),target=(/\w+)", run)
    environment, install, user = (
        shlex.split(part) for part in re.sub(r"--mount=\S+", "", run).split("&&")
    )
    folder = environment[environment.index("venv") + 1]
    assert install[:2] == [f"{folder}/bin/pip", "install"] and PROGRAM == f"{folder}/bin/fastalign"
    assert "--no-index" in install and install[install.index("--find-links") + 1] == mount[1]
    wanted = Requirement(install[-1])
    extras = set(metadata.metadata("fastalign").get_all("Provides-Extra"))
    assert wanted.name == "fastalign" and wanted.extras <= extras and wanted.extras
    assert user[0] == "useradd" and user[-1] == instructions()["USER"][0]
    # What the page gathers is what it installs, and lies where it looks.
    section = LINE.partition("## As a container\n")[2].partition("\n## ")[0]
    (built,) = re.findall(r"pip wheel .*--wheel-dir (\S+)/(\w+) \"\.\[([\w,]+)\]\"", section)
    assert built[1] == mount[0] and set(built[2].split(",")) == wanted.extras
    assert f"podman build --network none --tag fastalign {built[0]}/\n" in section
    assert f"cp docs/examples/Containerfile {built[0]}/\n" in section
    for tool in re.findall(r"python (tools/\w+\.py)", section):
        assert (ROOT / tool).is_file()


def test_it_starts_what_there_is_on_folders_that_the_page_mounts():
    found = instructions()
    assert json.loads(found["ENTRYPOINT"][0]) == [PROGRAM]
    (script,) = metadata.entry_points(group="console_scripts", name="fastalign")
    assert script.load() is not None and PROGRAM.endswith(f"/{script.name}")
    given = parse(json.loads(found["CMD"][0]))
    section = LINE.partition("## As a container\n")[2].partition("\n## ")[0]
    mounts = re.findall(r"-v [\w/]+:(/\w+)(:ro)?", section)
    read_only = {place for place, how in mounts if how}
    writable = {place for place, how in mounts if not how}
    assert {given["folder"], str(Path(str(given["model"])).parent)} == read_only
    assert {given["out"]} == writable
    (serve,) = re.findall(r"`(serve --[^`]+)`", section)
    served = parse(shlex.split(serve))
    assert served["host"] == "0.0.0.0" and served["token_file"]
    (port,) = re.findall(r"-p 127\.0\.0\.1:\d+:(\d+)", section)
    assert port == found["EXPOSE"][0] == str(served["port"])
