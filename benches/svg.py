"""Plots as SVG: lines over time or over powers of ten, and panels of bars. Readable on light and dark pages."""

import math

COLOURS = ["#3b7dd8", "#d9822b", "#3a9d5d", "#b04fc4", "#c8443c", "#6d7a87", "#1f3a5f", "#c2a83e"]
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 300, 56, 34, 16, 44


def lines(title, x_label, y_label, series, marks=(), x_scale="linear"):
    """`series` is {name: [(x, y), ...]}; `marks` are (x, text), drawn as upright lines. `x_scale` may be "log", from 1 on."""
    points = [point for line in series.values() for point in line]
    x_most, y_most = max(x for x, _ in points), nice(max(y for _, y in points))
    log = x_scale == "log"
    ticks = [10**power for power in range(math.ceil(math.log10(x_most)) + 1)] if log else [x_most * step / 6 for step in range(7)]

    def place(x, y):
        share = math.log10(x or 1) / math.log10(ticks[-1]) if log else x / x_most
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / y_most * (HEIGHT - TOP - BOTTOM)

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
    for tick in ticks:
        x, y = place(tick, 0)
        parts.append(f'<text x="{x:.0f}" y="{y + 16:.0f}" text-anchor="middle" fill="#444">{tick:,.0f}</text>')
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


def panels(title, groups, columns=4):
    """Bars in a grid of panels, each with a scale of its own: `groups` is {panel: {name: (low, middle, high)}}. The thin line
    reaches from the lowest to the highest."""
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    wide, bar, top = 240, 15, 52
    tall = 28 + bar * len(names) + 14
    width, height = wide * min(columns, len(groups)) + 16, top + tall * -(-len(groups) // columns)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="20" font-size="14" fill="#222">{title}</text>',
    ]
    along = 12
    for name in names:
        parts.append(f'<rect x="{along}" y="30" width="9" height="9" fill="{COLOURS[names.index(name) % len(COLOURS)]}"/>')
        parts.append(f'<text x="{along + 13}" y="38" fill="#444">{name}</text>')
        along += 32 + 6 * len(name)
    for index, (panel, bars) in enumerate(groups.items()):
        left, down = 12 + wide * (index % columns), top + tall * (index // columns)
        most = max(high for _, _, high in bars.values())
        parts.append(f'<text x="{left}" y="{down + 16}" font-size="12" fill="#222">{panel}</text>')
        for name, (low, middle, high) in bars.items():
            y = down + 24 + bar * names.index(name)
            low, length, high = (value / most * (wide - 80) for value in (low, middle, high))
            colour = COLOURS[names.index(name) % len(COLOURS)]
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 4}" fill="{colour}"/>')
            parts.append(f'<path d="M{left + low:.1f} {y + 5.5}H{left + high:.1f}" stroke="#222" stroke-width="0.8"/>')
            parts.append(f'<text x="{left + max(length, high) + 4:.1f}" y="{y + 9}" fill="#444">{middle:,.{0 if middle >= 100 else 1}f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def nice(value):
    """The next round number that a scale of four steps may end at."""
    size = 1
    while size * 10 < value:
        size *= 10
    return next(size * factor for factor in (1, 2, 4, 6, 8, 10) if size * factor >= value)
