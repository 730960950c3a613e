"""A few bytes of a file changed at random."""

from __future__ import annotations

import struct
from collections.abc import Callable

from numpy.random import Generator

BYTES = bytes.fromhex("00 01 7f 80 fe ff")
NUMBERS = (0, 1, 2, 3, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def change_bytes(content: bytes, generator: Generator) -> bytes:
    """Change a few bytes, the first ones more often, since these determine what follows."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        _EDITS[generator.integers(len(_EDITS))](data, generator)
    return bytes(data)


def _place(data: bytearray, generator: Generator) -> int:
    end = len(data) if generator.random() < 0.5 else min(len(data), 256)
    return int(generator.integers(end)) if end else 0


def _flip_bit(data: bytearray, generator: Generator) -> None:
    if data:
        data[_place(data, generator)] ^= 1 << int(generator.integers(8))


def _set_byte(data: bytearray, generator: Generator) -> None:
    if data:
        data[_place(data, generator)] = BYTES[generator.integers(len(BYTES))]


def _set_number(data: bytearray, generator: Generator) -> None:
    """Write a number such as a header has, at the limits of what it can be."""
    layout = ("<I", ">I", "<H", ">H", "<Q")[generator.integers(5)]
    largest = 2 ** (8 * struct.calcsize(layout)) - 1
    number = min(NUMBERS[generator.integers(len(NUMBERS))], largest)
    start = _place(data, generator)
    data[start : start + struct.calcsize(layout)] = struct.pack(layout, number)


def _truncate(data: bytearray, generator: Generator) -> None:
    del data[_place(data, generator) :]


def _remove(data: bytearray, generator: Generator) -> None:
    start = _place(data, generator)
    del data[start : start + int(generator.integers(1, 64))]


def _repeat(data: bytearray, generator: Generator) -> None:
    start = _place(data, generator)
    piece = data[start : start + int(generator.integers(1, 512))]
    data[start:start] = piece * int(generator.integers(1, 20))


def _insert_noise(data: bytearray, generator: Generator) -> None:
    start = _place(data, generator)
    data[start:start] = generator.bytes(int(generator.integers(1, 64)))


_EDITS: tuple[Callable[[bytearray, Generator], None], ...]
_EDITS = (_flip_bit, _flip_bit, _set_byte, _set_number, _truncate, _remove, _repeat, _insert_noise)
