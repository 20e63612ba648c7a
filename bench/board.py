"""What the board of jobs costs: pairs of runs of the whole product, with its notes and without.

python -m bench.board [--pairs 5] [--seconds 10] [--in-flight 64] [--workers 1] [--latency 20]
"""

import statistics
import sys

from bench.verifications import Figures, Load, arguments, run


def rate(load: Load, *, board: bool) -> Figures:
    figures = run(load, (sys.executable, "-m", "app.cli" if board else "bench.without_board"))
    print(f"{'with' if board else 'without':8}{figures}", flush=True)
    return figures


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    asked = vars(parser.parse_args())
    pairs = asked.pop("pairs")
    load = Load(**asked)
    ratios = []
    for number in range(pairs):
        # What runs first changes from pair to pair.
        order = (True, False) if number % 2 else (False, True)
        found = {board: rate(load, board=board) for board in order}
        ratios.append(found[True].rate / found[False].rate)
        print(f"pair {number + 1}: {ratios[-1]:.3f}", flush=True)
    print(f"with / without, median of {pairs}: {statistics.median(ratios):.3f}")
