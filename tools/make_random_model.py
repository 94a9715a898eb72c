#!/usr/bin/env python3
"""Writes a llama model with random weights, for measuring speed: it computes nothing of sense.

    make_random_model.py 0.5B|1.1B OUTPUT.gguf

F16, without a tokenizer; llama-quantize makes the other types from it. Needs the Python packages numpy and gguf.
"""
import sys

import gguf
import numpy as np

SIZES = {  # layers, width, width of the feed-forward layer, heads, heads of keys and values
    "0.5B": (24, 1024, 4864, 16, 2),
    "1.1B": (22, 2048, 5632, 32, 4),
}
VOCABULARY = 32000


def main():
    size, output = sys.argv[1:]
    layers, width, feed_forward, heads, kv_heads = SIZES[size]
    head = width // heads
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(output, "llama")
    writer.add_name(f"random-{size}")
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")

    def matrix(name, rows, columns):
        values = rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(np.sqrt(columns))
        writer.add_tensor(name, values.astype(np.float16))

    def ones(name):
        writer.add_tensor(name, np.ones(width, np.float32))

    matrix("token_embd.weight", VOCABULARY, width)
    for i in range(layers):
        ones(f"blk.{i}.attn_norm.weight")
        matrix(f"blk.{i}.attn_q.weight", width, width)
        matrix(f"blk.{i}.attn_k.weight", kv_heads * head, width)
        matrix(f"blk.{i}.attn_v.weight", kv_heads * head, width)
        matrix(f"blk.{i}.attn_output.weight", width, width)
        ones(f"blk.{i}.ffn_norm.weight")
        matrix(f"blk.{i}.ffn_gate.weight", feed_forward, width)
        matrix(f"blk.{i}.ffn_up.weight", feed_forward, width)
        matrix(f"blk.{i}.ffn_down.weight", width, feed_forward)
    ones("output_norm.weight")
    matrix("output.weight", VOCABULARY, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
