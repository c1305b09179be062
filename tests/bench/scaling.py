# SPDX-License-Identifier: Apache-2.0
"""Operations per second against sessions and queue depth, and the drawing of them."""

import math

from measure import SERVER_CORE, Arm, Case, one_volume, pin

SESSIONS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
DEPTHS = [1, 2, 4, 8, 16, 32, 64, 128]
PATTERNS = ["randread", "randwrite"]
# Panel: title, values of x, and lines: name -> (sessions, queue depth) at x.
PANELS = [
    ("4 KiB, sessions", SESSIONS, {f"QD{depth}": lambda x, depth=depth: (x, depth) for depth in (1, 8, 32)}),
    ("4 KiB, queue depth", DEPTHS, {f"{count} session(s)": lambda x, count=count: (count, x)
                                    for count in (1, 4)}),
]
ROUNDS, SECONDS = 3, 0.4
# So many sessions need longer until the kernel has sized their sockets' buffers.
MANY, THEIR_WARMUP = 64, ("--warmup", "0.6")
NO_CLIFF = 0.7  # of the best with less load: a fall below is a cliff

WIDTH, HEIGHT, MARGIN = 460, 300, 56
COLOURS = ["#1b6ca8", "#c8553d", "#3c8d5a", "#7b4fa3", "#b58900", "#555555"]


def group_of(pattern, sessions, depth):
    return f"scale-{pattern}-{sessions}xq{depth}"


def points(bench, pattern, xs, place):
    """[(x, IOPS)] of what was measured."""
    found = [(x, bench.median(group_of(pattern, *place(x)), "sectormapd", "iops")) for x in xs]
    return [(x, iops) for x, iops in found if iops]


def run(bench, directory, _):
    with one_volume(bench, directory) as (daemon, _, url):
        pin(daemon.pid, SERVER_CORE)
        places = {(pattern, *place(x)) for pattern in PATTERNS for _, xs, lines in PANELS
                  for place in lines.values() for x in xs}
        for _ in range(ROUNDS):  # all points, then all again: a drift does not look like a slope
            for pattern, sessions, depth in sorted(places):
                case = Case(pattern, 4096, depth, sessions, THEIR_WARMUP if sessions >= MANY else ())
                arm = Arm(case, url, daemon.pid)
                bench.interleave(group_of(pattern, sessions, depth), {"sectormapd": arm}, 1, SECONDS)
    for pattern in PATTERNS:
        for title, xs, lines in PANELS:
            for name, place in lines.items():
                best, least = 0, None
                for _, iops in points(bench, pattern, xs, place):
                    best = max(best, iops)
                    least = min(least or 1, iops / best)
                bench.judge(f"{pattern} {title}, {name}: lowest over best before", least, NO_CLIFF)


def panel(bench, left, top, pattern, title, xs, lines):
    series = {name: points(bench, pattern, xs, place) for name, place in lines.items()}
    highest = max((iops for line in series.values() for _, iops in line), default=1)
    step = 10 ** math.floor(math.log10(highest))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if highest / (step * part) <= 6)
    limit = step * math.ceil(highest / step)
    plot_width, plot_height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def at(x, iops):
        return (left + MARGIN + plot_width * math.log2(x) / math.log2(xs[-1]),
                top + HEIGHT - MARGIN - plot_height * iops / limit)

    out = [f'<text x="{left + MARGIN}" y="{top + 24}" font-weight="bold">{pattern} {title}</text>']
    for i in range(round(limit / step) + 1):
        x, y = at(1, i * step)
        out.append(f'<line x1="{x}" y1="{y:.1f}" x2="{x + plot_width}" y2="{y:.1f}" stroke="#ddd"/>'
                   f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{i * step / 1000:g}k</text>')
    for x in xs:
        px, py = at(x, 0)
        out.append(f'<text x="{px:.1f}" y="{py + 16:.1f}" text-anchor="middle">{x}</text>')
    for colour, (name, line) in zip(COLOURS, series.items()):
        path = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += ['<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>'.format(*at(*point), colour)
                for point in line]
    for i, (colour, name) in enumerate(zip(COLOURS, series)):
        out.append(f'<text x="{left + MARGIN + i * 90}" y="{top + HEIGHT - 14}" fill="{colour}">'
                   f'{name}</text>')
    return "\n".join(out)


def plot(bench):
    drawn = [panel(bench, column * WIDTH, row * HEIGHT, pattern, *PANELS[column])
             for row, pattern in enumerate(PATTERNS) for column in range(len(PANELS))]
    width, height = WIDTH * len(PANELS), HEIGHT * len(PATTERNS)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">\n'
            f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n")
