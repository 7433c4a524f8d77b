"""What mkdocs does beside its own: pages generated from the code, and links out of docs/ into the repository.

A page of the repository that docs/ links to, such as deploy/README.md, becomes a page of the site; another file is
copied into it. A link to what does not exist ends the build.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import reference

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_config(config: MkDocsConfig, **_: Any) -> MkDocsConfig:
    """Put each decision into the navigation, and pages that it does not name under "How to"."""
    records = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md")
    decisions = {"Decisions": ["decisions/README.md", *(f"decisions/{name}" for name in records)]}
    named = str(config.nav)
    others = sorted(path.name for path in (ROOT / "docs").glob("*.md") if f"'{path.name}'" not in named)
    for section in config.nav or []:
        for title, entries in section.items():
            if isinstance(entries, list):
                section[title] = [decisions if "decisions/*" in str(entry) else entry for entry in entries]
                section[title] += others if title == "How to" else []
    return config


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the reference, and whatever of the repository the pages lead to."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    waiting = [file for file in files.documentation_pages() if file.generated_by is None]
    while waiting:
        page = waiting.pop()
        for target in links_out(page):
            if files.get_file_from_path(place_of(target)) is None:
                added = File.generated(config, place_of(target), content=(ROOT / target).read_bytes())
                files.append(added)
                if added.is_documentation_page():
                    waiting.append(added)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at where things are on the site."""
    source = source_of(page.file.src_uri)

    def point(match: re.Match[str]) -> str:
        target = resolve(source, match[2])
        if target is None:
            return match[0]
        return match[1] + posixpath.relpath(place_of(target), posixpath.dirname(page.file.src_uri)) + match[3]

    return LINK.sub(point, markdown)


def links_out(file: File) -> set[str]:
    """Files of the repository, outside docs/, that a page links to."""
    source = source_of(file.src_uri)
    targets = {resolve(source, match[2]) for match in LINK.finditer(file.content_string)}
    return {target for target in targets if target is not None and not target.startswith("docs/")}


def resolve(source: str, link: str) -> str | None:
    """The file of the repository that *link* in *source* means; None for links that are no business of ours."""
    if re.match(r"[a-z]+:", link) or source.startswith("docs/reference/"):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if target.startswith("docs/reference/"):
        return target
    if (ROOT / target).is_dir():
        target += "/README.md"
    if not (ROOT / target).is_file():
        raise PluginError(f"{source} links to {link}, which does not exist")
    return target


def place_of(path: str) -> str:
    """Where a file of the repository is on the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def source_of(place: str) -> str:
    """The other way round."""
    return place.removeprefix("repository/") if place.startswith("repository/") else f"docs/{place}"
