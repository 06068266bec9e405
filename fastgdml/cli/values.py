"""Values of arguments and options: what texts are numbers, ranges, seeds."""

from __future__ import annotations

import argparse
import re

from ..length_scale import AUTO


def positive_int(text: str) -> int:
    """Parse an integer > 0."""
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    if value >= 2**31:
        raise argparse.ArgumentTypeError(f"{text} is too large")
    return value


def several(text: str) -> int:
    """Parse an integer > 1."""
    value = positive_int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{text} is not more than 1")
    return value


def seed(text: str) -> int:
    """Parse a seed, 0 <= seed < 2**32."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {2**32 - 1}")
    return value


def positive_float(text: str) -> float:
    """Parse a number > 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def int_or_range(text: str) -> list[int]:
    """Parse an integer or a range start:[step:]stop that includes its stop."""
    if not re.fullmatch(r"\d+(:\d+){0,2}", text):
        raise argparse.ArgumentTypeError(f"{text} is neither an integer nor a range <start>:[<step>:]<stop>")
    numbers = [int(part) for part in text.split(":")]
    start, stop, step = numbers[0], numbers[-1], numbers[1] if len(numbers) == 3 else 1
    if step == 0:
        raise argparse.ArgumentTypeError(f"{text} has step 0")
    if (stop - start) // step >= 10_000 or stop > 10**9:
        raise argparse.ArgumentTypeError(f"{text} asks for more or larger length scales than make sense")
    values = list(range(start, stop + 1, step))
    if not values or values[0] == 0:
        raise argparse.ArgumentTypeError(f"{text} is an empty range or contains 0")
    return values


def sigma(text: str) -> list[int] | str:
    """Parse 'auto', an integer, or a range."""
    return text if text == AUTO else int_or_range(text)
