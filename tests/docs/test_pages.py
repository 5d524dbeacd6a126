"""The pages: their links lead somewhere, and the commands that they show have the options that they are given."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipelines.cli import main

ROOT = Path(__file__).parents[2]
ROOMS = ("benchmarks", "components", "data_schemas", "evaluation", "infra", "pipelines", "serving", "tests", "training")
PAGES = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(page for room in ROOMS for page in (ROOT / room).rglob("*.md")),
    ]
)
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_SHELL = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CALL = re.compile(r"^(?:\$ )?(?:\w+=\S* )*((?:\S*/)?vitalfuse .*)$")
_INLINE = re.compile(r"`(vitalfuse [^`]+)`")
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Anchors as GitHub makes them of headings."""
    headings = _HEADING.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """Every call of vitalfuse in a page's shell blocks and in its text, as words after the command's name."""
    text = page.read_text(encoding="utf-8")
    inline = [" ".join(code.split()) for code in _INLINE.findall(_CODE.sub("", text))]
    for block in [*_SHELL.findall(text), *inline]:
        for line in block.replace("\\\n", " ").splitlines():
            if call := _CALL.match(line):
                words = shlex.split(call[1], comments=True)
                yield words[1 : next((at for at, word in enumerate(words) if word in ("&&", "|", "&", ">")), None)]


def test_there_are_pages_and_commands_to_look_at():
    assert len(PAGES) > 20
    assert sum(len(list(commands(page))) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_takes_the_options_that_it_is_shown_with(page):
    for words in commands(page):
        command: click.Command = main
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(click.Context(command), words[0])
            assert found is not None, words
            command, words = found, words[1:]
        # Refuses an option that is not there; what is missing is not looked at.
        command.make_parser(click.Context(command)).parse_args(list(words))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_waits_to_be_filled(page):
    assert not re.search(r"@@|\bTODO\b|\bTBD\b|\bFIXME\b", page.read_text(encoding="utf-8"))
