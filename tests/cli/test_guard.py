import errno
import os
import signal
import sys
import warnings
from types import SimpleNamespace

import pytest
import typer

from fastalign import errors
from fastalign.cli.guard import explain, guarded, warn


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


def test_a_file_too_large_for_the_memory_is_named_and_others_are_not_blamed():
    error = errors.LargeFileError("x.png: make it smaller")
    error.__cause__ = MemoryError()
    assert explain(error) == (3, f"error: {error}")
    error = errors.InputError("w.pt: damaged")
    error.__cause__ = MemoryError()
    assert explain(error)[0] == 5


def test_an_unexpected_error_asks_for_a_report():
    code, message = explain(ZeroDivisionError("by zero"))
    assert code == 1
    assert "ZeroDivisionError" in message and "--debug" in message


def torch_runs_out_of_memory():
    import torch

    try:
        torch.empty(2**62, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("this machine has 4 EB of memory")


def raised_from(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        torch_runs_out_of_memory(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("can't start new thread"),
        raised_from(RuntimeError("a batch failed"), MemoryError()),
        raised_from(errors.InputError("x.png: the image is damaged"), MemoryError()),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}"[:40],
)
def test_full_memory_is_no_fault_and_says_what_takes_less(error):
    code, message = explain(error)
    assert code == 5 and "out of memory" in message and "--memory-budget" in message
    assert "fault of fastalign" not in message


def test_what_is_not_permitted_or_not_implemented_is_no_lack_of_memory():
    text = "x.so: failed to map segment from shared object: Operation not permitted"
    assert "out of memory" not in explain(ImportError(text))[1]
    refused = "could not create a primitive descriptor for a convolution forward primitive"
    assert "out of memory" not in explain(RuntimeError(refused))[1]


def test_warnings_of_threads_do_not_share_a_line(monkeypatch):
    written = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=written.append, flush=lambda: None))
    warn("x.png: every pixel has the same value")
    assert written == ["warning: x.png: every pixel has the same value\n"]


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (RuntimeError("CUDA error: no kernel image is available for execution"), 5, "--device cpu"),
        (ModuleNotFoundError("No module named 'jinja2'", name="jinja2"), 5, "pip install jinja2"),
        (
            RuntimeError("FASTALIGN_CPU_ISA: avx512 is not supported here"),
            5,
            "environment variable",
        ),
        (errors.ConfigError("memory budget 1 MB: fitting needs more memory"), 2, "needs more"),
    ],
)
def test_what_the_machine_lacks_is_no_fault(error, code, word):
    found, message = explain(error)
    assert found == code and word in message and "fault of fastalign" not in message


def test_a_module_of_ours_that_is_missing_is_our_fault():
    assert explain(ModuleNotFoundError("No module named", name="fastalign.gone"))[0] == 1


def test_sigterm_ends_a_command_as_ctrl_c_does(capsys, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    cleaned = []

    @guarded
    def run(debug: bool = False) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the command went on")
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as end:
        run()
    assert end.value.exit_code == 143 and cleaned == [True]
    assert capsys.readouterr().err == "terminated\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_under_torchrun_sigterm_is_left_alone(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    @guarded
    def run(debug: bool = False) -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    run()
    assert seen == [before]


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
