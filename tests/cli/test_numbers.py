"""Every option of every command that is a number refuses what is none, before anything else."""

import inspect
import typing

import pytest

from fastalign.cli.app import app
from fastalign.cli.numbers import Number

TEXTS = ("nan", "inf", "-inf", "1e999", "12abc", "", "9" * 400)


def options():
    """(command, option info, annotation) of all options that typer reads as a value."""
    for command in app.registered_commands:
        callback = inspect.unwrap(command.callback)
        for name, hint in typing.get_type_hints(callback, include_extras=True).items():
            if typing.get_origin(hint) is typing.Annotated:
                kind, info = typing.get_args(hint)[:2]
                yield callback.__name__, name, kind, info


def numbers():
    return [
        (command, info.parser)
        for command, _, _, info in options()
        if isinstance(info.parser, Number)
    ]


def test_every_number_is_read_by_the_one_check():
    for command, name, kind, info in options():
        kinds = {kind, *typing.get_args(kind)}
        assert not kinds & {int, float} or isinstance(info.parser, Number), f"{command}: {name}"
    assert {parser.flag for _, parser in numbers()} >= {"--threshold", "--seed", "--threads"}


@pytest.mark.parametrize(
    ("command", "parser"), numbers(), ids=lambda value: getattr(value, "flag", value)
)
def test_what_is_no_number_leaves_with_2_and_the_name_of_the_option(run, tmp_path, command, parser):
    texts = [*TEXTS]
    if parser.least > -float("inf"):
        texts.append(str(parser.least - 1))
    if parser.most < float("inf"):
        texts.append(str(parser.most + 1))
    if parser.is_whole:
        texts += ["1.5", "1e3", "1_0", "٣"]
    arguments = {"export": ["--to", "onnx"]}
    arguments |= dict.fromkeys(("predict", "evaluate", "validate"), ["-m", "m"])
    given = [] if command in ("demo", "bench", "info") else ["missing"]
    out = [] if command in ("info", "threshold", "validate") else ["--out", tmp_path / "out"]
    for text in texts:
        option = f"{parser.flag}={text}"
        outcome = run(command, *given, *arguments.get(command, []), *out, option)
        assert outcome.code == 2, (option, outcome.err)
        assert parser.flag in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "option", "texts"),
    [
        ("fit", "--image-size", ("nan", "-1", "15", "1e9", "256xinf", "9" * 400, "1x2x3")),
        ("fit", "--layers", ("nan", "1,inf", "9" * 400, "")),
        ("fit", "--memory-budget", ("nan", "infGB", "-1GB", "0", "9" * 400 + "GB")),
        ("fit", "--set", ("sigma=NaN", "sigma=Infinity", "sigma=1e999", "search_images=true")),
        ("predict", "--picture-size", ("nan", "0", "1.5", "9" * 400)),
        ("predict", "--memory-budget", ("nan", "1e999")),
        ("evaluate", "--eval-size", ("nan", "0", "1_0", "9" * 400)),
    ],
)
def test_texts_with_numbers_in_them(run, whole_ring, fitted, tmp_path, command, option, texts):
    model = [] if command == "fit" else ["-m", fitted]
    source = whole_ring / "test" if command == "predict" else whole_ring
    for text in texts:
        outcome = run(command, source, *model, "--out", tmp_path / "out", f"{option}={text}")
        assert outcome.code == 2, (text, outcome.err)
        assert "unexpected" not in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())
