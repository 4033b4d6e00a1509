"""A few functions that write SVG: escaped elements, axes with round ticks, wrapped text.

Colours come from the page's CSS variables through classes, so one drawing serves light, dark and print.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bertcompress.report import text


def _attribute(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".").replace("-0", "0" if abs(value) < 0.005 else "-0")
    return text.escape(value)


def element(tag: str, *children: str, **attributes: object) -> str:
    """Return an element: children are markup, attributes are escaped, `class_` and `text_anchor` lose underscores."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    names |= {"viewBox": "viewBox"}
    listed = "".join(f' {names[name]}="{_attribute(value)}"' for name, value in attributes.items() if value is not None)
    inside = "".join(children)
    return f"<{tag}{listed}>{inside}</{tag}>" if inside else f"<{tag}{listed}/>"


def words(content: object, x: float, y: float, class_: str = "", anchor: str | None = None, **more: object) -> str:
    """Return a text element of one line, its content escaped."""
    return element("text", text.escape(content), x=x, y=y, class_=class_ or None, text_anchor=anchor, **more)


def tip(content: object) -> str:
    """Return a title: what a pointer that rests on the shape, or a screen reader, is told."""
    return element("title", text.escape(content))


def drawing(width: float, height: float, label: str, *children: str, class_: str = "") -> str:
    """Return an SVG of that size in CSS pixels that shrinks with its place and says what it shows."""
    return element(
        "svg",
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
        aria_label=label,
        class_=class_ or None,
    )


def wrap(content: str, characters: int) -> list[str]:
    """Break a text into lines of so many characters at most; a long word is broken too."""
    return textwrap.wrap(text.clean(content), characters, break_on_hyphens=False) or [""]


def shorten(content: str, characters: int) -> str:
    """Cut a text to so many characters, with an ellipsis where something is missing."""
    content = text.clean(content)
    return content if len(content) <= characters else content[: characters - 1] + "\u2026"


@dataclass(frozen=True)
class Axis:
    """A mapping from values to pixels: linear or logarithmic, from `low` at `start` to `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values outside are held at the ends."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Return round values between the ends."""
        if self.logarithmic:
            return _logarithmic_ticks(self.low, self.high, wanted)
        step = _round_step((self.high - self.low) / wanted)
        first = math.ceil(self.low / step - 1e-9)
        return [place * step for place in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _logarithmic_ticks(low: float, high: float, wanted: int) -> list[float]:
    for factors in ((1, 2, 5), (1, 3), (1,)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        values = [value for value in values if low * 0.999 <= value <= high * 1.001]
        if len(values) <= wanted + 2:
            break
    return values


def cost_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Return an axis for costs: from zero, or logarithmic where the largest is many times the smallest."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 6:
        return Axis(low / 1.35, high * 1.35, start, end, True)
    return Axis(0.0, high * 1.12 or 1.0, start, end)


def gain_axis(values: Sequence[float], start: float, end: float, least: float = 0.02) -> Axis:
    """Return an axis for scores: as far as the values reach, at least `least` wide, with a margin."""
    low, high = min(values), max(values)
    spare = max((high - low) * 0.12, (least - (high - low)) / 2, 1e-9)
    return Axis(low - spare, high + spare, start, end)


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """Return a tick's text with as many decimals as the ticks' distance needs."""
    gaps = [abs(second - first) for first, second in pairwise(ticks) if second != first]
    gap = min([*gaps, abs(value) or 1.0])
    decimals = max(0, -math.floor(math.log10(gap) + 1e-9)) if gap < 1 else 0
    if gap < 1 and any(abs(round(each, decimals) - each) > gap * 0.01 for each in ticks):
        decimals += 1
    elif gap >= 1 and any(abs(each - round(each)) > 1e-6 for each in ticks):
        decimals = 1
    if value == 0:
        return "0"
    return f"{value:,.{decimals}f}".replace("-", text.MINUS)
