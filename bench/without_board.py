"""One process of the product that takes no notes of its jobs, to measure what the notes cost.

python -m bench.without_board api|worker [OPTIONS]
"""

from typing import Any

from app.cli.commands import main
from app.monitor.board import Board


def _nothing(*_: Any, **__: Any) -> None:
    """In the place of a note."""


if __name__ == "__main__":
    Board.note = _nothing  # type: ignore[method-assign]
    main()
