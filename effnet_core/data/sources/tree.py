"""The pictures of a folder by the folders they lie in, and what people say about them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from effnet_core.config.schema import DataConfig
from effnet_core.data.sources.candidates import Candidate
from effnet_core.data.sources.listed import TableRules
from effnet_core.data.sources.tables import Table

Layout = Literal["auto", "classes", "splits", "names"]


@dataclass(frozen=True)
class Rules:
    """What people say about a source where it does not tell by itself."""

    layout: Layout = "auto"
    """Whether its folders are classes or splits, or its files are called by their class."""
    table: TableRules = field(default_factory=TableRules)
    names_encoding: str | None = None
    """Encoding of the names in a zip that does not say."""

    @classmethod
    def of(cls, data: DataConfig) -> Rules:
        """What the settings say."""
        table = TableRules(data.path_column, data.label_column, data.table_root)
        return cls(data.layout, table, data.names_encoding)


DEFAULT_RULES = Rules()


@dataclass
class Labelled:
    """The files of a source, sorted by kind."""

    candidates: list[Candidate] = field(default_factory=list)
    other: list[tuple[str, str]] = field(default_factory=list)
    """Paths of files that are not pictures of a class, and why."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a person should know, one sentence each."""


class Tree:
    """The pictures of a folder by the folders they lie in."""

    def __init__(self, root: Path, pictures: list[str]) -> None:
        self.root, self.pictures = root, pictures
        self.direct: dict[str, list[str]] = defaultdict(list)
        self.tables: dict[str, list[Table]] = {}
        """Those that label the pictures of a folder, where somebody has asked."""
        self.inner: dict[str, dict[str, None]] = defaultdict(dict)
        """Names of the folders inside a folder that hold pictures at any depth."""
        for path in pictures:
            folder = path.rpartition("/")[0]
            self.direct[folder].append(path)
            while folder:
                above, _, name = folder.rpartition("/")
                if name in self.inner[above]:
                    break
                self.inner[above][name] = None
                folder = above

    def folders(self, folder: str) -> list[str]:
        """Paths of the folders inside that hold pictures, sorted."""
        return [f"{folder}/{name}" if folder else name for name in sorted(self.inner[folder])]

    def around(self, folder: str) -> list[str]:
        """A folder, and those around it that hold no other pictures."""
        found = [folder]
        while folder:
            above = folder.rpartition("/")[0]
            if self.folders(above) != [folder] or self.direct[above]:
                break
            found.append(folder := above)
        return found

    def below(self, folder: str) -> list[str]:
        """Every picture of a folder, at any depth, sorted."""
        found = list(self.direct[folder])
        for inner in self.folders(folder):
            found += self.below(inner)
        return sorted(found)
