#!/usr/bin/env python3
"""Trains the tiny story model of the tests and writes it as a quantized GGUF file.

    python3 -m venv /tmp/tiny-venv
    /tmp/tiny-venv/bin/pip install torch numpy gguf tokenizers
    /tmp/tiny-venv/bin/python tools/train_tiny_model.py --out tests/models/tiny-stories-q4_k.gguf

The text comes from tools/tiny_story_grammar.py, so there is nothing to download. The model is a
llama: 4 layers, width 256, 8 heads, 2 key/value heads, SwiGLU of 512, tied embedding, 512 tokens of
byte-level BPE (as GPT-2, but digits are split), 256 positions, 2.4 million weights.

Training takes about 28 minutes on one thread (2500 tokens/s on a 2024 server CPU). Every 300 steps
the checkpoint is saved in the --work folder and the GGUF file is written, so that a first model is
there early; after 600 steps it already tells stories. --steps makes training shorter. --export
does not train, it reads the checkpoint and only writes the file again. --f16 FILE writes the same
model with matrices in F16, too.

Q4_K holds the attention matrices and the two input matrices of the feed-forward part, Q6_K holds
the embedding and ffn_down, norms are F32. At the end the script reads the file back and prints the
error of every quantized matrix, the loss on held-out stories of the trained and of the quantized
weights, and greedy texts, which numpy makes from the quantized weights.

The same seed, packages and machine give the same file; another version of torch or another CPU may
round differently and give another model of the same kind.
"""

import argparse
import hashlib
import json
import math
import os
import time

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tiny_story_grammar import Chooser, story

WIDTH, LAYERS, HEADS, KV_HEADS, FFN, VOCAB, CONTEXT = 256, 4, 8, 2, 512, 512, 256
HEAD_DIM = WIDTH // HEADS
EPS, ROPE_BASE = 1e-5, 10000.0
END = "<|endoftext|>"
PROMPTS = ["Once upon a time", "One sunny day", "Long ago", "Lily was a", "The brave fox",
           "There was a", "This is the story of", "The little dog wanted to"]


# ---- text and tokens -------------------------------------------------------------------------

def make_stories(count, seed):
    """Returns the stories and the mean information of one in nats."""
    chooser = Chooser(seed)
    return [story(chooser) for _ in range(count)], chooser.nats / count


def train_tokenizer(texts):
    """Trains byte-level BPE: id 0 ends a text, then the 256 bytes, then 255 merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def token_stream(tokenizer, texts):
    """Returns all texts as one array of ids, each with END before it, and where each begins."""
    ids, starts = [], []
    for encoding in tokenizer.encode_batch(texts):
        starts.append(len(ids))
        ids.append(0)
        ids.extend(encoding.ids)
    ids.append(0)
    return np.array(ids, dtype=np.int64), np.array(starts)


def sample_batch(random, stream, starts, rows, length):
    """Returns rows of length + 1 tokens: 2 of 3 begin with a story, most of them without END."""
    limit = len(stream) - length - 1
    result = np.empty((rows, length + 1), dtype=np.int64)
    for row in range(rows):
        if random.random() < 2 / 3:
            at = starts[random.integers(np.searchsorted(starts, limit))]
            at += random.random() < 2 / 3
        else:
            at = random.integers(limit)
        result[row] = stream[at:at + length + 1]
    return torch.from_numpy(result)


# ---- the model -------------------------------------------------------------------------------

def matrix_shapes():
    """Returns the shape (outputs, inputs) of every matrix by its GGUF name."""
    shapes = {"token_embd": (VOCAB, WIDTH)}
    for i in range(LAYERS):
        shapes[f"blk.{i}.attn_q"] = (WIDTH, WIDTH)
        shapes[f"blk.{i}.attn_k"] = (KV_HEADS * HEAD_DIM, WIDTH)
        shapes[f"blk.{i}.attn_v"] = (KV_HEADS * HEAD_DIM, WIDTH)
        shapes[f"blk.{i}.attn_output"] = (WIDTH, WIDTH)
        shapes[f"blk.{i}.ffn_gate"] = (FFN, WIDTH)
        shapes[f"blk.{i}.ffn_up"] = (FFN, WIDTH)
        shapes[f"blk.{i}.ffn_down"] = (WIDTH, FFN)
    return shapes


def norm_names():
    """Returns the GGUF names of the norm vectors."""
    names = [f"blk.{i}.{part}_norm" for i in range(LAYERS) for part in ("attn", "ffn")]
    return names + ["output_norm"]


def new_weights():
    """Returns fresh weights; the outputs into the residual stream start smaller."""
    weights = {}
    for name, shape in matrix_shapes().items():
        residual = name.endswith(("attn_output", "ffn_down"))
        deviation = 0.04 / math.sqrt(2 * LAYERS) if residual else 0.04
        weights[name] = torch.randn(shape) * deviation
    for name in norm_names():
        weights[name] = torch.ones(WIDTH)
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def rope_tables(length):
    """Returns the cosines and sines [length, HEAD_DIM / 2] of the rotary embedding."""
    frequency = ROPE_BASE ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = np.arange(length)[:, None] * frequency[None, :]
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotate(x, cosine, sine):
    """Rotates the neighbours (2i, 2i + 1) of the last axis, as llama files in GGUF want it."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2)


def forward(weights, tokens, cosine, sine):
    """Returns the logits [rows, length, VOCAB]."""
    rows, length = tokens.shape
    x = F.embedding(tokens, weights["token_embd"])
    for i in range(LAYERS):
        block = f"blk.{i}."
        h = F.rms_norm(x, (WIDTH,), weights[block + "attn_norm"], EPS)
        q, k, v = ((h @ weights[block + "attn_" + part].T).view(rows, length, -1, HEAD_DIM)
                   .transpose(1, 2) for part in "qkv")
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + h.transpose(1, 2).reshape(rows, length, WIDTH) @ weights[block + "attn_output"].T
        h = F.rms_norm(x, (WIDTH,), weights[block + "ffn_norm"], EPS)
        h = F.silu(h @ weights[block + "ffn_gate"].T) * (h @ weights[block + "ffn_up"].T)
        x = x + h @ weights[block + "ffn_down"].T
    return F.rms_norm(x, (WIDTH,), weights["output_norm"], EPS) @ weights["token_embd"].T


def loss_on(weights, batch, cosine, sine):
    """Returns the mean loss in nats of a batch of rows, each with one token more than inputs."""
    length = batch.shape[1] - 1
    logits = forward(weights, batch[:, :-1], cosine[:length], sine[:length])
    return F.cross_entropy(logits.reshape(-1, VOCAB), batch[:, 1:].reshape(-1))


def train(args, tokenizer, on_snapshot):
    """Trains and returns the weights; the last quarter of the steps uses the whole context."""
    torch.manual_seed(args.seed)
    random = np.random.default_rng(args.seed)
    texts, nats = make_stories(args.stories, args.seed)
    stream, starts = token_stream(tokenizer, texts)
    print(f"{len(texts)} stories, {len(stream)} tokens, {len(stream) / len(texts):.0f} tokens a "
          f"story; the grammar's choices: {nats * len(texts) / len(stream):.3f} nats a token")
    weights = new_weights()
    print(f"{sum(w.numel() for w in weights.values())} weights")
    decayed = [w for w in weights.values() if w.dim() > 1]
    kept = [w for w in weights.values() if w.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1},
                                   {"params": kept, "weight_decay": 0.0}],
                                  lr=args.rate, betas=(0.9, 0.97))
    cosine, sine = (torch.from_numpy(t) for t in rope_tables(CONTEXT))
    began = last = time.time()
    total = 0.0
    for step in range(1, args.steps + 1):
        done = step / args.steps
        rate = args.rate * min(step / 60, 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows, length = (16, 128) if done < 0.75 else (8, 256)
        loss = loss_on(weights, sample_batch(random, stream, starts, rows, length), cosine, sine)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        total += loss.item()
        if step % 50 == 0 or step == args.steps:
            now, count = time.time(), (step - 1) % 50 + 1
            print(f"step {step}/{args.steps}  loss {total / count:.4f}  "
                  f"{count * rows * length / (now - last):.0f} tokens/s  {now - began:.0f} s",
                  flush=True)
            last, total = now, 0.0
        if step % 300 == 0 or step == args.steps:
            on_snapshot({name: w.detach().numpy() for name, w in weights.items()})
    return {name: w.detach().numpy() for name, w in weights.items()}


# ---- quantization ----------------------------------------------------------------------------

def half(x):
    """Rounds to IEEE half precision and back."""
    return x.astype(np.float16).astype(np.float32)


def safe_divide(a, b):
    """Returns a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape, np.float32), where=b != 0)


def fit_4bit(x):
    """For groups [..., 32] finds scale and minimum, x ~ scale * q - minimum with q in 0..15.

    Tries codes of several widths around the range of the group; for each the best scale and
    minimum follow by least squares; the one with the smallest squared error stays.
    """
    low = np.minimum(x.min(-1, keepdims=True), 0)
    span = x.max(-1, keepdims=True) - low
    best_scale, best_minimum = span / 15, -low
    codes = np.clip(np.rint(safe_divide(x - low, best_scale)), 0, 15)
    best_error = ((best_scale * codes - best_minimum - x) ** 2).sum(-1, keepdims=True)
    count = x.shape[-1]
    for width in np.linspace(13.0, 17.0, 41):
        codes = np.clip(np.rint(safe_divide(width * (x - low), span)), 0, 15)
        sum_q, sum_qq = codes.sum(-1, keepdims=True), (codes ** 2).sum(-1, keepdims=True)
        sum_x, sum_qx = x.sum(-1, keepdims=True), (codes * x).sum(-1, keepdims=True)
        scale = safe_divide(count * sum_qx - sum_q * sum_x, count * sum_qq - sum_q ** 2)
        minimum = (scale * sum_q - sum_x) / count
        scale = np.where(minimum < 0, safe_divide(sum_qx, sum_qq), scale)
        minimum = np.maximum(minimum, 0)
        error = ((scale * codes - minimum - x) ** 2).sum(-1, keepdims=True)
        better = (error < best_error) & (scale > 0)
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, scale, best_scale)
        best_minimum = np.where(better, minimum, best_minimum)
    return best_scale[..., 0], best_minimum[..., 0]


def quantize_q4_k(matrix):
    """Returns the Q4_K bytes [rows, ...]: blocks of 256 in 8 groups of 32, 144 bytes a block."""
    x = matrix.reshape(-1, 8, 32).astype(np.float32)
    scale, minimum = fit_4bit(x)
    d = half(scale.max(-1, keepdims=True) / 63)
    dmin = half(minimum.max(-1, keepdims=True) / 63)
    sc = np.clip(np.rint(safe_divide(scale, d)), 0, 63)
    mn = np.clip(np.rint(safe_divide(minimum, dmin)), 0, 63)
    codes = np.clip(np.rint(safe_divide(x + (dmin * mn)[..., None], (d * sc)[..., None])), 0, 15)
    sc, mn, codes = (a.astype(np.uint8) for a in (sc, mn, codes))
    packed = np.concatenate((sc[:, :4] | (sc[:, 4:] >> 4) << 6, mn[:, :4] | (mn[:, 4:] >> 4) << 6,
                             (sc[:, 4:] & 15) | (mn[:, 4:] & 15) << 4), axis=1)
    nibbles = (codes[:, 0::2] | codes[:, 1::2] << 4).reshape(-1, 128)
    blocks = np.concatenate((d.astype(np.float16).view(np.uint8),
                             dmin.astype(np.float16).view(np.uint8), packed, nibbles), axis=1)
    return np.ascontiguousarray(blocks).reshape(matrix.shape[0], -1)


def fit_6bit(x):
    """For groups [..., 16] finds the scale (of either sign), x ~ scale * q with q in -32..31."""
    extreme = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)
    best_scale = np.zeros_like(extreme)
    best_gain = np.zeros_like(extreme)
    for width in np.linspace(-33.0, -30.0, 31):
        codes = np.clip(np.rint(safe_divide(width * x, extreme)), -32, 31)
        sum_qx = (codes * x).sum(-1, keepdims=True)
        sum_qq = (codes ** 2).sum(-1, keepdims=True)
        scale = safe_divide(sum_qx, sum_qq)
        better = scale * sum_qx > best_gain
        best_gain = np.where(better, scale * sum_qx, best_gain)
        best_scale = np.where(better, scale, best_scale)
    return best_scale[..., 0]


def quantize_q6_k(matrix):
    """Returns the Q6_K bytes [rows, ...]: blocks of 256 in 16 groups of 16, 210 bytes a block."""
    x = matrix.reshape(-1, 16, 16).astype(np.float32)
    scale = fit_6bit(x)
    extreme = np.take_along_axis(scale, np.abs(scale).argmax(-1)[:, None], -1)
    d = half(extreme / -128)
    sc = np.clip(np.rint(safe_divide(scale, d)), -128, 127)
    codes = np.clip(np.rint(safe_divide(x, (d * sc)[..., None])), -32, 31) + 32
    # two halves of 128, in each four runs of 32
    v = codes.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.concatenate((v[:, :, 0] & 15 | (v[:, :, 2] & 15) << 4,
                          v[:, :, 1] & 15 | (v[:, :, 3] & 15) << 4), axis=-1)
    high = v[:, :, 0] >> 4 | v[:, :, 1] >> 4 << 2 | v[:, :, 2] >> 4 << 4 | v[:, :, 3] >> 4 << 6
    blocks = np.concatenate((low.reshape(-1, 128), high.reshape(-1, 64),
                             sc.astype(np.int8).view(np.uint8),
                             d.astype(np.float16).view(np.uint8)), axis=1)
    return np.ascontiguousarray(blocks).reshape(matrix.shape[0], -1)


# ---- the GGUF file ---------------------------------------------------------------------------

def write_gguf(path, weights, tokenizer, quantized):
    """Writes the model, with quantized as Q4_K and Q6_K, else as F16; replaces path at the end."""
    kinds = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(path + ".part", "llama")
    writer.add_name("Tiny Stories")
    writer.add_license("Apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M if quantized
                         else gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(VOCAB)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([text for text, _ in vocabulary])
    writer.add_token_types([gguf.TokenType.CONTROL if text == END else gguf.TokenType.NORMAL
                            for text, _ in vocabulary])
    writer.add_token_merges(merges_of(tokenizer))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    for name, weight in weights.items():
        if weight.ndim == 1:
            writer.add_tensor(name + ".weight", weight.astype(np.float32))
        elif not quantized:
            writer.add_tensor(name + ".weight", weight.astype(np.float16))
        elif name == "token_embd" or name.endswith("ffn_down"):
            writer.add_tensor(name + ".weight", quantize_q6_k(weight), raw_dtype=kinds.Q6_K)
        else:
            writer.add_tensor(name + ".weight", quantize_q4_k(weight), raw_dtype=kinds.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(path + ".part", path)


def merges_of(tokenizer):
    """Returns the merges as "left right", in order."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def read_gguf(path):
    """Returns the weights of a file as float32, by name without ".weight"."""
    return {tensor.name.removesuffix(".weight"):
            gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            for tensor in gguf.GGUFReader(path).tensors}


# ---- greedy text in numpy --------------------------------------------------------------------

def numpy_norm(x, weight):
    """RMSNorm of the last axis."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def numpy_rotate(x, cosine, sine):
    """Rotates neighbours of x [heads, HEAD_DIM]."""
    result = np.empty_like(x)
    result[:, 0::2] = x[:, 0::2] * cosine - x[:, 1::2] * sine
    result[:, 1::2] = x[:, 0::2] * sine + x[:, 1::2] * cosine
    return result


class NumpyModel:
    """The model, one token at a time, with a cache of keys and values."""

    def __init__(self, weights):
        self.weights = weights
        self.cosine, self.sine = rope_tables(CONTEXT)
        self.keys = np.zeros((LAYERS, CONTEXT, KV_HEADS, HEAD_DIM), np.float32)
        self.values = np.zeros_like(self.keys)
        self.length = 0
        self.sharpness = []  # the largest attention probability of every head and token

    def step(self, token):
        """Takes one token and returns the logits after it."""
        w, at = self.weights, self.length
        x = w["token_embd"][token]
        for i in range(LAYERS):
            block = f"blk.{i}."
            h = numpy_norm(x, w[block + "attn_norm"])
            q = (w[block + "attn_q"] @ h).reshape(HEADS, HEAD_DIM)
            k = (w[block + "attn_k"] @ h).reshape(KV_HEADS, HEAD_DIM)
            q, k = (numpy_rotate(a, self.cosine[at], self.sine[at]) for a in (q, k))
            self.keys[i, at] = k
            self.values[i, at] = (w[block + "attn_v"] @ h).reshape(KV_HEADS, HEAD_DIM)
            out = np.empty((HEADS, HEAD_DIM), np.float32)
            for head in range(HEADS):
                group = head * KV_HEADS // HEADS
                score = self.keys[i, :at + 1, group] @ q[head] / math.sqrt(HEAD_DIM)
                p = np.exp(score - score.max())
                p /= p.sum()
                self.sharpness.append(p.max())
                out[head] = p @ self.values[i, :at + 1, group]
            x = x + w[block + "attn_output"] @ out.reshape(-1)
            h = numpy_norm(x, w[block + "ffn_norm"])
            gate = w[block + "ffn_gate"] @ h
            h = gate / (1 + np.exp(-gate)) * (w[block + "ffn_up"] @ h)
            x = x + w[block + "ffn_down"] @ h
        self.length += 1
        return w["token_embd"] @ numpy_norm(x, w["output_norm"])

    def greedy(self, ids, count):
        """Returns up to count most likely tokens after ids, and the smallest lead of one."""
        lead = math.inf
        for token in ids:
            logits = self.step(token)
        result = []
        while len(result) < count and self.length < CONTEXT:
            second, first = np.sort(logits)[-2:]
            lead = min(lead, first - second)
            token = int(logits.argmax())
            if token == 0:
                break
            result.append(token)
            logits = self.step(token)
        return result, lead


# ---- the report ------------------------------------------------------------------------------

def report(path, weights, tokenizer, seed):
    """Prints size, hash, errors of quantization, held-out losses and greedy texts of a file."""
    data = open(path, "rb").read()
    print(f"{path}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    read = read_gguf(path)
    for name in matrix_shapes():
        error = np.sqrt(((read[name] - weights[name]) ** 2).sum() / (weights[name] ** 2).sum())
        print(f"  {name:20s} relative rms error {error:.4f}")
    texts, nats = make_stories(400, seed + 1000)
    stream, starts = token_stream(tokenizer, texts)
    batch = torch.from_numpy(np.stack([stream[s + 1:s + 1 + CONTEXT] for s in starts
                                       if s + 1 + CONTEXT <= len(stream)]))
    cosine, sine = (torch.from_numpy(t) for t in rope_tables(CONTEXT))
    with torch.no_grad():
        for label, values in (("trained", weights), ("of the file", read)):
            values = {name: torch.from_numpy(v) for name, v in values.items()}
            print(f"held-out loss, weights {label}: "
                  f"{loss_on(values, batch, cosine, sine):.4f} nats a token")
    print(f"the grammar's choices there: {nats * len(texts) / len(stream):.4f} nats a token")
    sharpness = []
    for prompt in PROMPTS:
        model = NumpyModel(read)
        ids, lead = model.greedy(tokenizer.encode(prompt).ids, 100)
        sharpness += model.sharpness
        print(f"[{prompt}]{tokenizer.decode(ids)}   (smallest lead {lead:.3f})")
    print(f"mean of the largest attention probability: {np.mean(sharpness):.3f}")


def main():
    """Reads the options, trains or reads the checkpoint, writes and reports the files."""
    parser = argparse.ArgumentParser(description="trains the tiny story model of the tests")
    parser.add_argument("--out", default="tests/models/tiny-stories-q4_k.gguf")
    parser.add_argument("--f16", help="write the model as F16 to this file, too")
    parser.add_argument("--work", default="/tmp/tiny", help="folder of checkpoint and tokenizer")
    parser.add_argument("--export", action="store_true", help="do not train, use the checkpoint")
    parser.add_argument("--steps", type=int, default=1900)
    parser.add_argument("--stories", type=int, default=60000)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.makedirs(args.work, exist_ok=True)
    checkpoint = os.path.join(args.work, "checkpoint.npz")
    tokenizer_file = os.path.join(args.work, "tokenizer.json")
    if args.export:
        tokenizer = Tokenizer.from_file(tokenizer_file)
        weights = dict(np.load(checkpoint))
    else:
        tokenizer = train_tokenizer(make_stories(4000, args.seed)[0])
        tokenizer.save(tokenizer_file)

        def snapshot(values):
            """Saves the checkpoint and the file as they are now."""
            np.savez(checkpoint, **values)
            write_gguf(args.out, values, tokenizer, True)

        weights = train(args, tokenizer, snapshot)
    write_gguf(args.out, weights, tokenizer, True)
    if args.f16:
        write_gguf(args.f16, weights, tokenizer, False)
    report(args.out, weights, tokenizer, args.seed)


if __name__ == "__main__":
    main()
