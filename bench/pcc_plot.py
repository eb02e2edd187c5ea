# SPDX-License-Identifier: Apache-2.0
"""The picture of `bench.pcc`: broken sessions over time, one panel without shifts and one with.

Written by hand, as all pictures of docs/pictures: few bytes, no font, no colour but ours.
"""

from collections.abc import Mapping, Sequence

from bench.pcc_trace import ENDS_S, GROWS_S, SECONDS, SHRINKS_S

WIDTH, HEIGHT, LEFT, TOP = 340, 240, 60, 60
GAP, MOST = 420, 25.0  # percent, at the upper edge
STYLES = {
    "modulo": ("#1f2328", "2 3"),
    "consistent hash": ("#1f2328", ""),
    "local table": ("#a63d00", ""),
    "second chance": ("#a63d00", "6 4"),
    "limpet": ("#0757b5", ""),
}
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 420" width="840" height="420" \
role="img" aria-labelledby="title desc">
<!-- SPDX-License-Identifier: Apache-2.0 -->
<title id="title">Broken sessions while 24 backends become 30 and then 22</title>
<desc id="desc">{desc}</desc>
<style>
  text {{ font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328; }}
  .bold {{ font-weight: bold; }}
  .middle {{ text-anchor: middle; }}
  .end {{ text-anchor: end; }}
  polyline {{ fill: none; stroke-width: 2; }}
  line {{ stroke: #1f2328; stroke-opacity: .25; }}
</style>
<rect x="1" y="1" width="838" height="418" rx="12" fill="#ffffff" stroke="#1f2328"/>
"""

Panel = Mapping[str, Sequence[float]]  # percent broken by the end of each second


def svg(panels: Mapping[str, Panel], says: str) -> str:
    """The whole picture."""
    parts = [HEAD.format(desc=says)]
    for number, (title, panel) in enumerate(panels.items()):
        parts.append(_panel(LEFT + number * GAP, title, panel))
    for number, (name, (ink, dash)) in enumerate(STYLES.items()):
        x, y = 60 + number * 155, 380
        parts.append(
            f'<polyline points="{x},{y} {x + 30},{y}" stroke="{ink}" stroke-dasharray="{dash}"/>\n'
            f'<text x="{x + 38}" y="{y + 4}">{name}</text>\n'
        )
    return "".join((*parts, "</svg>\n"))


def _panel(x: int, title: str, panel: Panel) -> str:
    parts = [f'<text x="{x + WIDTH // 2}" y="30" class="middle bold">{title}</text>\n']
    for percent in (0, 5, 10, 15, 20, 25):
        y = TOP + HEIGHT - percent / MOST * HEIGHT
        parts.append(f'<line x1="{x}" y1="{y:.0f}" x2="{x + WIDTH}" y2="{y:.0f}"/>\n')
        parts.append(f'<text x="{x - 8}" y="{y + 4:.0f}" class="end">{percent} %</text>\n')
    for second in (GROWS_S, SHRINKS_S, ENDS_S, SECONDS):
        at = x + second / SECONDS * WIDTH
        parts.append(f'<line x1="{at:.0f}" y1="{TOP}" x2="{at:.0f}" y2="{TOP + HEIGHT}"/>\n')
        side = "middle" if second < SECONDS else "end"
        text = f'<text x="{at:.0f}" y="{TOP + HEIGHT + 18}" class="{side}">{second:.0f} s</text>\n'
        parts.append(text)
    middle = x + (GROWS_S + SHRINKS_S) / 2 / SECONDS * WIDTH
    parts.append(f'<text x="{middle:.0f}" y="{TOP - 8}" class="middle">24 → 30</text>\n')
    middle = x + (SHRINKS_S + ENDS_S) / 2 / SECONDS * WIDTH
    parts.append(f'<text x="{middle:.0f}" y="{TOP - 8}" class="middle">30 → 22</text>\n')
    return "".join((*parts, *(_line(x, name, values) for name, values in panel.items())))


def _line(x: int, name: str, values: Sequence[float]) -> str:
    ink, dash = STYLES[name]
    points = []
    for second, percent in enumerate(values, 1):
        y = TOP + HEIGHT - min(percent, MOST) / MOST * HEIGHT
        points.append(f"{x + second / SECONDS * WIDTH:.0f},{y:.0f}")
        if percent > MOST:
            break
    return f'<polyline points="{" ".join(points)}" stroke="{ink}" stroke-dasharray="{dash}"/>\n'
