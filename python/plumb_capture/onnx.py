# SPDX-License-Identifier: Apache-2.0
"""Shows values inside an ONNX graph: adds outputs, runs ONNX Runtime, saves the chosen ones as a trace.

ONNX has no names for the steps of a language model. So you say which value is which step; `list` shows the values.

    python -m plumb_capture.onnx list model.onnx
    python -m plumb_capture.onnx run model.onnx --tokens 1,2,3 --map map.json -o run.safetensors

map.json: {"logits": "logits", "layer.0.attn.q": "/model/layers.0/attn/q_proj/MatMul/output_0"}
A value may also be {"value": NAME, "heads_first": true}: [1, heads, tokens, d] in place of [1, tokens, heads, d].
"""

import argparse
import json
import sys

import numpy as np

from .trace_file import CaptureError, TraceFile, now

_DTYPES = {"float32": "F32", "float64": "F64", "float16": "F16"}


def values(path):
    """(name, operation, inputs) of every value that a node computes, in the order of the graph."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return [(name, node.op_type, list(node.input)) for node in model.graph.node for name in node.output if name]


def add_outputs(source, target, names):
    """Writes `target`: the same graph, that also gives back the values `names`. Weights in other files stay there."""
    import onnx

    model = onnx.load(source, load_external_data=False)
    known = {name for node in model.graph.node for name in node.output}
    types = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    present = {v.name for v in model.graph.output}
    for name in names:
        if name in present:
            continue
        if name not in known:
            raise CaptureError(f"{source}: no node computes '{name}'; 'python -m plumb_capture.onnx list' shows the names")
        model.graph.output.append(types.get(name, onnx.ValueInfoProto(name=name)))
    onnx.save(model, target)


def capture_onnx(path, tokens, mapping, output, session_options=None, providers=None, inputs=None, model_name=None):
    """Runs one prefill of `tokens` and writes the values of `mapping` (step -> value) to `output`.

    `inputs`: further inputs of the graph by name. input_ids, attention_mask, position_ids and empty
    past_key_values are filled in where the graph asks for them.
    The graph that runs has more outputs, and an optimizer may fuse less in it: so the logits of the graph
    as it is are computed too, and compared. Returns True if they are the same bits, None if there are none.
    """
    import os

    import onnxruntime

    wanted = {step: v if isinstance(v, dict) else {"value": v} for step, v in mapping.items()}
    # Beside the model: so that weights in other files are found.
    watched = os.path.join(os.path.dirname(os.path.abspath(path)), ".plumb_capture." + os.path.basename(path))
    providers = providers or ["CPUExecutionProvider"]
    try:
        add_outputs(path, watched, [w["value"] for w in wanted.values()])
        session = onnxruntime.InferenceSession(watched, session_options, providers=providers)
    finally:
        if os.path.exists(watched):
            os.remove(watched)
    feed = _inputs(session, tokens, inputs or {})
    found = dict(zip(wanted, session.run([w["value"] for w in wanted.values()], feed)))
    same = None
    if "logits" in wanted:
        plain = onnxruntime.InferenceSession(path, session_options, providers=providers)
        name = wanted["logits"]["value"]
        if name in [o.name for o in plain.get_outputs()]:
            same = plain.run([name], feed)[0].tobytes() == found["logits"].tobytes()

    file = TraceFile(output)
    try:
        for step, array in found.items():
            rows = _rows(step, array, len(tokens), wanted[step].get("heads_first", False))
            file.append(step, _DTYPES[str(rows.dtype)], rows.shape[1:], rows.tobytes(), list(range(len(tokens))))
        observer = {None: "not checked", True: "changes no bit of the logits", False: "changes the logits"}[same]
        about = {"tokens": [int(t) for t in tokens], "prompt": len(tokens),
                 "engine": {"name": "onnxruntime", "version": onnxruntime.__version__, "backend": providers[0],
                            "path": "batched prefill", "observer": observer},
                 "model": {"name": model_name or os.path.basename(path)}, "created": now()}
        file.finish(about, len(tokens))
    except BaseException:
        file.discard()
        raise
    return same


def _inputs(session, tokens, given):
    """What decoders usually ask for: ids, mask, positions, and an empty cache."""
    feed = {}
    count = len(tokens)
    for want in session.get_inputs():
        if want.name in given:
            feed[want.name] = given[want.name]
        elif want.name == "input_ids":
            feed[want.name] = np.array([tokens], np.int32 if "int32" in want.type else np.int64)
        elif want.name == "attention_mask":
            feed[want.name] = np.ones((1, count), np.int32 if "int32" in want.type else np.int64)
        elif want.name == "position_ids":
            feed[want.name] = np.arange(count, dtype=np.int64)[None]
        elif want.name.startswith("past"):
            kind = np.float16 if "float16" in want.type else np.float32
            # [batch, heads, past, d]: names stand for sizes that are not fixed.
            shape = [n if isinstance(n, int) else (1 if i == 0 else 0) for i, n in enumerate(want.shape)]
            feed[want.name] = np.zeros(shape, kind)
        else:
            raise CaptureError(f"the graph asks for '{want.name}' {want.shape}: give it with inputs=")
    return feed


def _rows(step, array, count, heads_first):
    if str(array.dtype) not in _DTYPES:
        raise CaptureError(f"{step}: values of the type {array.dtype}")
    if heads_first:
        if array.ndim != 4 or array.shape[2] != count:
            raise CaptureError(f"{step}: expected [1, heads, {count}, d], found {list(array.shape)}")
        array = array.transpose(0, 2, 1, 3)
    at = 1 if array.ndim > 2 else 0
    if array.ndim < 2 or array.shape[at] != count or (at == 1 and array.shape[0] != 1):
        raise CaptureError(f"{step}: expected [1, {count}, …], found {list(array.shape)}; is it \"heads_first\"?")
    return np.ascontiguousarray(array.reshape(count, -1))


def main():
    p = argparse.ArgumentParser(prog="python -m plumb_capture.onnx", description=__doc__.split("\n")[0])
    sub = p.add_subparsers(dest="command", required=True)
    show = sub.add_parser("list", help="the values of a graph")
    show.add_argument("model")
    show.add_argument("--find", default="", help="only names with this text")
    run = sub.add_parser("run", help="one prefill")
    run.add_argument("model")
    run.add_argument("--tokens", required=True, help="token ids: 1,2,3")
    run.add_argument("--map", required=True, help="JSON: step -> value")
    run.add_argument("-o", "--output", required=True)
    o = p.parse_args()
    if o.command == "list":
        for name, operation, inputs in values(o.model):
            if o.find in name:
                print(f"{operation:24} {name}  <- {', '.join(inputs)}")
        return 0
    with open(o.map, encoding="utf-8") as f:
        mapping = json.load(f)
    same = capture_onnx(o.model, [int(t) for t in o.tokens.split(",")], mapping, o.output)
    print(f"wrote       {o.output}: {len(mapping)} steps")
    if same is not None:
        print("check       the logits are the same bits with and without the added outputs" if same
              else "check       DIFFERENT: the added outputs changed the logits (the optimizer fused less)")
    return 1 if same is False else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CaptureError, OSError, ValueError) as e:
        print(f"plumb_capture: {e}", file=sys.stderr)
        sys.exit(3)
