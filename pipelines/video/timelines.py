"""Draw what was found in a video along its time: shots, clips and tracks, as SVG for a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDE, _LABELS, _ROW, _BAR = 1000, 90, 20, 12
_LANES = 8
"""Rows of tracks; faces of further people are counted, not drawn."""
_TICKS = 8
_STEPS_S = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a video in seconds, and what is said of it."""

    start_s: float
    end_s: float
    words: str
    colour: str
    """As CSS has it."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One video: what it is called, and what is in it."""

    title: str
    words: str
    duration_s: float
    shots: Sequence[Span]
    clips: Sequence[Span]
    tracks: Mapping[str, Sequence[Span]] = field(default_factory=dict)
    """By person, shortened; faces of nobody under ``""``."""

    @property
    def left_out(self) -> int:
        """How many people's tracks are not drawn."""
        return max(len(self.tracks) - _LANES, 0)


def timeline_svg(video: Timeline) -> str:
    """Draw a row of shots, one of clips, and one per person with the tracks of their face."""
    lanes = list(video.tracks.items())[:_LANES]
    rows = [("shots", video.shots), ("clips", video.clips)]
    rows += [(person or "nobody", spans) for person, spans in lanes]
    high = _ROW * (len(rows) + 1)
    drawn = []
    for number, (name, spans) in enumerate(rows):
        top = number * _ROW + (_ROW - _BAR) / 2
        drawn.append(
            f'<text x="0" y="{top + _BAR - 2:g}" class="label">{escape(name)}</text>'
            f'<line x1="{_LABELS}" x2="{_WIDE}" y1="{top + _BAR / 2:g}" y2="{top + _BAR / 2:g}"'
            ' class="base"/>'
        )
        drawn += [_bar(span, video.duration_s, top) for span in spans]
    drawn += _axis(video.duration_s, _ROW * len(rows))
    told = ", ".join(f"{name}: {len(spans)}" for name, spans in rows)
    return (
        f'<svg role="img" aria-label="{escape(f"Timeline of {video.title}. {told}.")}"'
        f' class="timeline" viewBox="0 0 {_WIDE} {high}">{"".join(drawn)}</svg>'
    )


def _at(time_s: float, duration_s: float) -> float:
    return _LABELS + (_WIDE - _LABELS) * time_s / max(duration_s, 1e-9)


def _bar(span: Span, duration_s: float, top: float) -> str:
    left, right = (_at(time_s, duration_s) for time_s in (span.start_s, span.end_s))
    # A gap of one unit, so that neighbours are seen to be two.
    wide = max(right - left - 1, 1)
    return (
        f'<rect x="{left:.1f}" y="{top:g}" width="{wide:.1f}" height="{_BAR}" rx="2"'
        f' fill="{escape(span.colour)}"><title>{escape(span.words)}</title></rect>'
    )


def _axis(duration_s: float, top: float) -> list[str]:
    """Write the times at even steps."""
    step_s = next((s for s in _STEPS_S if duration_s / s <= _TICKS), _STEPS_S[-1])
    marks = []
    for number in range(int(duration_s / step_s) + 1):
        time_s = number * step_s
        anchor = "end" if _at(time_s, duration_s) > _WIDE - 30 else "start"
        marks.append(
            f'<text x="{_at(time_s, duration_s):.1f}" y="{top + 13:g}" class="tick"'
            f' text-anchor="{anchor}">{clock(time_s)}</text>'
        )
    return marks


def clock(time_s: float) -> str:
    """Write a time as players do: 1:05, 1:02:03, or 2.5 s where it is short of a minute."""
    if time_s < 60:
        return f"{time_s:g} s"
    minutes, seconds = divmod(int(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
