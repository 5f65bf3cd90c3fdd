import errno
import os
import warnings

import pytest
import typer

from fastalign import errors
from fastalign.cli.guard import explain, guarded


def command(error):
    @guarded
    def run(debug: bool = False) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("no such option"), 2),
        (errors.InputError("x.png: truncated"), 3),
        (errors.ArtifactError("m: foreign"), 4),
        (errors.BackendError("cuda is not there"), 5),
        (MemoryError(), 5),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/x"), 3),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division by zero"), 1),
    ],
)
def test_errors_become_a_message_and_a_code(capsys, error, code):
    with pytest.raises(typer.Exit) as end:
        command(error)()
    assert end.value.exit_code == code
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert captured.err.strip()
    if isinstance(error, OSError):
        assert "/somewhere/x: No space left" in captured.err


def test_debug_shows_where(capsys):
    with pytest.raises(typer.Exit):
        command(errors.InputError("x.png: truncated"))(debug=True)
    captured = capsys.readouterr()
    assert "Traceback" in captured.err and captured.err.rstrip().endswith("error: x.png: truncated")


def test_an_unexpected_error_asks_for_a_report():
    code, message = explain(ZeroDivisionError("by zero"))
    assert code == 1
    assert "ZeroDivisionError" in message and "--debug" in message


def test_usage_errors_are_left_to_typer():
    with pytest.raises(typer.BadParameter):
        command(typer.BadParameter("no"))()


def test_warnings_are_one_line_each(capsys):
    @guarded
    def run(debug: bool = False) -> None:
        warnings.warn("three images left out", errors.DataWarning, stacklevel=2)

    run()
    assert capsys.readouterr().err == "warning: three images left out\n"


def test_the_message_is_not_wrapped(capsys):
    name = "/a/very/long/path/" + "x" * 300 + ".png"
    with pytest.raises(typer.Exit):
        command(errors.InputError(f"{name}: truncated"))()
    assert f"error: {name}: truncated\n" == capsys.readouterr().err
