"""Gather the pages of the documentation site in one folder, with links that hold there.

The texts lie where a reader of the repository expects them: README.md, docs/, benchmarks/. On the site
README.md is the first page and docs/ the root. A link to a file that the site does not have is refused.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*:")
DECISIONS = "docs/adr"


def place_of(source: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository lies on the site."""
    if str(source) == "README.md":
        return PurePosixPath("index.md")
    if str(source) == DECISIONS:
        return PurePosixPath("adr", "index.md")
    return source.relative_to("docs") if source.parts[0] == "docs" else source


def sources() -> list[PurePosixPath]:
    """The files that the site is made of, sorted."""
    found = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    found += [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".png")]
    found += [path for path in (ROOT / "benchmarks").glob("*") if path.suffix in (".md", ".png")]
    return sorted(PurePosixPath(path.relative_to(ROOT)) for path in found)


def with_links(text: str, source: PurePosixPath, known: set[PurePosixPath]) -> str:
    """A page with its links as they must be on the site.

    Raises:
        SystemExit: a link leads to a file that the site does not have.
    """

    def moved(found: re.Match[str]) -> str:
        target = found[2]
        if ADDRESS.match(target):
            return found[0]
        path = PurePosixPath(os.path.normpath(source.parent / target))
        if path not in known:
            sys.exit(f"{source}: the site has no {target}")
        here = place_of(source).parent
        return f"{found[1]}{os.path.relpath(place_of(path), here)}{found[3]}"

    return LINK.sub(moved, text)


def decisions() -> str:
    """A page that lists the decisions by their titles."""
    lines = ["# Decisions", "", "Why it is built as it is; one page a decision.", ""]
    for path in sorted((ROOT / DECISIONS).glob("*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the folder anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    files = sources()
    known = {*files, PurePosixPath(DECISIONS)}
    for source in files:
        target = out / place_of(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            text = (ROOT / source).read_text(encoding="utf-8")
            target.write_text(with_links(text, source, known), encoding="utf-8")
        else:
            shutil.copy2(ROOT / source, target)
    (out / "adr" / "index.md").write_text(decisions(), encoding="utf-8")


if __name__ == "__main__":
    main()
