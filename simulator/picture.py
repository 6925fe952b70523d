"""A picture of one simulation: lanes of masters, hosts and guests over time, and what was done to them; SVG as plain text.

One job: that somebody sees at a look what led to what.

Rules: everything has a tooltip with its words; faults are red outlines where they strike, states are filled, moments are
marks; nothing is drawn by anything but strings, so that the same outcome gives the same picture.
"""

from dataclasses import dataclass
from html import escape
from typing import Final

from simulator.faults import Fault
from simulator.observer import POOL
from simulator.simulation import Outcome
from simulator.timeline import Mark, Span

LEFT: Final = 96
WIDTH: Final = 1_500
LANE: Final = 26
BAR: Final = 14
TOP: Final = 58
FAULT_ROW: Final = 15
GUESTS_MAX: Final = 40
GUEST_COLOURS: Final = ("#8ecae6", "#b5e48c", "#ffd6a5", "#cdb4db", "#f4acb7", "#a8dadc", "#e9c46a")
COLOURS: Final = {
    "leads": "#2a6f97",
    "follows": "#cfe3f0",
    "stopped": "#9a9a9a",
    "no agent": "#e0e0e0",
    "off": "#333333",
    "lease": "#b7e4c7",
    "expiring": "#fff3b0",
    "failsafe": "#f9c74f",
    "lapsed": "#f8961e",
    "fencing": "#d00000",
    "twice": "#d00000",
}
LEGEND: Final = (
    ("leads", "master leads"),
    ("follows", "master follows"),
    ("stopped", "process stopped"),
    ("lease", "host has its lease"),
    ("expiring", "renewal missing"),
    ("failsafe", "failsafe"),
    ("lapsed", "lapsed, will fence"),
    ("fencing", "kills its guests"),
    ("no agent", "agent dead"),
    ("off", "no power"),
)
# What a moment looks like: a letter and a colour.
MARKS: Final = {
    "elected": ("▲", "#01497c"),
    "lost": ("✖", "#d00000"),
    "alive": ("●", "#2d6a4f"),
    "migrated": ("→", "#5a189a"),
    "halted": ("■", "#444444"),
    "operation_cancelled": ("c", "#777777"),
    "guest_ended_itself": ("g", "#777777"),
    "host_back_with_stale_guest": ("s", "#d00000"),
}
FAULTS_BEGIN: Final = "faults begin"
CUT: Final = ("✂", "#d00000")
MARK_LEGEND: Final = (
    ("▲", "elected"),
    ("✖", "host given up"),
    ("●", "host lives"),
    ("→", "guest has moved"),
    ("■", "guest has ended"),
    ("s", "stale guest found"),
    ("✂", "dangerous moment"),
)


@dataclass(frozen=True, slots=True)
class _Scale:
    ends_at: float

    def x(self, at: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 12) * min(at, self.ends_at) / self.ends_at, 1)


@dataclass(frozen=True, slots=True)
class _Strike:
    """A fault as it is drawn: where, from when till when."""

    lane: str
    began: float
    ended: float
    text: str


def draw(outcome: Outcome) -> str:
    """Give a simulation's picture."""
    spans, marks = outcome.timeline.spans, outcome.timeline.marks
    moments = [x.ended for x in spans] + [x.at for x in marks]
    scale = _Scale(max(moments, default=1.0))
    began = next((x.at for x in marks if x.kind == FAULTS_BEGIN), 0.0)
    drawn = [_strike(fault, began) for fault in outcome.faults]
    strikes = [strike for strike in drawn if strike.began < scale.ends_at]
    everywhere = _rows([x for x in strikes if x.lane == POOL])
    lanes = _lanes(spans)
    first = TOP + max(len(everywhere), 1) * FAULT_ROW + 14
    tops = {lane: first + number * LANE for number, lane in enumerate(lanes)}
    bottom = first + len(lanes) * LANE
    parts = [
        *_axis(scale, bottom),
        *(_bar(scale, span, tops[span.lane]) for span in spans if span.lane in tops),
        *_everywhere(scale, everywhere),
        *(_outline(scale, x, tops[x.lane]) for x in strikes if x.lane in tops),
        *(_mark(scale, x, tops.get(x.lane, TOP - 14)) for x in marks),
        *(_violation(scale, x, bottom) for x in marks if x.kind == "violation"),
        *(_label(8, top + 15, lane) for lane, top in tops.items()),
        _label(8, TOP + 11, "everywhere"),
        *_legend(bottom + 34),
    ]
    return _page(outcome, parts, height=bottom + 84)


def _page(outcome: Outcome, parts: list[str], *, height: float) -> str:
    verdict = "; ".join(outcome.violations) or "every invariant holds"
    colour = "#d00000" if outcome.violations else "#2d6a4f"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text x="8" y="20" font-size="15" font-weight="bold">{escape(outcome.replay)}</text>',
            f'<text x="8" y="36" font-size="12" fill="{colour}">{escape(verdict[:230])}</text>',
            *parts,
            "</svg>\n",
        )
    )


# --- what is where


def _lanes(spans: list[Span]) -> list[str]:
    """Give masters, hosts, then guests in the order in which they first ran."""
    names = dict.fromkeys(span.lane for span in sorted(spans, key=lambda span: span.began))
    masters = sorted(name for name in names if name.startswith("master"))
    hosts = sorted((name for name in names if name.startswith("host")), key=lambda x: int(x[4:]))
    guests = [name for name in names if name not in masters and name not in hosts]
    return [*masters, *hosts, *guests[:GUESTS_MAX]]


def _strike(fault: Fault, began: float) -> _Strike:
    values = {
        name: getattr(fault, name)
        for name in fault.__dataclass_fields__
        if name not in {"at", "lasts"}
    }
    if "master" in values:
        lane = f"master{values.pop('master')}"
    elif "host" in values:
        lane = f"host{values.pop('host')}"
    else:
        lane = values.pop("who", POOL)
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    text = f"{type(fault).__name__} {said}".strip()
    return _Strike(lane, began + fault.at, began + fault.at + fault.lasts, text)


def _rows(strikes: list[_Strike]) -> list[list[_Strike]]:
    """Lay what overlaps into rows of its own."""
    rows: list[list[_Strike]] = []
    for strike in sorted(strikes, key=lambda x: x.began):
        for row in rows:
            # Its words need room, however short it is.
            if row[-1].ended <= strike.began and strike.began - row[-1].began > 7.0:
                row.append(strike)
                break
        else:
            rows.append([strike])
    return rows


# --- how it looks


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-weight="bold">{escape(text)}</text>'


def _axis(scale: _Scale, bottom: float) -> list[str]:
    step = next(x for x in (1, 5, 10, 60, 300, 3_600, 86_400) if scale.ends_at / x <= 40)
    parts = []
    for number in range(int(scale.ends_at // step) + 1):
        x = scale.x(number * step)
        parts.append(f'<line x1="{x}" y1="{TOP - 4}" x2="{x}" y2="{bottom}" stroke="#eeeeee"/>')
        parts.append(
            f'<text x="{x}" y="{bottom + 14}" fill="#777777" text-anchor="middle">{number * step} s</text>'
        )
    return parts


def _bar(scale: _Scale, span: Span, top: float) -> str:
    x, end = scale.x(span.began), scale.x(span.ended)
    colour = COLOURS.get(span.kind) or _colour_of_host(span.kind)
    words = span.text or span.kind
    is_faint = "paused" in words
    told = f"{span.lane}: {words}, {span.began:.2f} to {span.ended:.2f} s"
    width = max(end - x, 1.0)
    if span.kind == "twice":
        x, width = x - 5, width + 5  # it may have lasted no time at all, and is what one looks for
    parts = [
        f'<rect x="{x}" y="{top + 5}" width="{width:.1f}" height="{BAR}" fill="{colour}"'
        f' fill-opacity="{0.45 if is_faint else 1}"><title>{escape(told)}</title></rect>'
    ]
    if span.kind not in COLOURS and width > 34:
        parts.append(f'<text x="{x + 3}" y="{top + 16}" font-size="10">{escape(span.kind)}</text>')
    return "".join(parts)


def _colour_of_host(name: str) -> str:
    number = int(name[4:]) if name[:4] == "host" and name[4:].isdigit() else 0
    return GUEST_COLOURS[number % len(GUEST_COLOURS)]


def _everywhere(scale: _Scale, rows: list[list[_Strike]]) -> list[str]:
    return [
        _struck(scale, strike, TOP + number * FAULT_ROW, FAULT_ROW - 3)
        for number, row in enumerate(rows)
        for strike in row
    ]


def _outline(scale: _Scale, strike: _Strike, top: float) -> str:
    return _struck(scale, strike, top + 1, LANE - 4)


def _struck(scale: _Scale, strike: _Strike, top: float, height: float) -> str:
    x = scale.x(strike.began)
    width = max(scale.x(strike.ended) - x, 2.0)
    told = f"{strike.text}, {strike.began:.2f} to {strike.ended:.2f} s"
    words = strike.text if strike.lane == POOL else strike.text.split(" ")[0]
    return (
        f'<g><rect x="{x}" y="{top}" width="{width:.1f}" height="{height}" fill="#d00000" fill-opacity="0.10"'
        f' stroke="#d00000" stroke-width="0.8"/><text x="{x + 2}" y="{top + 9}" font-size="9"'
        f' fill="#9d0208">{escape(words)}</text><title>{escape(told)}</title></g>'
    )


def _mark(scale: _Scale, mark: Mark, top: float) -> str:
    if mark.kind in {"violation", FAULTS_BEGIN}:
        return ""
    sign, colour = MARKS.get(mark.kind, CUT)
    told = f"{mark.at:.2f} s: {mark.text or mark.kind}"
    return (
        f'<text x="{scale.x(mark.at)}" y="{top + LANE - 1}" font-size="11" fill="{colour}"'
        f' text-anchor="middle">{sign}<title>{escape(told)}</title></text>'
    )


def _violation(scale: _Scale, mark: Mark, bottom: float) -> str:
    x = scale.x(mark.at)
    return (
        f'<g><line x1="{x}" y1="{TOP - 12}" x2="{x}" y2="{bottom}" stroke="#d00000" stroke-width="2"/>'
        f'<text x="{x - 4}" y="{TOP - 4}" fill="#d00000" font-weight="bold" text-anchor="end">'
        f"violation</text><title>{escape(mark.text)}</title></g>"
    )


def _legend(top: float) -> list[str]:
    parts = []
    for number, (kind, words) in enumerate(LEGEND):
        x = LEFT + number * 138
        parts.append(
            f'<rect x="{x}" y="{top - 9}" width="11" height="11" fill="{COLOURS[kind]}" stroke="#999999"'
            f' stroke-width="0.4"/><text x="{x + 15}" y="{top}">{words}</text>'
        )
    for number, (sign, words) in enumerate(MARK_LEGEND):
        x = LEFT + number * 138
        parts.append(f'<text x="{x}" y="{top + 20}">{sign} {words}</text>')
    x = LEFT + len(MARK_LEGEND) * 138
    parts.append(
        f'<rect x="{x}" y="{top + 10}" width="11" height="11" fill="#d00000" fill-opacity="0.1" stroke="#d00000"'
        f'/><text x="{x + 15}" y="{top + 20}">a fault strikes; guests have their host\'s colour</text>'
    )
    return parts
