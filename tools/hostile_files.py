#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes small broken and hostile files: the seeds of the fuzz targets.

  tools/hostile_files.py tests/corpus      # writes tests/corpus/gguf and tests/corpus/trace

Each name says what is wrong with its file; those that begin with 'valid' are right. None is larger
than 4 KB. Nothing is random: the same files come out each time.
"""
import json
import struct
import sys
from pathlib import Path

U8, U32, F32, BOOL, STRING, ARRAY, U64, F64 = 0, 4, 6, 7, 8, 9, 10, 12
Q8_0 = 8


def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value % 2**64)


def text(value):
    return u64(len(value)) + value.encode()


def entry(key, kind, value):
    return text(key) + u32(kind) + value


def array(kind, count, values):
    return u32(kind) + u64(count) + values


def tensor(name, dims, kind, offset, dim_count=None):
    count = len(dims) if dim_count is None else dim_count
    return text(name) + u32(count) + b"".join(u64(d) for d in dims) + u32(kind) + u64(offset)


METADATA = [
    entry("general.architecture", STRING, text("llama")),
    entry("llama.block_count", U32, u32(1)),
    entry("llama.rope.freq_base", F32, struct.pack("<f", 10000)),
    entry("general.tags", ARRAY, array(STRING, 2, text("x") + text("yz"))),
]
TENSORS = [tensor("token_embd.weight", [8, 2], 0, 0), tensor("blk.0.attn_q.weight", [32], Q8_0, 64)]
DATA = bytes(range(64)) + bytes(range(34))


def gguf(extra=(), metadata=None, tensors=None, version=3, magic=b"GGUF", kvs=None, count=None,
         alignment=32, data=DATA):
    entries = list(METADATA if metadata is None else metadata) + list(extra)
    tensors = TENSORS if tensors is None else tensors
    header = magic + u32(version) + u64(len(tensors) if count is None else count)
    header += u64(len(entries) if kvs is None else kvs) + b"".join(entries) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data


def second(*args, **options):
    """A file whose second tensor is another."""
    return gguf(tensors=[TENSORS[0], tensor(*args, **options)])


def big_endian():
    whole = gguf()
    return whole[:4] + struct.pack(">IQQ", 3, 2, 4) + whole[24:]


def gguf_files():
    whole = gguf()
    nested = array(U8, 2, b"\1\2") + array(BOOL, 1, b"\1")
    name = "blk.0.attn_q.weight"
    return {
        "valid": whole,
        "valid-v2": gguf(version=2),
        "valid-nested": gguf([entry("x", ARRAY, array(ARRAY, 2, nested))]),
        "valid-alignment-8": gguf([entry("general.alignment", U32, u32(8))], alignment=8),
        "valid-no-tensors": gguf(tensors=[], data=b""),
        "bad-magic": gguf(magic=b"GGUX"),
        "big-endian": big_endian(),
        "version-1": gguf(version=1),
        "version-99": gguf(version=99),
        "truncated-header": whole[:14],
        "truncated-metadata": whole[:120],
        "truncated-tensor": whole[:250],
        "truncated-data": whole[:-20],
        "tensor-count-2e63": gguf(count=2**63),
        "metadata-count-2e63": gguf(kvs=2**63),
        "array-count-2e63": gguf([entry("x", ARRAY, array(STRING, 2**63, b""))]),
        "array-count-wraps": gguf([entry("x", ARRAY, array(U64, 2**61 + 1, u64(0)))]),
        "array-of-unknown": gguf([entry("x", ARRAY, array(77, 1, u64(0)))]),
        "array-deep": gguf([entry("x", ARRAY, array(ARRAY, 1, b"") * 300 + array(U8, 0, b""))]),
        "string-past-end": gguf([entry("x", STRING, u64(2**40))]),
        "string-all-ones": gguf([entry("x", STRING, u64(2**64 - 1))]),
        "value-unknown": gguf([entry("x", 77, u64(0))]),
        "bool-2": gguf([entry("x", BOOL, b"\2")]),
        "duplicate-key": gguf([entry("llama.block_count", U32, u32(2))]),
        "duplicate-tensor": second("token_embd.weight", [32], Q8_0, 64),
        "overlap": second(name, [32], Q8_0, 32),
        "offset-unaligned": second(name, [4], 0, 68),
        "offset-2e50": second(name, [32], Q8_0, 2**50),
        "offset-wraps": second(name, [32], Q8_0, 2**64 - 32),
        "alignment-0": gguf([entry("general.alignment", U32, u32(0))]),
        "alignment-3": gguf([entry("general.alignment", U32, u32(3))]),
        "alignment-2e62": gguf([entry("general.alignment", U64, u64(2**62))]),
        "dims-overflow": second(name, [512, 2**61 + 3], 0, 64),
        "dims-5": second(name, [1, 1, 1, 1, 1], 0, 64),
        "dims-claimed": second(name, [], 0, 64, dim_count=2**32 - 1),
        "type-unknown": second(name, [32], 9999, 64),
        "type-removed": second(name, [32], 4, 64),
        "row-not-blocks": second(name, [33], Q8_0, 64),
    }


def step(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def trace(steps=None, plumb=None, data=None, metadata=None, header=None, length=None):
    steps = {"logits": step([2, 3], 0, 24)} if steps is None else steps
    plumb = json.dumps({"tokens": [1, 2]}) if plumb is None else plumb
    if header is None:
        metadata = {"plumb.trace": "1", "plumb": plumb} if metadata is None else metadata
        header = json.dumps({"__metadata__": metadata} | steps)
    if data is None:
        data = bytes(range(max((s["data_offsets"][1] for s in steps.values()), default=0)))
    return u64(len(header) if length is None else length) + header.encode() + data


def trace_files():
    full = {
        "tokens": step([2], 0, 8, "I32"),
        "positions:logits": step([1], 8, 12, "I32"),
        "layer.0.attn.q": step([2, 4], 12, 28, "F16"),
        "logits": step([1, 2], 28, 44, "F64"),
        "my.own": step([3], 44, 50, "BF16"),
    }
    data = struct.pack("<iii", 1, 2, 1) + bytes(38)
    plumb = json.dumps({
        "prompt": 1, "engine": {"name": "e", "threads": 2}, "model": {"config": {"a": [1]}},
        "arithmetic": {"*": {"weights": "bf16"}, "logits": {"output": "f32"}}, "kv_cache": "f16"})
    q = '"logits":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}'
    meta = '"__metadata__":{"plumb.trace":"1","plumb":"{}"}'

    def positions(*values):
        steps = {"positions": step([len(values)], 0, 4 * len(values), "I32")}
        return trace(steps, data=struct.pack(f"<{len(values)}i", *values))

    def statistics(figures, more=None, shape=(2, 8), name="logits.stats"):
        steps = {name: step(list(shape), 0, 128, "F64"), **(more or {})}
        return trace(steps, data=struct.pack("<16d", *figures * 2) + bytes(512))

    counted = [4, 1, 0.5, 1, -1, 2, 3, 2]
    sketch = {"logits.sketch": step([2, 64], 128, 640)}
    own = {"positions:logits.stats": step([2], 128, 136, "I32"), "rest": step([126], 136, 640)}
    return {
        "valid": trace(),
        "valid-statistics": statistics(counted, sketch),
        "statistics-shape": statistics(counted, sketch, (4, 4)),
        "statistics-count": statistics([-4] + counted[1:], sketch),
        "statistics-nan": statistics([float("nan")] * 8, sketch),
        "statistics-positions": statistics(counted, own),
        "sketch-alone": statistics(counted, sketch, name="my.stats"),
        "valid-full": trace(full, plumb, data),
        "valid-no-tokens": trace(plumb="{}"),
        "not-a-trace": trace(metadata={}),
        "version-2": trace(metadata={"plumb.trace": "2", "plumb": "{}"}),
        "too-short": b"\1\2\3",
        "length-past-end": trace(length=100000),
        "length-wraps": trace(length=2**64 - 8),
        "header-cut": trace(header='{"logits":'),
        "header-deep": trace(header='{"a":' + "[" * 1500 + "]" * 1500 + "}"),
        "metadata-deep": trace(plumb='{"engine":{"x":' + "[" * 1500 + "]" * 1500 + "}}"),
        "name-twice": trace({}, header="{" + meta + "," + q + "," + q + "}", data=bytes(8)),
        "metadata-twice": trace(plumb='{"tokens":[1,2],"tokens":[3,4]}'),
        "overlap": trace({"logits": step([2, 1], 0, 8), "embedding": step([2, 1], 4, 12)}),
        "hole": trace({"logits": step([2, 1], 0, 8), "embedding": step([2, 1], 16, 24)}),
        "shape-overflow": trace({"logits": step([4, 2**62 + 2], 0, 32)}),
        "rows-against-tokens": trace({"logits": step([3, 2], 0, 24)}),
        "wide-and-empty": trace({"logits": step([0, 2**60], 0, 0)}, '{"tokens":[]}'),
        "prompt-too-long": trace(plumb='{"tokens":[1,2],"prompt":3}'),
        "positions-outside": positions(0, 2),
        "positions-descending": positions(1, 0),
        "tokens-negative": trace(plumb='{"tokens":[1,-2]}'),
    }


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for kind, files in (("gguf", gguf_files()), ("trace", trace_files())):
        folder = Path(sys.argv[1]) / kind
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            assert len(content) <= 4096, name
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
