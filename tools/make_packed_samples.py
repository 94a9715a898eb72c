#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/models/packed/*.safetensors: small weight matrices packed as Hugging Face checkpoints pack them.

  tools/make_packed_samples.py tests/models/packed

Each file holds the packed tensors, the configuration (as metadata) and, under "expected.<matrix>", the float32 values
that a reader has to give. The values come from codes, zero points and scales before they are packed, each product
rounded once to float32; so they owe nothing to a reader. docs/formats/packed.md has the definitions. Needs NumPy.
"""
import json
import sys
from pathlib import Path

import numpy as np

NAMES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
FP4 = [0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble n of a word holds column AWQ_ORDER[n]


class F8(np.ndarray):
    """Bytes that are to be called F8_E4M3."""


class BF16(np.ndarray):
    """uint16 that is to be called BF16."""


def save(path, config, tensors):
    header, data = {"__metadata__": {key: str(value) for key, value in config.items()}}, b""
    for name in sorted(tensors):
        array = np.asanyarray(tensors[name])
        kind = {F8: "F8_E4M3", BF16: "BF16"}.get(type(array)) or NAMES[array.dtype.name]
        raw = array.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    print(f"{path.name}: {8 + len(text) + len(data)} bytes")


def pack_rows(codes, bits):
    """[n, columns] codes into int32 [words, columns]: one string of bits down each column, lowest bit first."""
    per, words = (32, 3) if bits == 3 else (32 // bits, 1)
    packs = -(-codes.shape[0] // per)
    out = np.zeros((packs * words, codes.shape[1]), np.uint32)
    for i in range(codes.shape[0]):
        for bit in range(bits):
            place = i % per * bits + bit
            out[i // per * words + place // 32] |= (codes[i].astype(np.uint32) >> bit & 1) << (place % 32)
    return out.view(np.int32)


def pack_columns(codes, bits):
    return np.ascontiguousarray(pack_rows(codes.T, bits).T)


def halves(random, shape):
    return (random.uniform(0.001, 0.03, shape)).astype(np.float16)


def gptq(random, bits, size, group, inputs, outputs, act_order=False, index=True):
    """Tensors and expected values; `size` is what is taken from stored zero points (1 in the first format)."""
    groups = -(-inputs // group)
    codes = random.integers(0, 2**bits, (inputs, outputs))
    zeros = random.integers(1, 2**bits, (groups, outputs))
    scales = halves(random, (groups, outputs))
    order = np.arange(inputs) // group
    if act_order:
        order = random.permutation(order)
    values = scales[order].astype(np.float32) * (codes - zeros[order]).astype(np.float32)
    tensors = {"qweight": pack_rows(codes, bits), "qzeros": pack_columns(zeros - size, bits), "scales": scales}
    if index:
        tensors["g_idx"] = order.astype(np.int32)
    return tensors, np.ascontiguousarray(values.T)


def module(name, made):
    tensors, values = made
    return {f"{name}.{part}": array for part, array in tensors.items()} | {f"expected.{name}.weight": values}


def make_gptq(folder, random):
    for bits in (2, 3, 4, 8):
        config = {"method": "gptq", "bits": bits, "group_size": 32, "checkpoint_format": "gptq"}
        save(folder / f"gptq-{bits}bit.safetensors", config,
             module("a", gptq(random, bits, 1, 32, 64, 32)) | module("b", gptq(random, bits, 1, 32, 32, 32, index=False)))
    config = {"method": "gptq", "bits": 4, "group_size": 16, "checkpoint_format": "gptq_v2", "desc_act": "true"}
    save(folder / "gptq_v2-act-order.safetensors", config,
         module("a", gptq(random, 4, 0, 16, 64, 24, act_order=True)) |
         module("b", gptq(random, 4, 0, 16, 44, 20, act_order=True)))
    config = {"method": "gptq", "bits": 4, "group_size": -1, "checkpoint_format": "gptq"}
    save(folder / "gptq-one-group.safetensors", config, module("a", gptq(random, 4, 1, 64, 64, 16)))


def make_awq(folder, random):
    inputs, outputs, group = 64, 24, 32
    codes = random.integers(0, 16, (inputs, outputs))
    zeros = random.integers(0, 16, (inputs // group, outputs))
    scales = halves(random, zeros.shape)

    def pack(array):
        words = np.zeros((array.shape[0], array.shape[1] // 8), np.uint32)
        for n, column in enumerate(AWQ_ORDER):
            words |= array[:, column::8].astype(np.uint32) << (4 * n)
        return words.view(np.int32)

    order = np.arange(inputs) // group
    values = (codes - zeros[order]).astype(np.float32) * scales[order].astype(np.float32)
    made = {"qweight": pack(codes), "qzeros": pack(zeros), "scales": scales}, np.ascontiguousarray(values.T)
    save(folder / "awq-gemm.safetensors", {"method": "awq", "bits": 4, "group_size": group, "version": "gemm"},
         module("a", made))


def bnb_4bit(random, kind, shape, blocksize, nested):
    count = shape[0] * shape[1]
    table = np.array(NF4 if kind == "nf4" else FP4, np.float32)
    table /= np.abs(table).max()
    codes = random.integers(0, 16, count)
    blocks = -(-count // blocksize)
    state = {"quant_type": kind, "blocksize": blocksize, "dtype": "bfloat16", "shape": list(shape)}
    tensors = {}
    if nested:
        size = 4
        offset = np.float32(0.0316)
        map_ = np.sort(random.uniform(-1, 1, 256)).astype(np.float32)
        scales = random.integers(0, 256, blocks).astype(np.uint8)
        outer = random.uniform(0.001, 0.02, -(-blocks // size)).astype(np.float32)
        absmax = map_[scales] * outer[np.arange(blocks) // size] + offset
        state |= {"nested_blocksize": size, "nested_dtype": "float32", "nested_offset": float(offset)}
        tensors |= {"nested_absmax": outer, "nested_quant_map": map_, "absmax": scales}
    else:
        absmax = random.uniform(0.01, 0.1, blocks).astype(np.float32)
        tensors["absmax"] = absmax
    values = table[codes] * absmax[np.arange(count) // blocksize]
    padded = np.append(codes, 0) if count % 2 else codes
    packed = (padded[0::2] << 4 | padded[1::2]).astype(np.uint8).reshape(-1, 1)
    tensors |= {"quant_map": table, f"quant_state.bitsandbytes__{kind}": np.frombuffer(json.dumps(state).encode(), np.uint8)}
    return {"weight": packed} | {f"weight.{part}": array for part, array in tensors.items()}, values.reshape(shape)


def make_bnb(folder, random):
    config = {"method": "bitsandbytes"}
    save(folder / "bnb-nf4.safetensors", config,
         module("a", bnb_4bit(random, "nf4", (6, 64), 64, False)) | module("b", bnb_4bit(random, "nf4", (5, 27), 32, False)))
    save(folder / "bnb-nf4-nested.safetensors", config, module("a", bnb_4bit(random, "nf4", (12, 48), 32, True)))
    save(folder / "bnb-fp4.safetensors", config, module("a", bnb_4bit(random, "fp4", (6, 64), 64, False)))
    codes = random.integers(-127, 128, (6, 20)).astype(np.int8)
    scales = random.uniform(0.1, 3, 6).astype(np.float32)
    values = codes.astype(np.float32) * scales[:, None] * np.float32(7.874015718698502e-3)
    save(folder / "bnb-int8.safetensors", config,
         module("a", ({"weight": codes, "SCB": scales, "weight_format": np.array(0, np.uint8)}, values)))


def float8(byte):
    """E4M3: bias 7, no infinity, NaN is 0x7F."""
    sign = -1.0 if byte & 0x80 else 1.0
    exponent, mantissa = byte >> 3 & 15, byte & 7
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def make_float8(folder, random):
    rows, columns = 10, 36
    values8 = np.array([float8(b) for b in range(256)], np.float32)

    def weight():
        codes = random.integers(0, 256, (rows, columns)).astype(np.uint8)
        codes[codes & 0x7F == 0x7F] = 0x3C
        return codes

    def bf16(shape):
        floats = random.uniform(0.001, 0.02, shape).astype(np.float32)
        bits = (floats.view(np.uint32) >> 16).astype(np.uint16)
        return bits.view(BF16), (bits.astype(np.uint32) << 16).view(np.float32)

    def float32(shape):
        scales = np.asarray(random.uniform(0.001, 0.02, shape), np.float32)
        return scales, scales

    tensors = {}
    for name, part, (stored, scales) in (("whole", "weight_scale", float32(())),
                                         ("rows", "weight_scale", bf16((rows, 1))),
                                         ("flat", "weight_scale", float32((rows,)))):
        codes = weight()
        per_row = scales.reshape(-1, 1) if scales.ndim else scales
        tensors |= module(name, ({"weight": codes.view(F8), part: stored}, values8[codes] * per_row))
    codes = random.integers(-128, 128, (rows, columns)).astype(np.int8)
    scales = random.uniform(0.001, 0.02, (rows, 1)).astype(np.float32)
    tensors |= module("bytes", ({"weight": codes, "weight_scale": scales}, codes.astype(np.float32) * scales))
    save(folder / "compressed-8bit.safetensors", {"method": "compressed-tensors", "format": "float-quantized"}, tensors)

    codes, (stored, scales) = weight(), float32((3, 3))
    wide = np.repeat(np.repeat(scales, 4, 0), 16, 1)[:rows, :columns]
    config = {"method": "fp8", "block_rows": 4, "block_columns": 16}
    save(folder / "fp8-blocks.safetensors", config,
         module("a", ({"weight": codes.view(F8), "weight_scale_inv": stored}, values8[codes] * wide)))


def compressed(random, bits, rows, columns, group, zero_points, order=None):
    groups = columns // group
    codes = random.integers(0, 2**bits, (rows, columns))
    scales = halves(random, (rows, groups))
    zeros = random.integers(0, 2**bits, (rows, groups)) if zero_points else np.full((rows, groups), 2 ** (bits - 1))
    index = np.arange(columns) // group if order is None else order
    values = (codes - zeros[:, index]).astype(np.float32) * scales[:, index].astype(np.float32)
    tensors = {"weight_packed": pack_columns(codes, bits), "weight_scale": scales,
               "weight_shape": np.array([rows, columns], np.int64)}
    if zero_points:
        tensors["weight_zero_point"] = pack_rows(zeros, bits)
    if order is not None:
        tensors["weight_g_idx"] = order.astype(np.int32)
    return tensors, values


def make_compressed(folder, random):
    config = {"method": "compressed-tensors", "format": "pack-quantized", "bits": 4}
    order = random.permutation(np.arange(64) // 16)
    save(folder / "compressed-int4.safetensors", config,
         module("symmetric", compressed(random, 4, 6, 64, 32, False)) |
         module("zeros", compressed(random, 4, 18, 64, 32, True)) |
         module("channel", compressed(random, 4, 5, 36, 36, True)) |
         module("ordered", compressed(random, 4, 6, 64, 16, False, order)))
    config = {"method": "compressed-tensors", "format": "pack-quantized", "bits": 8}
    save(folder / "compressed-int8.safetensors", config, module("a", compressed(random, 8, 6, 20, 20, False)))


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.Generator(np.random.PCG64(20))
    for make in (make_gptq, make_awq, make_bnb, make_float8, make_compressed):
        make(folder, random)


if __name__ == "__main__":
    main()
