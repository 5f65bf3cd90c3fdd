import subprocess
import sys

import pytest

COMMANDS = ("fit", "evaluate", "predict", "export", "bench", "info", "demo")


def test_help_names_every_command_and_exit_code(run):
    outcome = run("--help")
    assert outcome.code == 0
    for word in (*COMMANDS, "Exit codes", "130 interrupted"):
        assert word in outcome.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run, command):
    outcome = run(command, "--help")
    assert outcome.code == 0
    assert f"Example: fastalign {command} " in outcome.out


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_loads_nothing_heavy(command):
    code = (
        "import sys\nfrom fastalign.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'timm', 'sklearn', 'jinja2'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=True
    )
    assert result.stdout.rstrip().endswith("heavy: []")


def test_version(run):
    import fastalign

    outcome = run("--version")
    assert (outcome.code, outcome.out.strip()) == (0, f"fastalign {fastalign.__version__}")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("fit",),
        ("fit", "somewhere"),
        ("fit", "somewhere", "--out", "x", "--align", "sideways"),
        ("evaluate", "somewhere", "--out", "x"),
        ("predict", "--model", "m", "--out", "x"),
        ("predict", "x", "--model", "m", "--out", "x", "--batch-size", "0"),
        ("export", "m", "--out", "x.onnx"),
        ("export", "m", "--to", "tflite", "--out", "x"),
    ],
)
def test_wrong_usage_leaves_with_2(run, arguments):
    outcome = run(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err


def test_module_and_command_are_the_same():
    result = subprocess.run(
        [sys.executable, "-m", "fastalign", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("fastalign ")
