"""The results of a check as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.profile import GAPS
from benchmarks.gpu.switches import DEFAULT

TITLE = "# NVIDIA GPUs"
STEP = "step: "
NOT_MEASURED = "not measured"
Parts = dict[str, dict[str, Any]]


def put(path: Path, heading: str, lines: list[str]) -> None:
    """Write a section of a note; sections of other machines stay, below it, as they were."""
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    others = re.split(r"^(?=## )", known, flags=re.M)[1:]
    kept = [text.rstrip() + "\n" for text in others if text.splitlines()[0] != heading]
    own = "\n".join([heading, "", *lines]).rstrip() + "\n"
    path.write_text("\n".join([f"{TITLE}\n", own, *kept]), encoding="utf-8")


def section(results: dict[str, Any]) -> tuple[str, list[str]]:
    """Heading and lines of a machine's section."""
    facts, parts = results["machine"], results["parts"]
    where = ", ".join(facts["gpus"]) or facts["processor"]
    dry = "dry run on a CPU, whose figures mean nothing: " if results["dry_run"] else ""
    lines = [
        f"{results['date']}, {facts['cores']} cores, Python {facts['python']}, "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        + ". Made by `make gpu-check`.",
        "",
        *_parts(parts),
        *_first_start(parts, facts),
        *_steps(parts, results["sizes"]),
        *_profile(parts),
        *_operators(parts),
        *_plain(parts, "correctness", "Correctness"),
        *_plain(parts, "labelling", "Labelling"),
        *_plain(parts, "two ranks", "Two ranks"),
    ]
    return f"## {dry}{where}", lines


def _parts(parts: Parts) -> Iterator[str]:
    missing = [
        f"{name} ({part['state']})" for name, part in parts.items() if part["state"] != "done"
    ]
    if missing:
        yield from (f"Not whole: {'; '.join(missing)}.", "")


def _first_start(parts: Parts, facts: dict[str, Any]) -> Iterator[str]:
    part = parts.get("first start")
    if part is None:
        return
    cached = facts["kernel_cache_bytes"] / 1e6
    seconds = part["found"].get("first_answer_s")
    answer = f"{seconds:.1f} s" if seconds else f"{NOT_MEASURED}, {part['state']}"
    yield f"First start, with {cached:.0f} MB of compiled kernels kept from before: {answer}."
    yield ""


def _steps(parts: Parts, sizes: dict[str, Any]) -> Iterator[str]:
    rows = {name: part for name, part in parts.items() if name.startswith((STEP, "torch"))}
    base = _ms(parts.get(f"{STEP}{DEFAULT}", {}))
    rivals = [ms for name, part in rows.items() if name.startswith("torch") and (ms := _ms(part))]
    if not rows:
        return
    yield (
        f"A training step of {sizes['variant']}, {sizes['side']} px, batch {sizes['batch']}, median of "
        f"{sizes['steps']} steps, each waited for:"
    )
    yield from ("", "| | ms a step | images/s | times the first row | of torch's best | peak GB |")
    yield "|---|--:|--:|--:|--:|--:|"
    for name, part in rows.items():
        ms, peak = _ms(part), part["found"].get("peak_gb")
        label = name.removeprefix(STEP)
        if not ms:
            yield f"| {label} | {NOT_MEASURED} ({part['state']}) | | | | |"
            continue
        first = f"{base / ms:.2f}" if base else ""
        share = f"{min(rivals) / ms:.2f}" if rivals else NOT_MEASURED
        rate = part["found"]["images_per_s"]
        memory = f"{peak:.1f}" if peak else ""
        yield f"| {label} | {ms:.1f} | {rate:.0f} | {first} | {share} | {memory} |"
    yield ""


def _ms(part: dict[str, Any]) -> float:
    return float(part.get("found", {}).get("ms", 0.0))


def _profile(parts: Parts) -> Iterator[str]:
    profile = parts.get(f"{STEP}{DEFAULT}", {}).get("found", {}).get("profile")
    if not profile:
        return
    if "error" in profile:
        yield from (f"Profile: {NOT_MEASURED} ({profile['error']}).", "")
        return
    kinds = profile["ms_a_step"]
    total = sum(kinds.values())
    yield f"Where the first row's {profile['step_ms']:.1f} ms go ({profile['source']}; the longest kernels"
    yield from ("are in the JSON):", "", "| | ms a step | share |", "|---|--:|--:|")
    for kind, ms in sorted(kinds.items(), key=lambda item: (item[0] == GAPS, -item[1])):
        yield f"| {kind} | {ms:.2f} | {100 * ms / total:.1f} % |"
    yield ""


def _operators(parts: Parts) -> Iterator[str]:
    found = parts.get("operators", {}).get("found")
    if not found:
        return
    yield from ("Layers alone, forward and backward:", "", "| | ms |", "|---|--:|")
    yield from (f"| {name} | {ms:.3f} |" for name, ms in found.items())
    yield ""


def _plain(parts: Parts, name: str, title: str) -> Iterator[str]:
    found = parts.get(name, {}).get("found")
    if not found:
        return
    yield from (f"{title}:", "", "| | |", "|---|---|")
    for key, value in found.items():
        yield f"| {key.replace('_', ' ')} | {_shown(value)} |"
    yield ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_shown(item)}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
