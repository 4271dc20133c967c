"""Plots as SVG: lines over time, with axes, a legend and marks. Readable on light and dark pages."""

COLOURS = ["#3b7dd8", "#d9822b", "#3a9d5d", "#b04fc4", "#c8443c"]
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 300, 56, 34, 16, 44


def lines(title, x_label, y_label, series, marks=()):
    """`series` is {name: [(x, y), ...]}; `marks` are (x, text), drawn as upright lines."""
    points = [point for line in series.values() for point in line]
    x_most, y_most = max(x for x, _ in points), nice(max(y for _, y in points))

    def place(x, y):
        across = LEFT + x / x_most * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - y / y_most * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="16" font-size="14" fill="#222">{title}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle" fill="#444">{x_label}</text>',
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})" fill="#444">{y_label}</text>',
    ]
    for step in range(5):
        value = y_most * step / 4
        x, y = place(0, value)
        parts.append(f'<path d="M{x:.0f} {y:.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x - 6:.0f}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{value:g}</text>')
    for step in range(7):
        x, y = place(x_most * step / 6, 0)
        parts.append(f'<text x="{x:.0f}" y="{y + 16:.0f}" text-anchor="middle" fill="#444">{x_most * step / 6:.0f}</text>')
    for at, text in marks:
        x, y = place(at, 0)
        parts.append(f'<path d="M{x:.1f} {TOP}V{y:.1f}" stroke="#888" stroke-dasharray="4 3"/>')
        parts.append(f'<text x="{x + 4:.1f}" y="{TOP + 10}" fill="#666">{text}</text>')
    for index, (name, line) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = "L".join("{:.1f} {:.1f}".format(*place(*point)) for point in line)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(f'<text x="{WIDTH - RIGHT - 150 * (len(series) - index - 1)}" y="16" text-anchor="end" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def nice(value):
    """The next round number that a scale of four steps may end at."""
    size = 1
    while size * 10 < value:
        size *= 10
    return next(size * factor for factor in (1, 2, 4, 6, 8, 10) if size * factor >= value)
