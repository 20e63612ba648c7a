"""One line in an SVG, with its axes."""

from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 480, 280, 48


def lines(points: Sequence[tuple[float, float]], x: str, y: str) -> str:
    """The plot of `points`, from zero on both axes, which are called `x` and `y`."""
    most_x, most_y = (max(values) or 1 for values in zip(*points, strict=True))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = MARGIN + point[0] / most_x * (WIDTH - 2 * MARGIN)
        return across, HEIGHT - MARGIN - point[1] / most_y * (HEIGHT - 2 * MARGIN)

    placed = [place(point) for point in points]
    path = " ".join(f"{across:.1f},{down:.1f}" for across, down in placed)
    labels = "".join(
        f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3"/><text x="{across:.1f}" y="{down - 8:.1f}" '
        f'text-anchor="middle">{value:.0f}</text><text x="{across:.1f}" y="{HEIGHT - MARGIN + 16}" '
        f'text-anchor="middle">{point:.0f}</text>'
        for (across, down), (point, value) in zip(placed, points, strict=True)
    )
    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f'<path d="M{MARGIN} {MARGIN}V{bottom}H{right}" fill="none" stroke="gray"/>'
        f'<polyline points="{path}" fill="none" stroke="black"/>{labels}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">{x}</text>'
        f'<text x="{MARGIN}" y="20">{y}</text></svg>\n'
    )
