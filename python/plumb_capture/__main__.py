# SPDX-License-Identifier: Apache-2.0
"""python -m plumb_capture MODEL -p TEXT -o OUT.safetensors"""

import argparse
import sys
import time

from .trace_file import CaptureError


def parse():
    p = argparse.ArgumentParser(prog="python -m plumb_capture",
                                description="Runs a Hugging Face model and writes its steps as a plumb trace.")
    p.add_argument("model", help="folder or name of the model, as transformers takes it")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("-p", "--prompt", help="prompt text")
    what.add_argument("--tokens", help="token ids as given, nothing added: 1,2,3")
    p.add_argument("-o", "--output", required=True, help="trace to write")
    p.add_argument("-n", "--decode", type=int, default=8, help="tokens to decode greedily after the prompt (8)")
    p.add_argument("--tokens-decode", help="feed these after the prompt, one by one, in place of -n")
    p.add_argument("--dtype", choices=("f32", "bf16", "f16", "f64"), default="f32")
    p.add_argument("--device", default="cpu")
    p.add_argument("--attention", choices=("eager", "sdpa", "flash_attention_2"), help="default: the model's own")
    p.add_argument("--steps", nargs="+", help="record these only, such as 'layer.0.*'")
    p.add_argument("--depth", choices=("values", "stats"), default="values",
                   help="stats: figures and a sketch of each row in place of its values; plumb screens with them")
    p.add_argument("--check", action="store_true", help="run the same without hooks, and compare the logits' bits")
    p.add_argument("--threads", type=int, default=0)
    return p.parse_args()


def ids(text):
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as e:
        raise CaptureError(f"'{text}' is no list of token ids such as 1,2,3") from e


def run(model, prompt, decode, forced, device):
    """A prefill, then one token a call; returns all tokens that were fed."""
    import torch

    from .torch_capture import cache_name, cache_of

    fed = list(prompt)
    with torch.no_grad():
        output = model(input_ids=torch.tensor([prompt], device=device), use_cache=True)
        for i in range(decode):
            token = forced[i] if forced else int(output.logits[0, -1].argmax())
            fed.append(token)
            output = model(input_ids=torch.tensor([[token]], device=device), use_cache=True,
                           **{cache_name(model): cache_of(output)})
    return fed


def main():
    o = parse()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .torch_capture import capture

    if o.threads > 0:
        torch.set_num_threads(o.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}[o.dtype]
    options = {"attn_implementation": o.attention} if o.attention else {}
    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=dtype, **options).to(o.device).eval()
    prompt = ids(o.tokens) if o.tokens else AutoTokenizer.from_pretrained(o.model)(o.prompt).input_ids
    forced = ids(o.tokens_decode) if o.tokens_decode else None
    decode = len(forced) if forced else o.decode
    if not prompt:
        raise CaptureError("the prompt has no tokens")
    size = model.get_input_embeddings().weight.shape[0]
    for token in prompt + (forced or []):
        if not 0 <= token < size:
            raise CaptureError(f"token {token} is outside the vocabulary of {size}")

    plain_s = None
    fed = None
    if o.check or o.steps:
        start = time.perf_counter()
        fed = run(model, prompt, decode, forced, o.device)
        plain_s = time.perf_counter() - start
    start = time.perf_counter()
    with capture(model, o.output, tokens=fed, steps=o.steps, check=o.check, model_name=o.model,
                 depth=o.depth) as c:
        run(model, prompt, decode, forced or (fed[len(prompt):] if fed else None), o.device)
        observed_s = time.perf_counter() - start
    count = sum(not name.endswith(".sketch") for name in c._file.steps)
    print(f"wrote       {o.output}: {'statistics of ' if o.depth == 'stats' else ''}{count} steps, {len(c.tokens)} tokens "
          f"({len(prompt)} prompt, {len(c.tokens) - len(prompt)} decoded)")
    print(f"time        {observed_s:.3f} s observed" + (f"; {plain_s:.3f} s not observed" if plain_s else ""))
    if c.check_result is not None:
        print("check       the logits are the same bits with and without hooks" if c.check_result
              else "check       DIFFERENT: the hooks changed the logits")
    if c.not_captured:
        print("hidden      no module shows these steps; plumb judges them together with the next one:")
        for line in summary(c.not_captured):
            print("            " + line)
    return 1 if c.check_result is False else 0


def summary(steps):
    """layer.0.x, layer.1.x … in one line."""
    groups = {}
    for step in steps:
        parts = step.split(".", 2)
        key = "layer.*." + parts[2] if parts[0] == "layer" else step
        groups.setdefault(key, []).append(parts[1] if parts[0] == "layer" else "")
    return [key if "*" not in key else f"{key} ({len(layers)} layers)" for key, layers in groups.items()]


def cli():
    try:
        return main()
    except (CaptureError, OSError, ValueError) as e:
        print(f"plumb_capture: {e}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(cli())
