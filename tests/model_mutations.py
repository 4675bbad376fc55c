"""Damage inside a safetensors file: its description, its table of tensors, its numbers."""

import json

import numpy as np

import mutations as m


def description_edit(mutation: m.Mutation) -> m.Mutation:
    """Damage the description inside a safetensors header, its length kept right."""

    def mutate(content: bytes, rng: np.random.Generator) -> bytes:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        meta = header["__metadata__"]["blindharmony"]
        changed = mutation(meta.encode(), rng).decode("utf-8", "replace")
        text = json.dumps({**header, "__metadata__": {"blindharmony": changed}}).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    return mutate


def table_edit(content: bytes, rng: np.random.Generator) -> bytes:
    length = int.from_bytes(content[:8], "little")
    text = m.json_edit(content[8 : 8 + length], rng)
    declared = len(text) if rng.random() < 0.8 else (0, 2**31, 2**62, 2**64 - 1)[rng.integers(4)]
    return declared.to_bytes(8, "little") + text + content[8 + length :]


def wild_values(content: bytes, rng: np.random.Generator) -> bytes:
    """Four numbers somewhere among the arrays become wild ones."""
    out = bytearray(content)
    start = 8 + int.from_bytes(content[:8], "little")
    for _ in range(4):
        at = start + 4 * int(rng.integers((len(out) - start) // 4))
        out[at : at + 4] = np.float32(rng.choice([np.nan, np.inf, -1e30, 1e38])).tobytes()
    return bytes(out)
