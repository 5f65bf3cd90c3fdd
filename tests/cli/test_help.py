import inspect
import subprocess
import sys
import typing

import pytest

COMMANDS = (
    "fit",
    "evaluate",
    "predict",
    "watch",
    "serve",
    "roi",
    "threshold",
    "update",
    "compare",
    "export",
    "validate",
    "bench",
    "info",
    "demo",
)


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


def test_help_loads_nothing_heavy():
    code = f"""
import sys
from fastalign.cli import main
for name in {COMMANDS!r}:
    sys.argv = ["fastalign", name, "--help"]
    try:
        main()
    except SystemExit:
        pass
    heavy = {{"torch", "numpy", "PIL", "timm", "sklearn", "jinja2"}} & set(sys.modules)
    print("heavy", name, sorted(heavy), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.splitlines() == [f"heavy {name} []" for name in COMMANDS]
    for name in COMMANDS:
        assert f"Example: fastalign {name} " in result.stdout


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


def test_an_end_looks_for_no_garbage_in_what_was_imported():
    code = (
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 10_000))\n"
        "from fastalign.cli import main\n"
        "sys.argv = ['fastalign', 'nonsense']\n"
        "main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "True\n")


def options():
    """(command, name, kind of the value, option) of all commands, arguments left out."""
    from fastalign.cli.app import app

    for command in app.registered_commands:
        callback = inspect.unwrap(command.callback)
        defaults = inspect.signature(callback).parameters
        for name, hint in typing.get_type_hints(callback, include_extras=True).items():
            if typing.get_origin(hint) is typing.Annotated:
                kind, info = typing.get_args(hint)[:2]
                # In Annotated the first name stands in the place of the default.
                if str(info.default).startswith("--"):
                    yield command.callback.__name__, kind, info, defaults[name].default


def test_every_option_shows_its_default_and_flags_take_no_value():
    for command, kind, info, default in options():
        name = f"{command} {info.default}"
        if kind is bool or bool in typing.get_args(kind):
            assert info.metavar == "", name
        elif default is None and info.default != "--set":
            assert isinstance(info.show_default, str), name


def test_the_defaults_that_help_states_are_those_of_the_model():
    from fastalign.models.config import FYDConfig
    from fastalign.nn.prior import SHRINKAGE

    config = FYDConfig()
    stated = {
        info.default.strip("-").replace("-", "_"): info.show_default
        for command, _, info, _ in options()
        if command == "fit" and isinstance(info.show_default, str)
    }
    for name in ("family", "backbone", "channels", "epochs", "batch_size"):
        assert stated[name] == str(getattr(config, name))
    assert stated["shrinkage"] == str(SHRINKAGE)
    assert stated["threshold_quantile"] == str(config.threshold_quantile)
    assert [info.show_default for _, _, info, _ in options() if info.default == "--epochs"] == [
        str(config.epochs)
    ] * 2


def test_the_names_that_help_lists_are_those_that_there_are():
    import dataclasses

    from fastalign.cli.fit import Family
    from fastalign.cli.options import LAYOUT_NAMES, MapFormat, OverlayFormat
    from fastalign.data import LAYOUTS
    from fastalign.engine.pictures import MAP_FORMATS, OVERLAY_FORMATS
    from fastalign.models.config import FYDConfig
    from fastalign.ops.affine import FAMILIES

    assert [family.value for family in Family] == ["auto", *FAMILIES]
    assert sorted(LAYOUT_NAMES) == sorted(LAYOUTS)
    assert [one.value for one in MapFormat] == list(MAP_FORMATS)
    assert [one.value for one in OverlayFormat] == list(OVERLAY_FORMATS)
    (text,) = (info.help for _, _, info, _ in options() if info.default == "--set")
    flags = "/".join(info.default for _, _, info, _ in options())
    own = {flag.strip("-").replace("-", "_") for flag in flags.split("/")}
    for field in dataclasses.fields(FYDConfig):
        assert field.name in own or field.name in text, field.name


def test_the_networks_that_help_names_are_timms():
    import timm

    (text,) = (info.help for _, _, info, _ in options() if info.default == "--backbone")
    named = [
        word.strip(",.") for word in text.split() if "_" in word or word[-2:].strip(",").isdigit()
    ]
    assert len(named) >= 5 and all(timm.is_model(name) for name in named)


def test_help_points_to_nothing_that_an_installed_package_has_not(run):
    for command in ((), *((name,) for name in COMMANDS)):
        assert "docs/" not in run(*command, "--help").out
