import json
import signal
import urllib.request

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: '.[serve]'")


def test_photographs_are_judged_over_http_until_the_command_is_told_to_end(
    run, python, whole_command, fitted, whole_ring, tmp_path
):
    photo = whole_ring / "test" / "dent" / "00.png"
    options = ("--model", fitted, "--port", "0", "--out", tmp_path / "out")
    process = python.start(whole_command, "serve", *options)
    try:
        name, address = process.stdout.readline().split(" ")[-2:]
        assert name == "ring.safetensors:"
        asked = urllib.request.Request(
            address.strip() + "score?name=00.png",
            data=photo.read_bytes(),
            headers={"Content-Type": "image/png"},
        )
        told = json.load(urllib.request.urlopen(asked, timeout=60))
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    # The model of the tests was fitted to too few photographs to tell drift.
    assert process.returncode == 0
    assert errors.startswith("warning: no drift is told") and errors.count("\n") == 1
    other = tmp_path / "predict"
    assert run("predict", photo, "--model", fitted, "--out", other, "--save", "regions").code == 0
    row = json.loads((other / "regions.jsonl").read_text())
    assert row == {name: told[name] for name in row} and row["regions"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--host", "0.0.0.0"), "--token-file"),
        (("--token-file", "nowhere"), "nowhere: the token cannot be read"),
        (("--seconds", "0"), "--seconds"),
        (("--kept", "0"), "--kept"),
        (("--port", "99999"), "--port"),
    ],
)
def test_bad_options_are_named(run, options, named):
    outcome = run("serve", "--model", "m.safetensors", *options)
    assert outcome.code in (2, 3) and named in outcome.err


def test_a_token_that_others_can_read_is_refused(run, tmp_path):
    token = tmp_path / "token"
    token.write_text("a-token-that-nobody-guesses\n")
    token.chmod(0o644)
    outcome = run("serve", "--model", "m.safetensors", "--token-file", token)
    assert outcome.code == 2 and "chmod 600" in outcome.err
    token.chmod(0o600)
    outcome = run("serve", "--model", "m.safetensors", "--token-file", token)
    assert outcome.code == 4
