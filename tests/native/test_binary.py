"""What the library asks of the process that loads it: torch's stable ABI and no other C++ of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastalign.ops import native

elffile = pytest.importorskip("elftools.elf.elffile")

# Of the limited API that setup.py asks for; a bare library does not say so itself.
OLDEST = "--assume-minimum-abi3", "3.10"


@pytest.fixture(scope="module")
def undefined() -> set[str]:
    if sys.platform != "linux" or not native.LIBRARY.exists():
        pytest.skip("no ELF library here")
    with native.LIBRARY.open("rb") as stream:
        symbols = elffile.ELFFile(stream).get_section_by_name(".dynsym").iter_symbols()
        return {s.name for s in symbols if s["st_shndx"] == "SHN_UNDEF" and s.name}


def test_nothing_of_torch_but_its_stable_abi(undefined):
    """Mangled names of the namespaces at and c10 change from release to release."""
    unstable = [n for n in undefined if n.startswith("_Z") and ("2at" in n or "3c10" in n)]
    assert unstable == []
    assert any(name.startswith("aoti_torch_") for name in undefined)


def test_only_the_module_is_exported():
    with native.LIBRARY.open("rb") as stream:
        symbols = elffile.ELFFile(stream).get_section_by_name(".dynsym").iter_symbols()
        defined = {s.name for s in symbols if s["st_shndx"] != "SHN_UNDEF" and s.name}
    assert "PyInit__C" in defined
    # Merged with a function of the same name elsewhere, code of one instruction set could run on
    # a machine without it.
    assert [name for name in defined if "fastalign" in name] == []


def test_abi3audit_finds_nothing(library):
    pytest.importorskip("abi3audit")
    done = subprocess.run(
        [sys.executable, "-m", "abi3audit", "--strict", *OLDEST, str(native.LIBRARY)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_built_is_said(library):
    assert "levels baseline" in library.build_info()
