#!/usr/bin/env python3
"""Makes of a trace what another engine would write: some steps under names of its own, no metadata; and a table for them.

    rename_trace.py TRACE        writes dump.safetensors and table.yaml
"""
import json
import struct
import sys

NAMES = {"embedding": "tok", "layer.0.attn.norm": "n.0", "layer.0.attn.q": "q.0", "layer.0.attn.k": "k.0", "layer.0.attn.v": "v.0", "layer.0.ffn.norm": "odd"}
TABLE = """engine: mine
rows:
  - {name: tok, step: embedding}
  - {name: "n.{layer}", step: "layer.{layer}.attn.norm"}
  - {name: "q.{layer}", step: "layer.{layer}.attn.q"}
  - {name: "k.{layer}", step: "layer.{layer}.attn.k"}
  - {name: "v.{layer}", step: "layer.{layer}.attn.v"}
"""

data = open(sys.argv[1], "rb").read()
size = struct.unpack("<Q", data[:8])[0]
head, body = json.loads(data[8:8 + size]), data[8 + size:]
out, values = {}, b""
for name, other in NAMES.items():
    begin, end = head[name]["data_offsets"]
    out[other] = dict(head[name], data_offsets=[len(values), len(values) + end - begin])
    values += body[begin:end]
text = json.dumps(out).encode()
open("dump.safetensors", "wb").write(struct.pack("<Q", len(text)) + text + values)
open("table.yaml", "w").write(TABLE)
