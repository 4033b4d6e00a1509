"""Numbers and strings as a reader wants them, and the escaping that keeps data from becoming markup."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence

THIN_SPACE = "\u202f"  # between a number and its unit: it never breaks over a line
DASH = "\u2013"
MINUS = "\u2212"
TIMES = "\u00d7"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]|[\ud800-\udfff]")
_DIRECTION = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#!|~$&])")


def number(value: object) -> float | None:
    """Return a finite number, or None for anything else (missing, text, booleans, NaN, infinity)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def mapping(value: object) -> Mapping[str, object]:
    """Return the value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[object]:
    """Return the value where it is a list or tuple, else an empty one."""
    return value if isinstance(value, list | tuple) else ()


def interval(value: object) -> tuple[float, float] | None:
    """Return the two ends of an interval, or None where they are not two finite numbers in order."""
    ends = [number(each) for each in sequence(value)]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] > ends[1]:
        return None
    return ends[0], ends[1]


def clean(value: object) -> str:
    """Return the value as text without control characters, which neither HTML nor XML allows."""
    return _CONTROL.sub("\ufffd", str(value))


def foreign(value: object) -> str:
    """Return text of a data set, clean and without the characters that turn the direction of what stands around it."""
    return _DIRECTION.sub("", clean(value))


def escape(value: object) -> str:
    """Escape for HTML and SVG, in text and in quoted attributes alike."""
    return html.escape(clean(value), quote=True)


def markdown(value: object) -> str:
    """Escape for one line of Markdown, table cells included."""
    return _MARKDOWN.sub(r"\\\1", " ".join(clean(value).split()))


def code(value: object) -> str:
    """Return a Markdown code span on one line; a longer fence where the text itself holds backticks."""
    text = " ".join(clean(value).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def significant(value: float, digits: int = 3) -> str:
    """Return the value with about that many significant digits, no exponent, thousands separated."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(decimals, 12)}f}"
    return text.replace("-", MINUS)


def whole(value: float) -> str:
    """Return a whole number with its thousands separated: 22,713,986."""
    return f"{value:,.0f}".replace("-", MINUS)


def magnitude(value: float) -> str:
    """Return a count with a unit of thousands: 22.7 M, 1.37 G."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{significant(value / limit)}{THIN_SPACE}{suffix}"
    return whole(value)


def mebibytes(size: float) -> str:
    """Return bytes as MiB of 2^20 bytes, without the unit."""
    mib = size / 2**20
    return f"{mib:,.1f}" if mib >= 10 else significant(mib)


def score(value: float) -> str:
    """Return a score with three decimals and a proper minus sign."""
    return f"{value:.3f}".replace("-", MINUS)


def points(difference: float) -> str:
    """Return a difference of scores in points of a hundred, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def percent(share: float) -> str:
    """Return a share as per cent with one decimal, never rounded up to a full 100."""
    shown = f"{100 * share:.1f}"
    if shown == "100.0":
        shown = "100" if share == 1 else "99.9" if share < 1 else shown
    return f"{shown.replace('-', MINUS)}{THIN_SPACE}%"


def times(ratio: float) -> str:
    """Return a ratio with its multiplication sign: 1.05x, 4.6x, 31x."""
    digits = 2 if ratio < 1.195 else 1 if ratio < 19.95 else 0
    return f"{ratio:,.{digits}f}{TIMES}"


def milliseconds(value: float) -> str:
    """Return milliseconds with three significant digits, without the unit."""
    return significant(value)


def duration(seconds: float) -> str:
    """Return seconds as a person would say them: 8.1 s, 1 min 21 s, 3 h 05 min."""
    if seconds < 59.95:
        return f"{significant(seconds, 2) if seconds < 10 else format(seconds, '.0f')}{THIN_SPACE}s"
    total = round(seconds)
    if total < 3600:
        return f"{total // 60}{THIN_SPACE}min {total % 60:02d}{THIN_SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{THIN_SPACE}h {minutes % 60:02d}{THIN_SPACE}min"


def plain(value: object) -> str:
    """Return a setting's value as YAML users write it: true, null, a, b, {x: 1}."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {plain(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(plain(each) for each in value) + "]"
    return clean(value)


def listed(items: Sequence[str], joint: str = "and") -> str:
    """Return the items as a phrase: a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {joint} {items[-1]}"


def counted(amount: int, thing: str) -> str:
    """Return a count with its noun: 1 layer, 3 layers."""
    return f"{amount:,} {thing}" + ("" if amount == 1 else "s")
