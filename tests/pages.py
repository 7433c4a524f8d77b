"""The pages of the documentation, as their examples."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("**/README.md"), ROOT / "README.md"])

BLOCK = re.compile(r"^(?: *<!-- (?P<note>.*?) -->\n)? *```(?P<language>\w*)\n(?P<code>.*?)^ *```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block; *note* is the comment of HTML on the line before it."""

    page: Path
    line: int
    language: str
    code: str
    note: str

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run_here(self) -> bool:
        """Whether nothing says that it cannot be run, or is run by another test."""
        return not self.note.startswith(("not run: ", "run by "))


def all_blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of *page*."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Block(page, line, found["language"], found["code"], found["note"] or "")


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The code blocks of a page in one of *languages*."""
    for block in all_blocks(page):
        if block.language in languages:
            yield block.code


def named(pages: list[Path]) -> Any:
    """Parametrize a test by *pages*."""
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))
