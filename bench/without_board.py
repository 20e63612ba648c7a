"""One process of the product that takes no notes of its jobs, to measure what the notes cost.

python -m bench.without_board api|worker [OPTIONS]
"""

import sys
from typing import Any

from app.cli import main
from app.jobs.board import Board
from workers.main import main as work


def _nothing(*_: Any, **__: Any) -> None:
    """In the place of a note."""


if __name__ == "__main__":
    Board.note = Board.stored = _nothing  # type: ignore[method-assign]
    if sys.argv[1] == "worker":
        # Celery reads them too.
        sys.argv[1:] = []
        work()
    else:
        main()
