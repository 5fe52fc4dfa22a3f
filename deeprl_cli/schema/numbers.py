"""Numbers as people write them, and how deeprl wants them: `1M`, `100,000`, `10%`, `1e–3`."""

from __future__ import annotations

import re

_DASHES = str.maketrans({"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": "x", "·": "x", "∗": "*"})
_UNITS = {"k": 10**3, "m": 10**6, "mio": 10**6, "million": 10**6, "g": 10**9, "b": 10**9, "billion": 10**9}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"


def meant_number(text: str) -> str | None:
    """How to write the number that `text` is; None where it is none, or written so already."""
    plain = text.strip().translate(_DASHES).lower()
    found = (
        _with_unit(plain)
        or _grouped(plain)
        or _power(plain)
        or _shared(plain)
        or (plain if _is_number(plain) else None)
    )
    return None if found == text else found


def _is_number(text: str) -> bool:
    return re.fullmatch(rf"{_NUMBER}(?:e[-+]?\d+)?", text) is not None


def _with_unit(text: str) -> str | None:
    match = re.fullmatch(rf"({_NUMBER})\s*({'|'.join(_UNITS)}|%)", text)
    if match is None:
        return None
    number, unit = match.groups()
    return f"{float(number) / 100:g}" if unit == "%" else _written(float(number) * _UNITS[unit])


def _grouped(text: str) -> str | None:
    """`100,000`, `1.000.000`, `100 000`; and `0,99`, which has a comma for its point. (`64,128` may well be a list.)"""
    groups = (r"(?:,\d{3})*,000", r"(?:\.\d{3}){2,}", r"(?:[ '_]\d{3})+")
    if re.fullmatch(rf"[-+]?[1-9]\d{{0,2}}(?:{'|'.join(groups)})", text):
        return re.sub(r"[,. '_]", "", text)
    return text.replace(",", ".") if re.fullmatch(r"[-+]?0,\d+", text) else None


def _power(text: str) -> str | None:
    """`3*10^-4`, `10**5`, `2^16`."""
    match = re.fullmatch(rf"(?:({_NUMBER})\s*[*x]\s*)?(\d+)\s*(?:\^|\*\*)\s*(-?\d{{1,2}})", text)
    if match is None:
        return None
    factor, base, exponent = match[1] or "1", int(match[2]), int(match[3])
    return f"{factor}e{exponent}" if base == 10 else _written(float(factor) * base**exponent)


def _shared(text: str) -> str | None:
    """`1/3`."""
    match = re.fullmatch(rf"({_NUMBER})\s*/\s*({_NUMBER})", text)
    return f"{float(match[1]) / float(match[2]):.6g}" if match and float(match[2]) else None


def _written(number: float) -> str:
    """`1.5e6` where that is short; anything else in full."""
    if number != int(number):
        return f"{number:g}"
    whole = str(int(number))
    exponent = len(whole.lstrip("-")) - 1
    mantissa = f"{number / 10**exponent:g}"
    return f"{mantissa}e{exponent}" if exponent >= 4 and len(mantissa) <= 4 else whole
