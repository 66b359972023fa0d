"""Reads ``npz`` files from strangers: sizes are known and bounded before anything is unpacked, and nothing is executed.

Source of the formats: numpy.lib.format's documentation, and PKWARE's APPNOTE for zip.
"""

import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ode_core.datasets.labelled_arrays import ArraysRefused

KNOWN = ("inputs", "labels", "test_inputs", "test_labels")
MAGIC = b"PK"
_LONGEST_HEADER = 10_000
_START = b"\x93NUMPY"
_LENGTHS = {b"\x01\x00": "<H", b"\x02\x00": "<I"}  # of the header, by the format's version
_HEADER = re.compile(
    rb"\{ ?'descr': ?'(?P<kind>[ -&(-~]{1,20})', ?'fortran_order': ?(?P<by_column>True|False), ?"
    rb"'shape': ?\((?P<shape>(\d{1,15}, ?){0,8}(\d{1,15})?)\),? ?\}\s*"
)
_NUMBERS = re.compile(r"\|?b1|\|?[iu]1|[<>=]?[iu][248]|[<>=]?f[248]")


def read_npz(path: Path, limit: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an ``npz`` file by name.

    Args:
        path: the file.
        limit: bytes that all arrays may take together.

    Raises:
        ArraysRefused: it is no npz file of the arrays we know, or they are too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, limit)
            return {member.filename.removesuffix(".npy"): _read(archive, member) for member in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise ArraysRefused(f"the file is not a whole npz file ({error}): make it with numpy.savez") from None


def _check_members(members: list[zipfile.ZipInfo], limit: int) -> None:
    names = [member.filename for member in members]
    known = [f"{name}.npy" for name in KNOWN]
    if unknown := sorted(set(names) - set(known)):
        raise ArraysRefused(f"the npz file holds {unknown[0][:80]!r}: it may hold {', '.join(KNOWN)}")
    if len(names) != len(set(names)):
        raise ArraysRefused("the npz file holds an array twice")
    unpacked = sum(member.file_size for member in members)
    if unpacked > limit:
        raise ArraysRefused(
            f"the arrays take {unpacked:,} bytes, more than the {limit:,} allowed: upload fewer samples",
            too_large=True,
        )
    for member in members:
        if member.flag_bits & 0x1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArraysRefused(
                f"{member.filename} is packed in a way that numpy.savez and savez_compressed do not use"
            )


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with archive.open(member) as file:
        shape, by_column, dtype = _read_header(file, member.filename)
        size = math.prod(shape) * dtype.itemsize
        if size != member.file_size - file.tell():
            raise ArraysRefused(f"{member.filename} does not have the size that its header promises: save it anew")
        buffer = bytearray(size)
        _fill(file, buffer, member.filename)
        if file.read(1):  # at its end the member's checksum is compared
            raise ArraysRefused(f"{member.filename} does not end where it should: save it anew")
    try:
        return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if by_column else "C")
    except ValueError:  # no numbers at all, in a shape of which one length is beyond reach
        raise ArraysRefused(f"{member.filename} has the impossible shape {list(shape)}: save it anew") from None


def _read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header by its fixed form instead of evaluating it, as numpy does, as a Python expression."""
    no_array = ArraysRefused(f"{name} is not an array as numpy.save writes it: save it anew")
    start = file.read(len(_START) + 2)
    if start[:-2] != _START or start[-2:] not in _LENGTHS:
        raise no_array
    length_format = _LENGTHS[start[-2:]]
    packed = file.read(struct.calcsize(length_format))
    if len(packed) < struct.calcsize(length_format):
        raise no_array
    (length,) = struct.unpack(length_format, packed)
    if length > _LONGEST_HEADER:
        raise no_array
    found = _HEADER.fullmatch(file.read(length))
    if found is None:
        raise no_array
    kind, by_column, lengths = found["kind"].decode(), found["by_column"] == b"True", found["shape"].split(b",")
    if not _NUMBERS.fullmatch(kind):
        raise ArraysRefused(
            f"{name} has type {kind}: only integers and floating-point numbers are read, never Python objects, texts "
            f"or records: convert it to a numeric array"
        )
    return tuple(int(number) for number in lengths if number.strip()), by_column, np.dtype(kind)


def _fill(file: IO[bytes], buffer: bytearray, name: str) -> None:
    view, filled = memoryview(buffer), 0
    while filled < len(buffer):
        part = file.read(min(1 << 20, len(buffer) - filled))
        if not part:
            raise ArraysRefused(f"{name} ends early: save it anew")
        view[filled : filled + len(part)] = part
        filled += len(part)
