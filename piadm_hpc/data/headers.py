"""The length of a NetCDF-3 or HDF5 file according to its header: readers fill a missing end with zeros."""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import BinaryIO

HDF5 = b"\x89HDF\r\n\x1a\n"
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
"""Bytes of a value of each external type of the classic formats (NetCDF User's Guide, appendix B)."""


def require_whole(path: Path) -> None:
    """Raise ValueError, with both sizes, for a file that is shorter than its header promises."""
    if not path.is_file():
        return  # a Zarr store is a folder
    there = path.stat().st_size
    try:
        promised = promised_bytes(path)
    except (struct.error, KeyError, IndexError, OSError):
        raise ValueError(
            f"is truncated within its header, after {there} bytes, or the header is damaged; copy the file again"
        ) from None
    if there < promised:
        raise ValueError(f"is truncated: {there} of {promised} bytes are there; copy the file again")


def is_hdf5(path: Path) -> bool:
    """Return whether a file begins as HDF5 files do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(HDF5)) == HDF5


def promised_bytes(path: Path) -> int:
    """The smallest size of a NetCDF-3 or HDF5 file with this header; 0 for files of other formats.

    Raises struct.error, KeyError, IndexError or OSError for a truncated or damaged header.
    """
    with path.open("rb") as file:
        magic = file.read(8)
        if magic == HDF5:
            return _end_of_hdf5(file)
        if magic[:3] == b"CDF" and magic[3:4] in (b"\x01", b"\x02", b"\x05"):
            file.seek(4)
            return _Classic(file, magic[3]).end()
    return 0


def _end_of_hdf5(file: BinaryIO) -> int:
    """The end-of-file address in the superblock, of which there are versions 0 to 3."""
    version = file.read(1)[0]
    place, size_at = {0: (40, 13), 1: (44, 13), 2: (28, 9), 3: (28, 9)}[version]
    file.seek(size_at)
    if file.read(1)[0] != 8:
        return 0  # addresses of another width are not written by any current library
    file.seek(place)
    (end,) = struct.unpack("<Q", file.read(8))
    return int(end)


class _Classic:
    """Reads the header of a NetCDF-3 file of version 1 (classic), 2 (64-bit offsets) or 5 (64-bit data)."""

    def __init__(self, file: BinaryIO, version: int):
        self.file = file
        self.count_form = ">q" if version == 5 else ">i"
        self.offset_form = ">i" if version == 1 else ">q"

    def end(self) -> int:
        """The byte after the last value of the last variable."""
        records = self._number(self.count_form)
        lengths = [self._dimension() for _ in range(self._list())]
        self._attributes()
        ends, steps, in_records = [0], [], []
        for _ in range(self._list()):
            sizes, width, begin = self._variable(lengths)
            if sizes and sizes[0] == 0:
                once = width * prod(sizes[1:])
                steps.append(once)
                in_records.append((begin, once))
            else:
                ends.append(begin + width * prod(sizes))
        # a record holds every variable padded to four bytes, unless there is just one
        step = steps[0] if len(steps) == 1 else sum(size + -size % 4 for size in steps)
        if records > 0:  # -1 where the writer did not know
            ends += [begin + (records - 1) * step + once for begin, once in in_records]
        return max(ends)

    def _number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.file.read(struct.calcsize(form)))
        return int(value)

    def _list(self) -> int:
        self._number(">i")  # the tag of the list
        return self._number(self.count_form)

    def _skip(self, size: int) -> None:
        self.file.seek(size + -size % 4, 1)

    def _dimension(self) -> int:
        self._skip(self._number(self.count_form))  # its name
        return self._number(self.count_form)

    def _attributes(self) -> None:
        for _ in range(self._list()):
            self._skip(self._number(self.count_form))
            width = SIZES[self._number(">i")]
            self._skip(width * self._number(self.count_form))

    def _variable(self, lengths: list[int]) -> tuple[list[int], int, int]:
        """Lengths of a variable's dimensions (0 for records), bytes of a value, and where its values begin."""
        self._skip(self._number(self.count_form))
        sizes = [lengths[self._number(self.count_form)] for _ in range(self._number(self.count_form))]
        self._attributes()
        width = SIZES[self._number(">i")]
        self._number(self.count_form)  # the size, which overflows for large variables
        return sizes, width, self._number(self.offset_form)
