"""What pyproject.toml cannot say: where the packages lie, and the native code."""

from __future__ import annotations

from setuptools import Extension, find_packages, setup


def packages() -> list[str]:
    """Every installed package; ``fastalign.kernels`` lies in the folder ``kernels``."""
    kernels = ["fastalign.kernels"] + [
        f"fastalign.kernels.{name}" for name in find_packages("kernels")
    ]
    return find_packages(include=["fastalign", "fastalign.*"]) + kernels


def native() -> tuple[list[Extension], dict[str, type]]:
    """The native modules and the build commands they need."""
    return [], {}


ext_modules, cmdclass = native()

setup(
    packages=packages(),
    package_dir={"fastalign.kernels": "kernels"},
    ext_modules=ext_modules,
    cmdclass=cmdclass,
)
