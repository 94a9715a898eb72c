#!/usr/bin/env python3
"""Makes tests/models/architectures from a folder of tiny models, each as config.json, model.safetensors and model-f32.gguf.

    make_architecture_fixture.py ZOO OUTPUT

OUTPUT/zoo.json has for each model the configuration, the scalar metadata of the GGUF and the names and shapes of the
tensors of both formats. "layers.{}." stands for all layers if the tensors of all are alike. Of some models OUTPUT/NAME has
the first layer's weights, and zoo.json the SHA-256 of what llama.cpp's converter made of them, as float32.

Needs numpy, gguf and safetensors.
"""
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType
from safetensors import safe_open
from safetensors.numpy import save_file

# One model for each way in which a GGUF's tensors differ from the folder's.
WITH_WEIGHTS = ["gpt2", "gpt-neox", "falcon", "gemma3-text", "mixtral", "llama3-tied"]
LAYER = re.compile(r"^((?:.*\.)?(?:blk|layers|h))\.(\d+)\.")
LAYER_COUNTS = ("num_hidden_layers", "n_layer")


def layer_of(name):
    found = LAYER.match(name)
    return int(found[2]) if found else None


def pattern_of(name):
    return LAYER.sub(lambda found: f"{found[1]}.{{}}.", name)


def fold(shapes, layers):
    """{name: shape} with one entry for the same tensor of all layers."""
    patterns = {}
    for name, shape in shapes.items():
        patterns.setdefault(pattern_of(name), {})[name] = shape
    folded = {}
    for pattern, members in patterns.items():
        values = list(members.values())
        if "{}" in pattern and len(values) == layers and all(value == values[0] for value in values):
            folded[pattern] = values[0]
        else:
            folded.update(members)
    return folded


def gguf_metadata(reader):
    """Scalars, and the number of tokens."""
    scalars, tokens = {}, 0
    for key, field in reader.fields.items():
        if key == "tokenizer.ggml.tokens":
            tokens = len(field.data)
        if key.startswith(("GGUF.", "tokenizer.")) or field.types[0] == GGUFValueType.ARRAY:
            continue
        scalars[key] = field.contents()
    return scalars, tokens


def hf_tensors(folder):
    tensors = {}
    index = folder / "model.safetensors.index.json"
    files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    for file in files:
        with safe_open(folder / file, "np") as opened:
            for name in opened.keys():
                tensors[name] = opened.get_slice(name).get_shape()
    return tensors


def first_layer(names):
    return [name for name in names if layer_of(name) in (None, 0)]


def copy_first_layer(folder, output, config, reader):
    """Writes the model cut down to one layer; returns the digests of its GGUF's tensors."""
    output.mkdir(exist_ok=True)
    cut = dict(config)
    for key in LAYER_COUNTS:
        if key in cut:
            cut[key] = 1
    if isinstance(cut.get("layer_types"), list):
        cut["layer_types"] = cut["layer_types"][:1]
    (output / "config.json").write_text(json.dumps(cut, indent=1) + "\n")
    with safe_open(folder / "model.safetensors", "np") as opened:
        save_file({name: opened.get_tensor(name) for name in first_layer(opened.keys())}, output / "model.safetensors")
    digests = {}
    for tensor in reader.tensors:
        if layer_of(tensor.name) in (None, 0):
            values = np.ascontiguousarray(tensor.data, dtype="<f4")
            digests[tensor.name] = hashlib.sha256(values.tobytes()).hexdigest()
    return digests


def main():
    zoo, output = Path(sys.argv[1]), Path(sys.argv[2])
    output.mkdir(parents=True, exist_ok=True)
    models = {}
    for folder in sorted(path.parent for path in zoo.glob("*/config.json")):
        config = json.loads((folder / "config.json").read_text())
        reader = GGUFReader(folder / "model-f32.gguf")
        scalars, tokens = gguf_metadata(reader)
        layers = next(config[key] for key in LAYER_COUNTS if key in config)
        shapes = {tensor.name: [int(dim) for dim in reversed(tensor.shape)] for tensor in reader.tensors}
        model = {"config": config, "layers": layers, "hf": fold(hf_tensors(folder), layers), "metadata": scalars, "tokens": tokens,
                 "gguf": fold(shapes, layers)}
        if folder.name in WITH_WEIGHTS:
            model["sha256"] = copy_first_layer(folder, output / folder.name, config, reader)
        models[folder.name] = model
    lines = [f"{json.dumps(name)}: {json.dumps(model, separators=(',', ':'))}" for name, model in models.items()]
    (output / "zoo.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
