"""Checkpoints as somebody with bad intentions would write them: with a right digest."""

import hashlib
import io
import struct
import zipfile
import zlib

import numpy as np

from im2colx.nn import checkpoint


def forge(path, members, compression=zipfile.ZIP_STORED):
    """Write a file with any members (name: bytes) whose digest is right, as somebody with bad intentions would."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = checkpoint.MARK + b"0" * 64
    data = buffer.getvalue()[:-64]
    path.write_bytes(data + hashlib.sha256(data).hexdigest().encode())


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


FACTS_MEMBER = npy(np.frombuffer(b"{}", np.uint8))


def lying(header):
    """A .npy member of version 1.0 with any header, and no data."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def overlapping(count, kernel):
    """An archive whose members all end with the same bytes: each holds all that follow it, headers included."""
    pieces, data = [], kernel
    for number in reversed(range(count)):
        name = b"facts.npy" if number == 0 else b"a%d.npy" % number
        content = npy(np.empty(0, np.uint8)).replace(b"(0,)", b"(%d,)" % len(data)) + data
        sizes = struct.pack("<III", zlib.crc32(content), len(content), len(content))
        local = b"PK\3\4" + struct.pack("<HHHI", 20, 0, 0, 0x210000) + sizes + struct.pack("<HH", len(name), 0) + name
        pieces.append((local, sizes, name))
        data = local + content
    central = b""
    for (_, sizes, name), start in zip(reversed(pieces), starts_of(data, len(pieces)), strict=True):
        head = b"PK\1\2" + struct.pack("<HHHHI", 20, 20, 0, 0, 0x210000) + sizes
        central += head + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, start) + name
    offset, comment = len(data), checkpoint.MARK + b"0" * 64
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(central), offset, len(comment))
    data += central + end + comment[:-64]
    return data + hashlib.sha256(data).hexdigest().encode()


def starts_of(data, count):
    """Where the local headers begin."""
    at = 0
    for _ in range(count):
        yield at
        at = data.find(b"PK\3\4", at + 1)
