"""The fenced blocks of the documents, as they stand there."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Block:
    """One block: the headings above it, from the document's title down, the language after the fence, and its text."""

    headings: tuple[str, ...]
    language: str
    text: str


def blocks(document: str) -> list[Block]:
    """The fenced blocks of the file `document` of this repository, in order."""
    found, headings = [], []
    lines = iter((ROOT / document).read_text().splitlines())
    for line in lines:
        if heading := re.match(r"(#+) (.*)", line):
            headings = [*headings[: len(heading[1]) - 1], heading[2]]
        elif fence := re.match(r"\s*```(\w+)", line):
            text = "\n".join(iter(lambda: next(lines), line[: fence.start(1)]))
            found.append(Block(tuple(headings), fence[1], textwrap.dedent(text) + "\n"))
    return found


def documented_acl() -> list[str]:
    """What docs/operating.md gives a user of Redis, after its name and password."""
    (block,) = [block for block in blocks("docs/operating.md") if block.language == "redis"]
    return block.text.split()[5:]
