"""Files as a hostile or broken world writes them: seeded changes of good ones.

A mutation takes the bytes of a good file and a generator and gives other bytes. ``kinds`` of mutations know the
fields of the format, so that most of what they make gets past the first check.
"""

import gzip
import json
import math
import struct
from collections.abc import Callable

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

FLOODS = (2**22, 2**25, 2**28)
_SIZES = (0, 1, -1, 2, 15, 16, 17, 18, 19, 31, 255, 1000, 3000, 32766, 32767, -32768)
_BIG = (*_SIZES, 2**16, 2**24, 2**31 - 1, 2**31 - 16, -(2**31), 2**30)
_FLOATS = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-3, 1e3, 1e-30, 1e-45, 1e6, 1e12, 1e30, 3.4e38, -1e30),
    *(math.nan, math.inf, -math.inf, 352.0, 353.5, 348.0, 16.0, 1e9, 2.0**31, 255.0),
)
# Where a field lies in the header and how it is packed: dims, datatype, bitpix, pixdim, vox_offset, slope, ...
NIFTI1 = {
    **{f"dim{i}": (40 + 2 * i, "h") for i in range(8)},
    **{f"pixdim{i}": (76 + 4 * i, "f") for i in range(8)},
    **{
        "sizeof_hdr": (0, "i"),
        "dim_info": (39, "B"),
        "datatype": (70, "h"),
        "bitpix": (72, "h"),
        "slice_code": (122, "B"),
    },
    **{"vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B")},
    **{"cal_max": (124, "f"), "qform_code": (252, "h"), "sform_code": (254, "h")},
    **{f"quatern{i}": (256 + 4 * i, "f") for i in range(6)},
    **{f"srow{i}": (280 + 4 * i, "f") for i in range(12)},
    **{"magic": (344, "i"), "extension": (348, "B"), "esize": (352, "i"), "ecode": (356, "i")},
}
NIFTI2 = {
    **{f"dim{i}": (16 + 8 * i, "q") for i in range(8)},
    **{f"pixdim{i}": (104 + 8 * i, "d") for i in range(8)},
    **{"sizeof_hdr": (0, "i"), "magic": (4, "i"), "datatype": (12, "h"), "bitpix": (14, "h"), "vox_offset": (168, "q")},
    **{"scl_slope": (176, "d"), "scl_inter": (184, "d"), "qform_code": (344, "i"), "sform_code": (348, "i")},
    **{f"quatern{i}": (352 + 8 * i, "d") for i in range(6)},
    **{f"srow{i}": (400 + 8 * i, "d") for i in range(12)},
    **{"xyzt_units": (500, "i"), "extension": (540, "B"), "esize": (544, "i"), "ecode": (548, "i")},
}
MGH = {
    **{"version": (0, "i"), "x": (4, "i"), "y": (8, "i"), "z": (12, "i"), "frames": (16, "i"), "type": (20, "i")},
    **{"dof": (24, "i"), "good": (28, "h")},
    **{f"size{i}": (30 + 4 * i, "f") for i in range(3)},
    **{f"mdc{i}": (42 + 4 * i, "f") for i in range(9)},
    **{f"c{i}": (78 + 4 * i, "f") for i in range(3)},
}
_DTYPES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 0, -4, 255)


def field_edit(fields: dict[str, tuple[int, str]], order: str, *, count: int = 1) -> Mutation:
    """Put wild values into one or more fields of a header."""

    def mutate(content: bytes, rng: np.random.Generator) -> bytes:
        out = bytearray(content)
        for _ in range(int(rng.integers(1, count + 1))):
            name = list(fields)[rng.integers(len(fields))]
            at, kind = fields[name]
            if kind in "fd":
                value = float(rng.choice(_FLOATS)) if rng.random() < 0.8 else float(rng.normal(0, 3))
            else:
                pool = _DTYPES if name == "datatype" else _BIG
                value = int(rng.choice(pool)) if rng.random() < 0.8 else int(rng.integers(-20, 40))
                span = 1 << 8 * struct.calcsize(kind)
                value = value % span if kind == "B" else (value + span // 2) % span - span // 2
            out.extend(bytes(max(0, at + 8 - len(out))))
            struct.pack_into(order + kind, out, at, value)
        return bytes(out)

    return mutate


def bit_flips(content: bytes, rng: np.random.Generator, *, within: int | None = None) -> bytes:
    """Turn up to 16 bits over, all in the first bytes if ``within`` is given."""
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 17))):
        out[rng.integers(min(len(out), within or len(out)))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def header_flips(content: bytes, rng: np.random.Generator) -> bytes:
    """Bit flips in the first 600 bytes."""
    return bit_flips(content, rng, within=600)


def truncated(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut off anywhere, as often within the header as behind it."""
    return content[: int(rng.integers(min(len(content), 700) if rng.random() < 0.5 else len(content)))]


def garbage_behind(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes of nobody at the end."""
    return content + rng.bytes(int(rng.integers(1, 5000)))


def spliced(content: bytes, rng: np.random.Generator) -> bytes:
    """A piece taken out, doubled, or filled with one byte."""
    a, b = sorted(int(i) for i in rng.integers(0, min(len(content), 1000), 2))
    how = rng.integers(3)
    return (
        content[:a]
        + (b"" if how == 0 else 2 * content[a:b] if how == 1 else bytes([rng.integers(256)]) * (b - a))
        + content[b:]
    )


def swapped(header: int) -> Mutation:
    """Every pair of header bytes the other way round."""

    def mutate(content: bytes, rng: np.random.Generator) -> bytes:
        words = np.frombuffer(content[:header], np.uint16 if rng.random() < 0.5 else np.uint32)
        return words.byteswap().tobytes() + content[header:]

    return mutate


def packed(mutation: Mutation) -> Mutation:
    """The same change inside a compressed file."""
    return lambda content, rng: gzip.compress(mutation(content, rng), 1, mtime=0)


def bomb(content: bytes, rng: np.random.Generator) -> bytes:
    """A compressed flood of up to 256 MB behind a header that may or may not announce it."""
    flood = bytes(int(rng.choice(FLOODS)))
    return gzip.compress(content + flood, 1, mtime=0)


def extension_bomb(content: bytes, rng: np.random.Generator) -> bytes:
    """A NIfTI-1 header whose extension claims to fill the flood behind it."""
    out = bytearray(content[:352])
    flood = int(rng.choice(FLOODS))
    struct.pack_into("<f", out, 108, float(rng.choice([352 + flood, 2.0**31, 368, 1e20])))
    out[348] = 1
    esize = int(rng.choice([flood, 0, 4, -1, 2**31 - 16, -(2**31), 16]))
    return gzip.compress(bytes(out) + struct.pack("<2i", esize, 4) + bytes(flood) + content[352:], 1, mtime=0)


def json_edit(text: bytes, rng: np.random.Generator) -> bytes:
    """One value of a JSON document becomes another kind of value, or goes."""
    content = json.loads(text)
    places = list(_places(content))
    for _ in range(int(rng.integers(1, 4))):
        holder, key = places[rng.integers(len(places))]
        try:
            if rng.random() < 0.15:
                del holder[key]
            else:
                holder[key] = _WILD[rng.integers(len(_WILD))]
        except (KeyError, IndexError):
            continue
    return json.dumps(content).encode()


_WILD = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        10**30,
        10**400,
        -(10**400),
        1e300,
        -1e300,
        1e-300,
        math.nan,
        math.inf,
    ),
    *("", "x", "<script>alert(1)</script>", "../../etc/passwd", "\x00", "\ud800", "a" * 10000, [], {}, [[]], [None]),
    *([1.0, 2.0], [0, 0], [math.nan] * 3, list(range(300)), {"a": {"b": []}}, [[1, 2], [3]], 1000000, 65536),
)


def _places(content: object):
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield content, key
        yield from _places(value)


def deep_json(text: bytes, rng: np.random.Generator) -> bytes:
    """Brackets within brackets, deeper than any parser's stack."""
    depth = int(rng.choice([500, 5000, 200_000, 3_000_000]))
    opening, closing = (b"[", b"]") if rng.random() < 0.5 else (b'{"a":', b"}")
    deep = opening * depth + b"1" + (closing * depth if rng.random() < 0.5 else b"")
    return deep if rng.random() < 0.5 else text.rstrip().rstrip(b"}") + b', "x": ' + deep + b"}"


def long_number(text: bytes, rng: np.random.Generator) -> bytes:
    """A number with very many digits somewhere in a document."""
    numbers = [i for i, c in enumerate(text) if 48 <= c <= 57]
    if not numbers:
        return text + b"9" * 5000
    at = numbers[rng.integers(len(numbers))]
    return (
        text[:at] + rng.choice([b"9" * 5000, b"1e999", b"-1e999", b"NaN", b"Infinity", b"-", b"0x1"]) + text[at + 1 :]
    )
