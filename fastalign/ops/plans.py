"""Launch plans that are forced, for measurements: the words for them, and their way to the kernels.

A kernel cuts its work by a rule, from the sizes of a call and what the device offers. A forced plan
takes the place of what the rule would choose, field by field:

    dense_similarity.cuda: lanes=4, rows=held; mahalanobis.cpu: width=8

Kernels are named by op and backend, several are separated by semicolons. ``|`` separates values and
a field without one stands for all of its values where plans are swept: see :func:`sweep`.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType

from fastalign.errors import ConfigError
from fastalign.ops import native, triton_plans

ENVIRONMENT = "FASTALIGN_PLAN"
_EXAMPLE = "write KERNEL: FIELD=VALUE, for example dense_similarity.cuda: lanes=4, rows=held"

Fields = MappingProxyType[str, tuple[str, ...]]

# A plan: (kernel, field, value) in the order of plan_fields().
Plan = tuple[tuple[str, str, str], ...]

_lock = threading.Lock()
_forced: Plan = ()
_environment_read = False


@cache
def plan_fields() -> MappingProxyType[str, Fields]:
    """What can be forced here: kernel ``<op>.<backend>`` -> field -> values.

    ``cpu`` and ``cuda`` kernels are listed where the native library is installed, built for CUDA or
    not.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for kernel, field, values in native.plan_fields():
        found.setdefault(kernel, {})[field] = values
    for op, fields in triton_plans.FIELDS.items():
        found[f"{op}.triton"] = {name: tuple(map(str, values)) for name, values in fields.items()}
    return MappingProxyType({kernel: MappingProxyType(f) for kernel, f in found.items()})


def sweep(text: str, source: str = "plan") -> list[Plan]:
    """All plans that ``text`` stands for: each choice among the values of its fields.

    Args:
        text: as in the module's description.
        source: what the text was given by, for messages.

    Raises:
        ConfigError: a kernel, field or value that there is not; the message names what there is.
    """
    choices = [
        [(kernel, field, value) for value in values]
        for kernel, field, values in _read(text, source)
    ]
    return [_ordered(plan) for plan in itertools.product(*choices)]


def read_plan(text: str, source: str = "plan") -> Plan:
    """The one plan that ``text`` stands for.

    Raises:
        ConfigError: as :func:`sweep`; or a field has no value, or several.
    """
    found = sweep(text, source)
    if len(found) != 1:
        raise ConfigError(f"{source}: {text!r} stands for {len(found)} plans; give each field one.")
    return found[0]


def describe(plan: Iterable[tuple[str, str, str]]) -> str:
    """The plan in the words that :func:`read_plan` reads."""
    parts = []
    for kernel, entries in itertools.groupby(plan, key=lambda entry: entry[0]):
        parts.append(f"{kernel}: " + ", ".join(f"{field}={value}" for _, field, value in entries))
    return "; ".join(parts)


def _read(text: str, source: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Kernel, field and values of each entry."""
    seen: set[tuple[str, str]] = set()
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if not parts:
        raise ConfigError(f"{source}: {text!r} names no plan; {_EXAMPLE}.")
    for part in parts:
        kernel, colon, entries = (word.strip() for word in part.partition(":"))
        if not colon or not entries:
            raise ConfigError(f"{source}: {part!r} is no plan; {_EXAMPLE}.")
        fields = plan_fields().get(kernel)
        if fields is None:
            raise ConfigError(f"{source}: {_no_kernel(kernel)}")
        for entry in entries.split(","):
            field, given, words = (word.strip() for word in entry.partition("="))
            if field not in fields:
                raise ConfigError(
                    f"{source}: {kernel} has no field {field!r}; it has {', '.join(fields)}."
                )
            if (kernel, field) in seen:
                raise ConfigError(f"{source}: {kernel}: {field} is there twice; keep one.")
            seen.add((kernel, field))
            values = tuple(word.strip() for word in words.split("|")) if given else fields[field]
            for value in values:
                if value not in fields[field]:
                    raise ConfigError(
                        f"{source}: {kernel}: {field}={value!r}, expected one of "
                        f"{', '.join(fields[field])}."
                    )
            yield kernel, field, tuple(dict.fromkeys(values))


def _no_kernel(name: str) -> str:
    missing = native.load() if name.endswith((".cpu", ".cuda")) else None
    if missing is not None:
        return f"nothing can be forced of {name!r}: {missing}."
    return f"no kernel {name!r} has a plan; expected one of {', '.join(plan_fields())}."


@cache
def _places() -> dict[tuple[str, str], int]:
    every = [(kernel, field) for kernel, fields in plan_fields().items() for field in fields]
    return {name: place for place, name in enumerate(every)}


def _ordered(plan: Iterable[tuple[str, str, str]]) -> Plan:
    return tuple(sorted(plan, key=lambda entry: _places()[entry[:2]]))


@cache
def _together(outer: Plan, inner: Plan) -> Plan:
    """Both; where they differ, the inner one."""
    chosen = {entry[:2]: entry[2] for entry in (*outer, *inner)}
    return _ordered((kernel, field, value) for (kernel, field), value in chosen.items())


@cache
def _numbers(plan: Plan) -> tuple[tuple[int, ...], dict[str, dict[str, int]]]:
    """What the native library and the Triton kernels take."""
    chosen = {entry[:2]: entry[2] for entry in plan}
    numbers = []
    for kernel, field, values in native.plan_fields():
        value = chosen.get((kernel, field), "0")
        numbers.append(int(value) if value.isdigit() else values.index(value) + 1)
    triton: dict[str, dict[str, int]] = {}
    for kernel, field, value in plan:
        op, _, backend = kernel.rpartition(".")
        if backend == "triton":
            triton.setdefault(op, {})[field] = int(value)
    return tuple(numbers), triton


def _force(plan: Plan) -> None:
    global _forced
    numbers, triton = _numbers(plan)
    native.force_plans(numbers)
    triton_plans.force(triton)
    _forced = plan


def read_environment() -> None:
    """Forces what the environment asks for, the first time that it is called.

    Raises:
        ConfigError: the environment variable is no plan; again at each call, until it is one.
    """
    global _environment_read
    if _environment_read:
        return
    with _lock:
        text = os.environ.get(ENVIRONMENT, "").strip()
        if text and not _environment_read:
            _force(_together(read_plan(text, ENVIRONMENT), _forced))
        _environment_read = True


def forced_plans() -> dict[str, dict[str, str]]:
    """What is forced at present: kernel ``<op>.<backend>`` -> field -> value.

    Raises:
        ConfigError: the environment variable ``FASTALIGN_PLAN`` is no plan.
    """
    read_environment()
    found: dict[str, dict[str, str]] = {}
    for kernel, field, value in _forced:
        found.setdefault(kernel, {})[field] = value
    return found


@contextmanager
def forced_plan(plan: str | Plan) -> Iterator[None]:
    """Let kernels cut their work as told, and not as they would choose: for measurements.

    ``with forced_plan("dense_similarity.cuda: lanes=4, rows=held"):``. What is not named is chosen
    as ever, or as an outer context or ``FASTALIGN_PLAN`` has it. Results stay within what the op
    promises. A call that a plan cannot serve raises an error that says why. Holds for the whole
    process; a CUDA graph keeps the plan that it was captured with.

    Args:
        plan: in words, kernel by kernel; :func:`plan_fields` lists what there is.

    Raises:
        ConfigError: a kernel, field or value that there is not; the message names what there is.
    """
    wanted = read_plan(plan, "forced_plan") if isinstance(plan, str) else plan
    read_environment()
    with _lock:
        before = _forced
        _force(_together(before, wanted))
    try:
        yield
    finally:
        with _lock:
            _force(before)
