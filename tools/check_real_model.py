#!/usr/bin/env python3
"""Tries plumb on a real model: every fault of the list at an early, a middle and the last layer, and equivalent runs.

    check_real_model.py PLUMB MODEL.gguf [--decode N]

Each fault must be found: DIFFERENT, the injected step alone, on the candidate's side. No equivalent run (threads, CPU level)
may be called wrong. A copy of the file with another rope.freq_base or epsilon must be told apart from it by its key.
Prints one line for each run and a summary; exits 1 if anything was not as it must be.
"""
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

FAULTS = [
    ("rope.pairing", "attn.q_rope", ""), ("rope.theta", "attn.k_rope", "20000"), ("rope.missing", "attn.k_rope", ""), ("rope.position", "attn.q_rope", "1"),
    ("norm.epsilon", "attn.norm", "0.01"), ("norm.gamma_skipped", "ffn.norm", ""), ("weights.swapped", "ffn.gate", ""), ("weights.transposed", "attn.out", ""),
    ("weights.nibbles", "attn.v", ""), ("weights.block_type", "ffn.up", ""), ("attention.head_map", "attn.scores", ""), ("attention.scale", "attn.scores", "0.2"),
    ("attention.mask", "attn.weights", ""), ("attention.window", "attn.weights", "8"), ("kv.stale_row", "attn.mix", "9"), ("value.element", "ffn.glu", "7"), ("value.scaled", "ffn.out", "1.001")]
PROMPT = "The old lighthouse stood at the edge of the sea, and every night its keeper climbed the stairs to light the lamp."


def compare(plumb, baseline, candidate, decode, *options):
    """The JSON of one comparison."""
    command = [plumb, "compare", baseline, candidate, "-p", PROMPT, "--decode", str(decode), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 3:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return json.loads(done.stdout)


def changed_copy(source, target, key, value):
    """Writes a copy of the file with the float of one metadata key replaced."""
    data = bytearray(Path(source).read_bytes())
    at = data.index(key.encode()) + len(key)
    assert struct.unpack_from("<I", data, at)[0] == 6, "a float is expected"
    struct.pack_into("<f", data, at + 4, value)
    Path(target).write_bytes(data)


def main():
    plumb, model = sys.argv[1:3]
    decode = int(sys.argv[sys.argv.index("--decode") + 1]) if "--decode" in sys.argv else 4
    clean = compare(plumb, model, model, decode)
    layers = clean["sides"]["baseline"]["model_file"]["layers"]
    bad = 0

    def say(good, what, detail):
        nonlocal bad
        bad += not good
        print(f"{'ok ' if good else 'BAD'} {what}: {detail}", flush=True)

    say(clean["verdict"] == "SAME" and all(s["total"] in (0, None) for s in clean["steps"]), "itself", clean["verdict"])
    for options in (["--threads", "1"], ["--candidate-cpu", "scalar"], ["--cpu", "scalar"]):
        result = compare(plumb, model, model, decode, *options)
        say(result["verdict"] == "SAME", " ".join(options), result["verdict"])
    reasons = found = 0
    for layer in (0, layers // 2, layers - 1):
        for name, part, parameter in FAULTS:
            step = f"layer.{layer}.{part}"
            fault = f"{name}@{step}" + (f":{parameter}" if parameter else "")
            result = compare(plumb, model, model, decode, "--inject", fault)
            wrong = [s["step"] for s in result["steps"] if s["verdict"].startswith("WRONG")]
            visible = f"layer.{layer}.attn.mix" if part in ("attn.scores", "attn.weights") else step
            first = result["findings"][0] if result["findings"] else {"side": None, "reason": None}
            good = result["verdict"] == "DIFFERENT" and wrong == [visible] and first["side"] == "candidate"
            found += good
            reasons += good and first["reason"] == name
            say(good, fault, f"{result['verdict']} {wrong} {first['side']} {first['reason']}")
    print(f"faults: {found} of {3 * len(FAULTS)} at their step alone and on their side, {reasons} with their reason")
    with tempfile.TemporaryDirectory() as folder:
        for key, value, step in (("llama.rope.freq_base", 123456.0, "layer.0.attn.q_rope"), ("llama.attention.layer_norm_rms_epsilon", 2e-5, "layer.0.attn.norm")):
            other = f"{folder}/changed.gguf"
            changed_copy(model, other, key, value)
            result = compare(plumb, model, other, decode)
            first = result["findings"][0]
            wrong = [s["step"] for s in result["steps"] if s["verdict"].startswith("WRONG")]
            say(result["verdict"] == "DIFFERENT" and first["kind"] == "static" and first["key"] == key and first["step"] == step and not wrong, key, result["why"])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
