"""The documentation site: every page is in its menu, every link holds, and nothing comes from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MENU = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "pages"
    subprocess.run([sys.executable, str(ROOT / ".ci" / "site.py"), str(out)], check=True)
    return out


def listed(menu: object) -> set[str]:
    """The pages in a menu."""
    if isinstance(menu, str):
        return {menu}
    items = menu.values() if isinstance(menu, dict) else menu
    assert not isinstance(items, str)
    return set().union(*map(listed, items))  # type: ignore[call-overload]


def test_every_page_is_in_the_menu(pages: Path) -> None:
    there = {str(path.relative_to(pages)) for path in pages.rglob("*.md")}
    assert {name for name in there if not re.match(r"adr/\d", name)} == listed(MENU)
    decisions = (pages / "adr" / "index.md").read_text()
    assert all(path.name in decisions for path in pages.glob("adr/[0-9]*.md"))


def test_every_link_leads_to_a_page(pages: Path) -> None:
    for path in pages.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if not re.match(r"[a-z]+:", target):
                assert (path.parent / target).is_file(), f"{path.relative_to(pages)}: {target}"


def test_a_link_to_what_the_site_lacks_is_refused(tmp_path: Path) -> None:
    code = f"""
import importlib.util
from pathlib import PurePosixPath
spec = importlib.util.spec_from_file_location("ours", {str(ROOT / ".ci" / "site.py")!r})
ours = importlib.util.module_from_spec(spec); spec.loader.exec_module(ours)
page = PurePosixPath("docs/data.md")
known = {{page, PurePosixPath("benchmarks/train.md")}}
print(ours.with_links("[a](../benchmarks/train.md#b) [c](https://d.example/e)", page, known))
ours.with_links("[a](../tests/x.py)", page, known)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[a](benchmarks/train.md#b) [c](https://d.example/e)\n"
    assert done.returncode == 1
    assert done.stderr == "docs/data.md: the site has no ../tests/x.py\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="zensical needs Python 3.11")
@pytest.mark.costly
def test_the_site_loads_nothing_from_elsewhere(pages: Path) -> None:
    folder = pages.parent
    settings = (ROOT / "mkdocs.yml").read_text()
    settings = settings.replace("build/pages", "pages").replace("build/site", "html")
    (folder / "mkdocs.yml").write_text(settings)
    build = [
        str(Path(sys.executable).with_name("zensical")),
        "build",
        "-f",
        "mkdocs.yml",
        "--strict",
    ]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = list((folder / "html").rglob("*.html"))
    assert len(shown) > len(list(pages.glob("*.md")))
    for path in shown:
        for tag in re.findall(r"<(?:script|img|link|iframe)\b[^>]*>", path.read_text()):
            loads = re.search(r"\b(?:src|href)=[\"']?(https?:|//)[^\"'\s>]*", tag)
            assert loads is None or 'rel="canonical"' in tag, f"{path.name}: {tag}"
