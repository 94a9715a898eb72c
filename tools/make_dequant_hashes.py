#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the hashes of src/quant/dequantize_test.cpp: SHA-256 of pseudo-random blocks as float32, by other programs than plumb.

    make_dequant_hashes.py [libggml-base.so]

Needs numpy and gguf. With ggml's library its C code is asked too, and both must agree wherever both have the type.
"""
import ctypes
import hashlib
import sys

import gguf
import numpy as np

BLOCKS = 2048
SPECIAL_HALVES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF]  # zeros, subnormals, smallest normal, largest
SPECIAL_FLOATS = [0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF]
HALVES_AT = {
    "F16": [0], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q8_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "Q8_K": [], "IQ1_S": [0], "IQ1_M": [],
    "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ4_NL": [0], "IQ4_XS": [0],
    "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [], "NVFP4": [],
}


def splitmix64(count):
    """The first `count` numbers of the generator started with 1."""
    with np.errstate(over="ignore"):
        z = np.uint64(1) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def finite_half(bits, block, field):
    special = SPECIAL_HALVES[(block + 3 * field) % len(SPECIAL_HALVES)]
    return special if block < len(SPECIAL_HALVES) else bits & 0xBFFF if bits & 0x7C00 == 0x7C00 else bits


def fix_scales(blocks, name):
    """Infinite and NaN scales become finite; the first blocks have the special ones."""
    for b, block in enumerate(blocks):
        for field, at in enumerate(HALVES_AT[name]):
            half = block[at:at + 2].view("<u2")
            half[0] = finite_half(int(half[0]), b, field)
        if name == "Q8_K":
            scale = block[0:4].view("<u4")
            bits = int(scale[0])
            bits = bits & 0xBFFFFFFF if bits & 0x7F800000 == 0x7F800000 else bits
            scale[0] = SPECIAL_FLOATS[b] if b < len(SPECIAL_FLOATS) else bits
        if name == "IQ1_M":
            words = block[48:56].view("<u2")
            half = finite_half(sum((int(w) >> 12) << (4 * i) for i, w in enumerate(words)), b, 0)
            words[:] = [(int(w) & 0x0FFF) | (half >> (4 * i) & 15) << 12 for i, w in enumerate(words)]


def by_python(name, blocks):
    try:
        return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
    except NotImplementedError:
        return None


def by_formula(name, blocks):
    """d * q, for the types that gguf does not dequantize."""
    if name == "Q8_1":
        return blocks[:, 0:2].copy().view("<f2").astype(np.float32) * blocks[:, 4:36].view(np.int8).astype(np.float32)
    if name == "Q8_K":
        return blocks[:, 0:4].copy().view("<f4") * blocks[:, 4:260].view(np.int8).astype(np.float32)
    return None


def by_c(library, name, blocks, values):
    function = {"F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}.get(name)
    function = function or "dequantize_row_" + (name if name.startswith("Q") else name.lower()).replace("Q", "q")
    if not hasattr(library, function):
        return None
    out = np.empty(values, dtype=np.float32)
    getattr(library, function)(blocks.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(values))
    return out


def main():
    library = ctypes.CDLL(sys.argv[1]) if len(sys.argv) > 1 else None
    for name in HALVES_AT:
        length, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        size = 36 if name == "Q8_1" else size  # ggml's block; gguf says 40, which an old ggml had
        stream = splitmix64((BLOCKS * size + 7) // 8).astype("<u8").view(np.uint8)
        blocks = stream[:BLOCKS * size].reshape(BLOCKS, size).copy()
        fix_scales(blocks, name)
        with np.errstate(over="ignore"):
            results = {
                "gguf": by_python(name, blocks),
                "ggml": by_c(library, name, blocks, BLOCKS * length) if library else None,
                "formula": by_formula(name, blocks),
            }
        hashes = {who: hashlib.sha256(np.ascontiguousarray(x, dtype="<f4")).hexdigest() for who, x in results.items() if x is not None}
        if len(set(hashes.values())) != 1:
            sys.exit(f"{name}: {hashes}")
        print(f'    {{DType::{name}, "{next(iter(hashes.values()))}"}},  // {", ".join(hashes)}')


if __name__ == "__main__":
    main()
