"""One document as JSON, as Markdown, and in a few lines for a terminal: failures first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpucheck import gates

Document = dict[str, Any]


def normalised(error: str) -> str:
    """The error without its numbers and addresses, so that a cause is counted once."""
    text = re.sub(r"0x[0-9a-f]+", "#", error)
    return re.sub(r"[-+]?\b\d[\d.]*(?:e[-+]?\d+)?", "#", text)


def failures(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where, and the record of each test or check that failed."""
    steps = document["steps"]
    for backend, counts in steps.get("suite", {}).get("backends", {}).items():
        for record in counts["failures"]:
            yield f"suite {backend}", record
    for name in ("shapes", "behaviour"):
        for process, entry in steps.get(name, {}).get("processes", {}).items():
            where = "shapes" if name == "shapes" else process.replace("-", " ")
            for record in entry["failures"]:
                yield where, record


def groups(document: Document) -> list[dict[str, Any]]:
    """Failures of one cause together, most frequent first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for where, record in failures(document):
        error = record.get("error", "")
        key = (where, normalised(error))
        group = found.setdefault(
            key, {"where": where, "error": error, "count": 0, "example": record["name"]}
        )
        group["count"] += 1
    return sorted(found.values(), key=lambda group: -group["count"])


def errors(document: Document) -> list[str]:
    """What kept a step, or a process of one, from doing its work at all."""
    found = []
    for name, step in document["steps"].items():
        if step.get("error"):
            found.append(f"{name}: {step['error']}")
        for part in ("backends", "processes", "tools"):
            entries = step.get(part, {})
            for which, entry in entries.items():
                if isinstance(entry, dict) and isinstance(entry.get("error"), str):
                    found.append(f"{name} {which}: {entry['error']}")
                if isinstance(entry, dict) and entry.get("unfinished"):
                    found.append(f"{name} {which}: time was over in: {entry['unfinished'][-1]}")
        found += [f"no figure: {line}" for line in step.get("wrong", [])]
        for backend, reasons in step.get("cannot_run", {}).items():
            found.append(f"{backend} cannot run: {'; '.join(reasons)}")
    return found


def _summary(name: str, step: dict[str, Any]) -> str:
    """A step in a few words."""
    if name == "suite":
        return "; ".join(
            f"{backend} {c['passed']} passed, {c['failed']} failed, {c['skipped']} skipped"
            f" of {c['collected']}"
            for backend, c in step.get("backends", {}).items()
        )
    if name in ("shapes", "behaviour"):
        parts = [
            f"{process.removeprefix(name + '-')}: {e['passed']} passed, {e['failed']} failed, "
            f"{e['skipped']} skipped"
            for process, e in step.get("processes", {}).items()
        ]
        return "; ".join(parts)
    if name == "sanitizer":
        return "; ".join(
            f"{tool}: {'no end' if t['total'] is None else t['total']} findings, {t['calls']} calls"
            for tool, t in step.get("tools", {}).items()
        ) or step.get("note", "")
    if name == "benchmarks":
        left_out = step.get("document", {}).get("left_out", [])
        more = f", {len(left_out)} left out" if left_out else ""
        held = step.get("gates", [])
        if held:
            more += f", {len(held) - len(_shut(step))} of {len(held)} gates passed"
        return (
            f"{step['cases']} cases, {len(step.get('wrong', []))} contestants without figure{more}"
        )
    if name == "build":
        return f"sm {step.get('architectures')}; {step.get('note', '')}".rstrip("; ")
    if name == "backends":
        return step.get("build") or ""
    return step.get("note", "")


def _setting(document: Document) -> str:
    found = document["environment"]
    gpu = found.get("gpu", {})
    words = [f"{key} {value}" for key, value in gpu.items() if key != "name"]
    words += [f"{name} {text}" for name, text in found.get("packages", {}).items()]
    words += [f"python {found.get('python')}", f"nvcc {found.get('nvcc') or 'missing'}"]
    return f"{gpu.get('name', 'no GPU')}: {', '.join(words)}, {found.get('cores')} CPU cores."


def step_lines(document: Document) -> list[str]:
    lines = []
    for name, step in document["steps"].items():
        seconds = step.get("seconds")
        time = f"{seconds:.0f} s" if seconds is not None else ""
        lines.append(f"| {name} | {step['state']} | {time} | {_summary(name, step)} |")
    return lines


def _by_op(document: Document) -> list[str]:
    """Passed, failed and skipped tests by op and backend."""
    backends = document["steps"].get("suite", {}).get("backends", {})
    if not backends:
        return []
    rows = sorted({op for counts in backends.values() for op in counts["ops"]})
    dtypes = sorted({dtype for counts in backends.values() for dtype in counts["dtypes"]})
    lines = ["| tests of | " + " | ".join(backends) + " |", "|---|" + "---|" * len(backends)]
    for key, names in (("ops", rows), ("dtypes", dtypes)):
        for name in names:
            cells = []
            for counts in backends.values():
                c = counts[key].get(name, {})
                passed, failed = c.get("passed", 0), c.get("failed", 0)
                cells.append(f"{passed} passed" + (f", **{failed} failed**" if failed else ""))
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    reasons = [
        f"- {backend}: {count} skipped: {reason}"
        for backend, counts in backends.items()
        for reason, count in counts["skip_reasons"].items()
    ]
    return ["## Tests of the ops", "", *lines, *([""] if reasons else []), *reasons]


def _behaviour(document: Document) -> list[str]:
    """Kinds of behaviour by backend: everything before the colon of a check's name."""
    processes = document["steps"].get("behaviour", {}).get("processes", {})
    kinds: dict[str, dict[str, list[str]]] = {}
    for process, entry in processes.items():
        for name, state in entry["names"].items():
            kind = name.partition(":")[0] if "above" not in name else name
            kinds.setdefault(kind, {}).setdefault(process, []).append(state)
    if not kinds:
        return []
    lines = ["| behaviour | " + " | ".join(p.partition("-")[2] for p in processes) + " |"]
    lines.append("|---|" + "---|" * len(processes))
    for kind, states in kinds.items():
        cells = []
        for process in processes:
            found = states.get(process, [])
            words = [f"{found.count(s)} {s}" for s in ("passed", "failed", "skipped") if s in found]
            cells.append(", ".join(words).replace(" failed", " **failed**") or "not run")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    skips = sorted({f"- skipped: {why}" for e in processes.values() for why in e["skips"]})
    return ["## Behaviour", "", *lines, *([""] if skips else []), *skips]


def _shapes(document: Document) -> list[str]:
    entries = document["steps"].get("shapes", {}).get("processes", {}).values()
    largest = max(
        (e["largest_difference"] for e in entries if "largest_difference" in e), default=None
    )
    if largest is None:
        return []
    return [
        "CUDA C++ and Triton on larger random inputs: the largest difference between them is "
        f"{largest:.2f} of what both may be off from float64."
    ]


def _sanitizer(document: Document) -> list[str]:
    tools = document["steps"].get("sanitizer", {}).get("tools", {})
    lines = []
    for tool, report in tools.items():
        if report["findings"]:
            lines += [f"- {tool}: {finding}" for finding in report["findings"]]
    return ["## compute-sanitizer", "", *lines] if lines else []


def _shut(step: dict[str, Any]) -> list[dict[str, Any]]:
    """The gates that did not pass."""
    return [gate for gate in step.get("gates", []) if not gate["passed"]]


def _gates(document: Document) -> list[str]:
    held = document["steps"].get("benchmarks", {}).get("gates", [])
    return ["## Gates", "", *gates.table(held)] if held else []


def markdown(document: Document, scratch: Path) -> str:
    """The whole report; the tables of the benchmarks are taken over as they were written."""
    parts = [["# GPU check"], [_setting(document)]]
    if not document["finished"]:
        parts.append(["The check was ended before its last step; what follows is what it had."])
    broken = errors(document)
    if broken:
        parts.append(
            ["## What could not be done", "", *(f"    {e}" for t in broken for e in t.splitlines())]
        )
    grouped = groups(document)
    if grouped:
        lines = [
            f"- {g['count']}x {g['where']}: `{g['error'][:300]}` ({g['example']})"
            for g in grouped[:60]
        ]
        parts.append(["## Failures", "", *lines])
    parts.append(
        ["## Steps", "", "| step | state | time | |", "|---|---|---|---|", *step_lines(document)]
    )
    parts += [
        p
        for p in (
            _by_op(document),
            _shapes(document),
            _behaviour(document),
            _sanitizer(document),
            _gates(document),
        )
        if p
    ]
    if "text" in document["steps"].get("model", {}):
        parts.append([document["steps"]["model"]["text"].strip()])
    if "text" in document["steps"].get("arena", {}):
        parts.append(["## Variants of kernels", "", document["steps"]["arena"]["text"].strip()])
    tables = scratch / "ops.md"
    if "benchmarks" in document["steps"] and tables.exists():
        text = re.sub(r"^(#+) ", r"#\1 ", tables.read_text(), flags=re.M)
        parts.append([text.strip()])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def terminal(document: Document, scratch: Path, characters: int = 9000) -> str:
    """The most important lines, few enough to be seen at once."""
    lines = [_setting(document), ""]
    lines += [f"{s.strip('| ')}"[:400] for s in step_lines(document)]
    last = [line for text in errors(document) for line in text.splitlines()[-4:] if line.strip()]
    # Several processes that fail alike say the same.
    lines += [f"ERROR {line[:220]}" for line in dict.fromkeys(last)]
    for group in groups(document)[:25]:
        lines.append(f"{group['count']}x {group['where']}: {group['error'][:230]}")
        lines.append(f"    {group['example'][-150:]}")
    lines += [line.removeprefix("- ")[:260] for line in _sanitizer(document)[2:]]
    lines += _shapes(document)
    lines += [
        f"GATE {gate['gate']}: {gate['case']}: {gate['contestant']} {gate['measured']:.2f}, "
        f"at most {gate['limit']:.2f}"
        for gate in _shut(document["steps"].get("benchmarks", {}))
    ]
    text = document["steps"].get("model", {}).get("text", "")
    lines += [line[:230] for line in text.splitlines() if line]
    log = scratch / "benchmarks.log"
    if log.exists():
        lines += [
            line[:230] for line in log.read_text(errors="replace").splitlines() if " ms " in line
        ]
    text = "\n".join(lines)
    return text if len(text) <= characters else text[:characters] + "\n(cut; the files have all)"
