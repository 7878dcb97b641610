"""Files from a stranger: idx and gzip (im2colx/datasets.py) and checkpoints (im2colx/nn/checkpoint.py), damaged, cut off, or
made to lie.  A reader gives the arrays or a documented error, whatever the file; in bounded memory and time.

Each trial is a file made of good ones by a few changes: bytes and bits flipped, parts cut out, doubled or moved, numbers of a
header replaced by boundary values, members of a zip declared larger, overlapping, compressed or encrypted, digests put right
again.  What must hold of each: only DataError or ValueError; memory at most a few times the file's own size and the array's
limit; and what is accepted is what was written, unless the digest was put right on purpose.
"""

import gzip
import hashlib
import io
import json
import resource
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import common
import numpy as np

from im2colx import datasets
from im2colx.nn import checkpoint

QUICK, FULL = 4_000, 100_000
LIMIT = 1 << 20  # bytes of an array that read_idx is asked for at most
SECONDS = 1.0
# A reader holds the file, the array, and pieces of a megabyte of either; a thousandth of what a bomb would take.
SPARE = 8 << 20
ADDRESS_SPACE = 6 << 30  # of this process: what escapes the count of Python's memory ends as a MemoryError


# ---- Good files ------------------------------------------------------------------------------------------------------


def idx(rng):
    shape = tuple(int(n) for n in rng.integers(0, 9, rng.integers(1, 5)))
    head = bytes([0, 0, 8, len(shape)]) + b"".join(struct.pack(">I", n) for n in shape)
    return head + rng.integers(0, 256, int(np.prod(shape)), np.uint8).tobytes()


def zipped(rng, content):
    return gzip.compress(content, int(rng.integers(0, 10)), mtime=0)


def saved(rng):
    kinds = ("f4", "f8", "i8", "u1", "c16", "?", "U3", "<f4", ">i2")
    arrays = {}
    for number in range(rng.integers(0, 4)):
        shape = tuple(rng.integers(0, 6, rng.integers(0, 4)))
        arrays[f"{number}.weight"] = rng.integers(0, 2, shape).astype(kinds[rng.integers(len(kinds))])
    facts = {"epoch": int(rng.integers(0, 100)), "names": list(arrays), "loss": float(rng.random())}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.npz")
        checkpoint.save_checkpoint(path, arrays, facts)
        return path.read_bytes()


# ---- Damage ----------------------------------------------------------------------------------------------------------

BOUNDARY = [0, 1, 2, 3, 2**24] + [2**bits + less for bits in (7, 8, 15, 16, 31, 32, 63, 64) for less in (-1, 0)]


def number_at(rng, data, at, size, big):
    value = BOUNDARY[rng.integers(len(BOUNDARY))] % 256**size
    return data[:at] + value.to_bytes(size, "big" if big else "little") + data[at + size :]


def changed(rng, data):
    """One change of any kind."""
    if not data:
        return bytes(rng.integers(0, 256, rng.integers(0, 40), np.uint8))
    at, kind = int(rng.integers(len(data))), rng.integers(9)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + bytes([int(rng.integers(256))]) + data[at + 1 :]
    if kind == 2:
        return data[:at]
    if kind == 3:
        return data[at:]
    if kind == 4:  # a part cut out
        return data[:at] + data[at + int(rng.integers(1, 40)) :]
    if kind == 5:  # a part doubled
        return data[:at] + data[max(0, at - int(rng.integers(1, 400))) : at] + data[at:]
    if kind == 6:
        return data + data[-int(rng.integers(1, 40)) :]
    if kind == 7:  # near the beginning or the end, where the headers are
        near = min(at % 64, len(data) - 1) if rng.random() < 0.5 else max(0, len(data) - 1 - at % 400)
        return number_at(rng, data, near, int(rng.choice([1, 2, 4, 8])), rng.random() < 0.5)
    return data[:at] + bytes(rng.integers(0, 256, rng.integers(1, 20), np.uint8)) + data[at:]


def sealed(data):
    """A checkpoint with its mark and the digest put right, as someone would who means harm."""
    at = data.rfind(checkpoint.MARK)
    if at < 0:
        data += checkpoint.MARK
        at = len(data) - len(checkpoint.MARK)
    data = data[: at + len(checkpoint.MARK)]
    return data + hashlib.sha256(data).hexdigest().encode()


def npy(shape, descr="<f4", body=b"", version=1, **more):
    """The bytes of an .npy file with a header of any content."""
    head = repr({"descr": descr, "fortran_order": False, "shape": shape, **more}).encode("latin1")
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(head) % (65536 if version == 1 else 2**32))
    return b"\x93NUMPY" + bytes([version, 0]) + size + head + body


def archive(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as made:
        warnings.simplefilter("ignore")  # a name may come twice
        for name, content in members:
            made.writestr(zipfile.ZipInfo(name), content, compression)
        made.comment = checkpoint.MARK + b"0" * checkpoint.DIGITS
    return file.getvalue()


FACTS = ("facts.npy", npy((2,), "|u1", b"{}"))


def overlapping(count, size):
    """A zip whose `count` entries of the directory all name the same stored member of `size` bytes."""
    body = npy((size,), "|u1", bytes(size))
    data = archive([("a.npy", body), FACTS])
    end = data.rfind(b"PK\5\6")
    entries = struct.unpack_from("<H", data, end + 10)[0]
    start = struct.unpack_from("<I", data, end + 16)[0]
    directory, first = data[start:end], data.index(b"PK\1\2", start)
    length = 46 + sum(struct.unpack_from("<3H", data, first + 28))
    one = data[first : first + length]
    names = [bytes([97 + n // 26 % 26]) + b".npy" if n % 26 else b"a.npy" for n in range(count)]
    more = b"".join(one[:46] + name + one[46 + 5 :] for name in names)
    tail = bytearray(data[end:])
    struct.pack_into("<HH", tail, 8, (entries + count) % 65536, (entries + count) % 65536)
    struct.pack_into("<I", tail, 12, len(directory) + len(more))
    return data[:start] + directory + more + bytes(tail)


def forged(rng):
    """A checkpoint that is made on purpose, and sealed."""
    nested = 10_000
    made = [
        lambda: overlapping(int(rng.integers(2, 2000)), int(rng.choice([10, 1000, 100_000]))),
        lambda: archive([("a.npy", bytes(1 << 22)), FACTS], zipfile.ZIP_DEFLATED),
        lambda: archive([("a.npy", npy((1 << 22,), "|u1", bytes(1 << 22))), FACTS], zipfile.ZIP_BZIP2),
        lambda: archive([("a.npy", npy((2**40,), "<f4")), FACTS]),
        lambda: archive([("a.npy", npy((2**62, 2**62), "<f8", b"12345678")), FACTS]),
        lambda: archive([("a.npy", npy((-1,), "<f4", b"1234")), FACTS]),
        lambda: archive([("a.npy", npy((0, 2**62), "<f4")), FACTS]),
        lambda: archive([("a.npy", npy((1,), "|O", b"cos\nsystem\n(S'true'\ntR.")), FACTS]),
        lambda: archive([("a.npy", npy((1,), "|V1000000000", b"")), FACTS]),
        lambda: archive([("a.npy", npy((3,), [("x", "<f4"), ("y", "|O")], b"")), FACTS]),
        lambda: archive([("a.npy", npy("1" * 5000)), FACTS]),
        lambda: archive([("a.npy", npy((1,), "<f4", b"1234", version=int(rng.integers(0, 5)))), FACTS]),
        lambda: archive([FACTS, ("a.npy", npy((1,), "U" + "9" * int(rng.integers(1, 12)), b""))]),
        lambda: archive([("facts.npy", npy((nested,), "|u1", b"[" * nested))]),
        lambda: archive([("facts.npy", npy((5000,), "|u1", b"1" * 5000))]),
        lambda: archive([("facts.npy", npy((4,), "|u1", b"null"))]),
        lambda: archive([("facts.npy", npy((2,), "|u1", b"\xff\xfe"))]),
        lambda: archive([("../../a.npy", npy((1,), "<f4", b"1234")), FACTS]),
        lambda: archive([FACTS, FACTS, FACTS]),
        lambda: archive([]),
    ]
    return made[rng.integers(len(made))]()


# ---- Trials ----------------------------------------------------------------------------------------------------------


class Trial:
    """One file, read within bounds of memory and time."""

    def __init__(self, report, folder):
        self.report, self.path = report, Path(folder, "file")
        self.kinds = {}

    def read(self, what, data, reader, documented, most):
        """What the reader gives; None if it refuses.  `most` bytes are what it may hold beside the file."""
        self.path.write_bytes(data)
        tracemalloc.reset_peak()
        before, start, found, trouble = tracemalloc.get_traced_memory()[0], time.process_time(), None, None
        try:
            found = reader(self.path)
        except documented:
            pass
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            trouble = f"{type(error).__name__}: {error}"
        seconds, held = time.process_time() - start, tracemalloc.get_traced_memory()[1] - before
        allowed = 3 * len(data) + most + SPARE
        if trouble is None and seconds > SECONDS:
            trouble = f"it took {seconds:.1f} s"
        if trouble is None and held > allowed:
            trouble = f"it held {held:,} bytes for a file of {len(data):,}, more than {allowed:,}"
        if trouble is not None:
            kept = Path(tempfile.gettempdir(), f"reader-{hashlib.sha256(data).hexdigest()[:12]}")
            kept.write_bytes(data)
            trouble += f" (the file: {kept})"
        self.report.check(trouble is None, f"{what}: {trouble}")
        self.kinds[what, found is not None] = self.kinds.get((what, found is not None), 0) + 1
        return found


def damaged(rng, data):
    for _ in range(rng.integers(1, 4)):
        data = changed(rng, data)
    return data


def read_idx(path):
    return datasets.read_idx(path, limit=LIMIT)


def one_idx(trial, rng):
    content = idx(rng)
    kind = rng.integers(6)
    what = "idx"
    if kind == 0:
        data = damaged(rng, content)
    elif kind == 1:
        what, data = "gzip, damaged", damaged(rng, zipped(rng, content))
    elif kind == 2:
        what, data = "gzip of a damaged idx", zipped(rng, damaged(rng, content))
    elif kind == 3:  # bombs: more than is declared, and declared more than allowed
        zeros = bytes(int(rng.choice([0, 100, LIMIT, 64 << 20])) if rng.random() < 0.05 else int(rng.choice([0, 100, LIMIT])))
        size = int(rng.choice([0, 1, LIMIT - 1, LIMIT, LIMIT + 1, 2**32 - 1]))
        what, data = "gzip bomb", zipped(rng, bytes([0, 0, 8, 1]) + struct.pack(">I", size) + zeros)
    elif kind == 4:  # a wrong sum or length at the end
        data = zipped(rng, content)
        at = len(data) - int(rng.integers(1, 9))
        what, data = "gzip, wrong sum", data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :]
    else:
        ndim = int(rng.integers(0, 6))
        sizes = [BOUNDARY[rng.integers(len(BOUNDARY))] % 2**32 for _ in range(ndim)]
        data = bytes([0, 0, 8, ndim]) + b"".join(struct.pack(">I", n) for n in sizes) + bytes(int(rng.integers(0, 70)))
        what, data = "idx, lying header", data if rng.random() < 0.5 else zipped(rng, data)
    found = trial.read(what, data, read_idx, datasets.DataError, 2 * LIMIT)
    if found is None:
        return
    array, sha256 = found
    plain = zlib.decompress(data, 31) if data[:2] == b"\x1f\x8b" else data
    head = 4 + 4 * array.ndim
    holds = sha256 == hashlib.sha256(plain).hexdigest() and array.tobytes() == plain[head:] and array.nbytes <= LIMIT
    holds &= what != "gzip, wrong sum"
    trial.report.check(holds, f"{what}: accepted, but it is not what the file holds: {array.shape}")


def one_checkpoint(trial, rng):
    good = saved(rng)
    kind = rng.integers(4)
    if kind == 0:
        what, data = "checkpoint, damaged", damaged(rng, good)
    elif kind == 1:
        what, data = "checkpoint, damaged and sealed", sealed(damaged(rng, good))
    elif kind == 2:
        what, data = "checkpoint, forged", sealed(forged(rng))
    else:
        what, data = "checkpoint, forged, damaged and sealed", sealed(damaged(rng, forged(rng)))
    found = trial.read(what, data, checkpoint.load_checkpoint, ValueError, 0)
    if found is None:
        return
    arrays, facts = found
    holds = isinstance(facts, dict) and not any(array.dtype.hasobject for array in arrays.values())
    trial.report.check(holds and json.dumps(facts) is not None, f"{what}: gave {type(facts)} and {list(arrays)[:5]}")
    total = sum(array.nbytes for array in arrays.values())
    trial.report.check(total <= len(data), f"{what}: {total:,} bytes of arrays out of a file of {len(data):,}")
    if what == "checkpoint, damaged":
        trial.report.check(data == good, f"{what}: a file that was changed is accepted")


def main():
    options = common.arguments("readers", __doc__)
    report = common.Report("readers")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    rng = np.random.default_rng(options.seed)
    tracemalloc.start()
    trials = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(report, folder)
        for number in range(trials):
            (one_idx if number % 2 else one_checkpoint)(trial, rng)
            if number % (trials // 10) == 0:
                report.say(f"{number:,} of {trials:,} files")
    for (what, is_read), count in sorted(trial.kinds.items()):
        report.say(f"{what}: {count:,} {'read' if is_read else 'refused'}")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
