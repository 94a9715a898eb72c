#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tiny models of many architectures, with what a float64 run of each gives.

    make_tiny_models.py make OUTPUT [NAME...]     writes OUTPUT/NAME for the variants (default: all)
    make_tiny_models.py check FOLDER...           runs models that have a golden.safetensors again and compares
    make_tiny_models.py gguf LLAMA_CPP FOLDER...  adds model-f32.gguf, made by llama.cpp's converter
    make_tiny_models.py pick OUTPUT ZOO [NAME...] copies the committed variants with a smaller golden.safetensors

Needs torch, transformers and safetensors; gguf for "gguf".
"""
import argparse
import json
import math
import sys
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

LENGTHS = [1, 7, 20]
GREEDY = 8
# A draw is refused if some choice (next token, expert) is closer than this, as a share of the spread of its logits.
LEAST_MARGIN = 0.01
MOST_DRAWS = 60


# the variants

# Two layers, four heads, of which two share each key, unless a variant says otherwise.
BASE = dict(vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None)
WIDE = dict(BASE, num_attention_heads=2, num_key_value_heads=1)  # heads of 16: eight rotary pairs
SPECIAL = dict(bos_token_id=1, eos_token_id=2, pad_token_id=None)
GPT = dict(vocab_size=64, n_embd=32, n_head=4, n_layer=2, n_positions=64, **SPECIAL)
NEOX = dict(vocab_size=64, hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=24,
            max_position_embeddings=64, **SPECIAL)
FALCON = dict(vocab_size=64, hidden_size=32, num_attention_heads=4, num_hidden_layers=2, ffn_hidden_size=40,
              max_position_embeddings=64, **SPECIAL)
SLIDING, FULL = "sliding_attention", "full_attention"


def rope(kind, theta=10000.0, **more):
    return dict(rope_type=kind, rope_theta=theta, **more)


def yarn(theta=1000.0, beta_fast=0.8, beta_slow=0.15, **more):
    """Of eight rotary pairs two lie on the ramp."""
    return rope("yarn", theta, factor=4.0, original_max_position_embeddings=16, beta_fast=beta_fast, beta_slow=beta_slow, **more)


def entry(what, model_type, base, old_keys=False, file=None, drop=(), commit=True, gguf=False, **more):
    """more: of the configuration. file, drop: what config.json has beside or without what transformers writes."""
    return dict(what=what, type=model_type, config={**base, **more}, old_keys=old_keys, file=file or {}, drop=drop,
                commit=commit, gguf=gguf)


LONG = [1.0, 1.3, 1.9, 2.8, 4.5, 7.0, 9.0, 12.0]
SHORT = [1.0, 1.05, 1.1, 1.2, 1.25, 1.4, 1.5, 1.7]
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
MOE = dict(moe_intermediate_size=8, num_experts=6, num_experts_per_tok=2)
MLA = dict(vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
           num_key_value_heads=2, max_position_embeddings=64, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=8,
           v_head_dim=6, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, moe_intermediate_size=8, **SPECIAL)

VARIANTS = {
    "llama": entry("plain, older keys", "llama", BASE, old_keys=True, commit=False),
    "llama-yarn": entry("YaRN, ramp set", "llama", WIDE, old_keys=True, rope_parameters=yarn()),
    "llama-yarn-default": entry("YaRN, default ramp, tied output", "llama", WIDE, tie_word_embeddings=True,
        rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16), commit=False),
    "llama-yarn-attention-factor": entry("YaRN, attention_factor 1.3, tied output", "llama", WIDE, gguf=True,
        tie_word_embeddings=True, rope_parameters=yarn(attention_factor=1.3)),
    "llama-yarn-mscale": entry("YaRN, mscale 0.7 and mscale_all_dim 1.5, tied output", "llama", WIDE,
        tie_word_embeddings=True, rope_parameters=yarn(mscale=0.7, mscale_all_dim=1.5)),
    "llama-yarn-untruncated": entry("YaRN, truncate false, tied output", "llama", WIDE, tie_word_embeddings=True,
        rope_parameters=yarn(truncate=False)),
    "llama-dynamic": entry("dynamic NTK, 12 positions, lists shorter and longer, tied output", "llama", WIDE,
        tie_word_embeddings=True, old_keys=True, max_position_embeddings=12, rope_parameters=rope("dynamic",
        factor=2.0)),
    "llama-linear": entry("linear scaling", "llama", BASE, rope_parameters=rope("linear", factor=2.5), commit=False),
    "llama3-scaling": entry("llama3 scaling, rope_parameters", "llama", WIDE, rope_parameters=rope("llama3", 500000.0,
        **LLAMA3)),
    "llama-mlp-bias": entry("biases in attention and MLP, head_dim 12, every head its own key", "llama", BASE,
        mlp_bias=True, attention_bias=True, head_dim=12, num_key_value_heads=4, tie_word_embeddings=True),
    "llama-gelu": entry("hidden_act gelu, rms_norm_eps 1e-2", "llama", BASE, hidden_act="gelu", rms_norm_eps=1e-2,
        commit=False),
    "mistral": entry("no window", "mistral", BASE, sliding_window=None, old_keys=True, commit=False),
    "mistral-window": entry("window of 5 in every layer, head_dim 12", "mistral", BASE, sliding_window=5, head_dim=12,
        old_keys=True),
    "ministral": entry("windowed layers and global ones", "ministral", BASE, head_dim=8, num_hidden_layers=3,
        sliding_window=5, layer_types=[SLIDING, FULL, SLIDING], tie_word_embeddings=True),
    "ministral3": entry("attention temperature, YaRN with mscale", "ministral3", WIDE, head_dim=16,
        rope_parameters=rope("yarn", 1000.0, factor=4.0, original_max_position_embeddings=6, beta_fast=0.4,
        beta_slow=0.06, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.3)),
    "mixtral-window": entry("experts, window of 5", "mixtral", BASE, intermediate_size=12, num_local_experts=4,
        num_experts_per_tok=2, sliding_window=5, tie_word_embeddings=True),
    "qwen2-window": entry("max_window_layers 1: the last two of three layers have the window", "qwen2", BASE,
        num_hidden_layers=3, use_sliding_window=True, sliding_window=5, max_window_layers=1, tie_word_embeddings=True,
        old_keys=True, drop=("layer_types",)),
    "qwen2-mixed": entry("layer_types decide, against max_window_layers", "qwen2", BASE, num_hidden_layers=3,
        use_sliding_window=True, sliding_window=5, max_window_layers=3, layer_types=[SLIDING, FULL, SLIDING],
        tie_word_embeddings=True, commit=False),
    "qwen2-yarn": entry("YaRN", "qwen2", WIDE, gguf=True, tie_word_embeddings=True, old_keys=True,
        rope_parameters=yarn()),
    "qwen3-window": entry("windowed layers, q/k norms", "qwen3", BASE, head_dim=12, num_hidden_layers=3,
        use_sliding_window=True, sliding_window=5, max_window_layers=2, tie_word_embeddings=True),
    "qwen3-yarn": entry("YaRN, q/k norms, biases in attention", "qwen3", WIDE, head_dim=16, attention_bias=True,
        tie_word_embeddings=True, rope_parameters=yarn()),
    "qwen2-moe": entry("shared expert with a gate, weights not normalised, a layer without experts", "qwen2_moe",
        BASE, **MOE, shared_expert_intermediate_size=16, norm_topk_prob=False, mlp_only_layers=[0],
        tie_word_embeddings=True),
    "qwen2-moe-step": entry("weights normalised, experts in every second layer", "qwen2_moe", BASE, **MOE,
        shared_expert_intermediate_size=16, norm_topk_prob=True, decoder_sparse_step=2, tie_word_embeddings=True),
    "qwen3-moe": entry("weights not normalised, one layer without experts", "qwen3_moe", BASE, head_dim=12, **MOE,
        norm_topk_prob=False, mlp_only_layers=[0], tie_word_embeddings=True),
    "qwen2-moe-all": entry("shared expert, experts in every layer, normalised", "qwen2_moe", BASE, **MOE,
        shared_expert_intermediate_size=16, norm_topk_prob=True, commit=False),
    "qwen3-moe-all": entry("experts in every layer, not normalised", "qwen3_moe", BASE, head_dim=12, **MOE,
        norm_topk_prob=False, commit=False),
    "gemma": entry("embedding scaled, norms of 1 + weight, tanh GELU", "gemma", BASE, head_dim=12,
        num_key_value_heads=1),
    "gemma2": entry("query_pre_attn_scalar 20, soft caps, other layer_types", "gemma2", BASE, num_hidden_layers=3,
        head_dim=12, query_pre_attn_scalar=20, sliding_window=5, attn_logit_softcapping=3.0,
        final_logit_softcapping=2.0, layer_types=[FULL, SLIDING, SLIDING]),
    "gemma3-linear": entry("linear scaling by 8 on global layers, query_pre_attn_scalar 20, soft cap of the logits",
        "gemma3_text", BASE, num_hidden_layers=3, head_dim=12, query_pre_attn_scalar=20, sliding_window=5,
        final_logit_softcapping=2.0, layer_types=[SLIDING, SLIDING, FULL], rope_parameters={FULL: rope("linear",
        1000000.0, factor=8.0), SLIDING: rope("default")}),
    "gemma3-older-keys": entry("the same in older keys, sliding_window_pattern 3, no soft cap", "gemma3_text", BASE,
        num_hidden_layers=3, head_dim=12, query_pre_attn_scalar=12, sliding_window=5, layer_types=[SLIDING, SLIDING,
        FULL], rope_parameters={FULL: rope("linear", 1000000.0, factor=8.0), SLIDING: rope("default", 5000.0)},
        drop=("rope_parameters", "layer_types", "dtype", "_sliding_window_pattern"),
        file=dict(sliding_window_pattern=3, rope_theta=1000000.0, rope_local_base_freq=5000.0, torch_dtype="float32",
        rope_scaling=dict(rope_type="linear", factor=8.0))),
    "phi": entry("q/k LayerNorm per head, grouped queries", "phi", BASE, qk_layernorm=True,
        partial_rotary_factor=0.5),
    "phi3-longrope": entry("longrope, 10 positions, both sets used; three quarters of a head rotated; window of 6",
        "phi3", WIDE, sliding_window=6, partial_rotary_factor=0.75, original_max_position_embeddings=10,
        old_keys=True, pad_token_id=0, rope_parameters=rope("longrope", partial_rotary_factor=0.75,
        short_factor=SHORT[:6], long_factor=LONG[:6], original_max_position_embeddings=10)),
    "phi3-longrope-new": entry("longrope in rope_parameters, no window, tied output", "phi3", WIDE,
        original_max_position_embeddings=10, pad_token_id=0, rope_parameters=rope("longrope",
        partial_rotary_factor=1.0, short_factor=SHORT, long_factor=LONG, original_max_position_embeddings=10),
        tie_word_embeddings=True, commit=False),
    "smollm3": entry("no_rope_layers 0 1 1 0, window of 5 in the layers without positions", "smollm3", BASE,
        num_hidden_layers=4, no_rope_layers=[0, 1, 1, 0], use_sliding_window=True, sliding_window=5, pad_token_id=0),
    "olmo2": entry("norms after the sub-layers, tied output", "olmo2", BASE, tie_word_embeddings=True, commit=False),
    "olmo": entry("norms without weights, clip_qkv 0.8", "olmo", BASE, clip_qkv=0.8, pad_token_id=0,
        tie_word_embeddings=True, commit=False),
    "gpt2-by-layer": entry("scores divided by the layer's number, n_inner 24, erf GELU", "gpt2", GPT, n_inner=24,
        scale_attn_by_inverse_layer_idx=True, activation_function="gelu"),
    "gpt2-unscaled": entry("scale_attn_weights false, tanh GELU", "gpt2", GPT, scale_attn_weights=False,
        commit=False),
    "gpt-neox-sequential": entry("sequential residual, no biases in attention, linear scaling", "gpt_neox", NEOX,
        use_parallel_residual=False, attention_bias=False, rope_parameters=rope("linear", factor=2.0,
        partial_rotary_factor=0.5)),
    "gpt-neox-tanh": entry("rotary_pct 0.25, rotary_emb_base, gelu_fast", "gpt_neox", NEOX, hidden_act="gelu_fast",
        drop=("rope_parameters", "dtype"), rope_parameters=rope("default", 5000.0, partial_rotary_factor=0.25),
        file=dict(rotary_pct=0.25, rotary_emb_base=5000, torch_dtype="float32"), commit=False),
    "falcon-40b": entry("two norms, grouped queries", "falcon", FALCON, new_decoder_architecture=True,
        num_kv_heads=2),
    "falcon-one-norm": entry("new decoder with num_ln_in_parallel_attn 1", "falcon", FALCON,
        new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, ffn_hidden_size=128, commit=False),
    "falcon-alibi": entry("ALiBi, sequential, every head its own key, biases", "falcon", FALCON, alibi=True,
        multi_query=False, parallel_attn=False, bias=True),
    "falcon-sequential": entry("sequential, one key for all heads, untied output", "falcon", FALCON,
        parallel_attn=False, tie_word_embeddings=False, commit=False),
    "starcoder2-window": entry("window of 5, no biases", "starcoder2", BASE, sliding_window=5, use_bias=False,
        tie_word_embeddings=True),
    "stablelm-parallel": entry("parallel residual, q/k LayerNorm per head, biases of q, k, v", "stablelm", BASE,
        use_parallel_residual=True, qk_layernorm=True, use_qkv_bias=True, partial_rotary_factor=0.5),
    "stablelm-parallel-plain": entry("parallel residual, no q/k norms", "stablelm", BASE, use_parallel_residual=True,
        use_qkv_bias=False, partial_rotary_factor=0.5, commit=False),
    "stablelm-qk-norm": entry("sequential with q/k norms, a quarter rotated", "stablelm", WIDE, qk_layernorm=True,
        partial_rotary_factor=0.25, old_keys=True, commit=False),
    "granite-bias": entry("multipliers, biases everywhere, YaRN", "granite", WIDE, gguf=True, attention_bias=True,
        mlp_bias=True, embedding_multiplier=3.0, residual_multiplier=0.6, attention_multiplier=0.3,
        logits_scaling=3.0, tie_word_embeddings=True, rope_parameters=yarn()),
    "cohere-qk-norm": entry("q/k LayerNorm of each head", "cohere", BASE, gguf=True, use_qk_norm=True,
        logit_scale=0.25, pad_token_id=0),
    "cohere2": entry("windowed layers with positions, global ones without", "cohere2", BASE, num_hidden_layers=3,
        sliding_window=5, logit_scale=0.25, layer_types=[SLIDING, FULL, SLIDING], pad_token_id=0, commit=False),
    "glm4": entry("no biases in attention, a quarter of a head rotated", "glm4", WIDE, gguf=True, head_dim=16,
        attention_bias=False, partial_rotary_factor=0.25, pad_token_id=0, old_keys=True, tie_word_embeddings=True),
    "glm4-bias": entry("biases in attention, all of a head rotated", "glm4", WIDE, head_dim=16, attention_bias=True,
        partial_rotary_factor=1.0, pad_token_id=0, commit=False),
    "exaone4-window": entry("LLLG: windowed layers with positions, the global one without; llama3 scaling", "exaone4",
        WIDE, num_hidden_layers=4, sliding_window=5, sliding_window_pattern=4,
        file=dict(sliding_window_pattern="LLLG"), old_keys=True, rope_parameters=rope("llama3", 500000.0, **LLAMA3),
        tie_word_embeddings=True),
    "bloom": entry("ALiBi", "bloom", dict(vocab_size=64, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1,
        eos_token_id=2, pad_token_id=3), commit=False),
    "bloom-six-heads": entry("ALiBi with six heads, residual after the norm", "bloom", dict(vocab_size=64,
        hidden_size=24, n_layer=2, n_head=6, bos_token_id=1, eos_token_id=2, pad_token_id=3),
        apply_residual_connection_post_layernorm=True),
    "gpt-oss": entry("attention sinks, clamped SwiGLU, alternating window, YaRN, biases", "gpt_oss", WIDE,
        head_dim=16, intermediate_size=12, num_local_experts=4, num_experts_per_tok=2, sliding_window=5,
        swiglu_limit=1.5, rope_parameters=yarn(truncate=False)),
    "deepseek2": entry("MLA with q_lora, group-limited routing, one dense layer, YaRN", "deepseek_v2", MLA,
        q_lora_rank=10, first_k_dense_replace=1, topk_method="group_limited_greedy", n_group=4, topk_group=2,
        routed_scaling_factor=1.7, rope_parameters=yarn(100.0, 0.8, 0.2, mscale=0.7, mscale_all_dim=0.5)),
    "deepseek2-lite": entry("MLA without q_lora, greedy routing", "deepseek_v2", MLA, q_lora_rank=None,
        first_k_dense_replace=1, topk_method="greedy", n_group=1, topk_group=1, old_keys=True),
    "deepseek3": entry("sigmoid routing with a correction, weights normalised", "deepseek_v3", MLA, q_lora_rank=10,
        first_k_dense_replace=1, n_group=4, topk_group=2, routed_scaling_factor=2.5, norm_topk_prob=True,
        n_shared_experts=1, file=dict(scoring_func="sigmoid", topk_method="noaux_tc")),
    "llama4": entry("chunks of 6, global layer without positions, temperature, q/k norms, sigmoid gate, dense and expert layers",
        "llama4_text", BASE, head_dim=8, intermediate_size=8, intermediate_size_mlp=24, num_hidden_layers=4,
        num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=2, attention_chunk_size=6,
        floor_scale=4, attn_scale=0.3, commit=False),
}


# running in float64


class Double(TorchFunctionMode):
    """Turns each cast to float32 inside a model's code into one to float64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args = [torch.float64 if value is torch.float32 else value for value in args]
        kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return function(*args, **kwargs)


class Precision:
    """Within it, models are made and run in one precision."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.mode = Double() if dtype is torch.float64 else None

    def __enter__(self):
        torch.set_default_dtype(self.dtype)
        if self.mode:
            self.mode.__enter__()

    def __exit__(self, *error):
        if self.mode:
            self.mode.__exit__(*error)
        torch.set_default_dtype(torch.float32)


def load(folder, dtype):
    config = AutoConfig.from_pretrained(folder)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, attn_implementation="eager")
    assert all(value.dtype == dtype for value in model.parameters()), "a weight has another precision"
    return model.eval()


def keeps_state(model):
    """Dynamic rotary scaling remembers the longest sequence so far, so each needs a fresh model."""
    parameters = getattr(model.config, "rope_parameters", None) or {}
    return parameters.get("rope_type") == "dynamic"


def first_of(value):
    return value[0] if isinstance(value, (tuple, list)) else value


def named_part(model, names):
    base = model.base_model if model.base_model is not model else model.model
    return next(getattr(base, name) for name in names if hasattr(base, name))


def layers_of(model):
    return named_part(model, ["layers", "h"])


def final_norm_of(model):
    return named_part(model, ["norm", "ln_f", "final_layer_norm", "final_layernorm"])


class Capture:
    """Records what enters layer 0, and what each layer and the final norm give."""

    def __init__(self, model, modules):
        self.values = {}
        self.module_values = {}
        layers = layers_of(model)
        layers[0].register_forward_pre_hook(self.enter, with_kwargs=True)
        for index, layer in enumerate(layers):
            layer.register_forward_hook(self.keep(f"layer.{index}.output"))
        final_norm_of(model).register_forward_hook(self.keep("final_norm"))
        for name, module in model.named_modules() if modules else []:
            if ".layers." in name or ".h." in name:
                if any(True for _ in module.parameters(recurse=False)):
                    module.register_forward_hook(self.keep_module(name))

    def enter(self, module, args, kwargs):
        value = args[0] if args else kwargs["hidden_states"]
        self.values["embedding"] = value.detach()[0].clone()

    def keep(self, name):
        def hook(module, args, output):
            self.values[name] = first_of(output).detach().reshape(-1, first_of(output).shape[-1]).clone()
        return hook

    def keep_module(self, name):
        def hook(module, args, output):
            outputs = output if isinstance(output, (tuple, list)) else [output]
            for index, value in enumerate(outputs):
                if isinstance(value, torch.Tensor):
                    self.module_values[name if index == 0 else f"{name}.{index}"] = value.detach()
        return hook


def forward(model, tokens):
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


def run(folder, tokens, dtype, greedy=GREEDY, modules=False):
    """{name: tensor} for one list of tokens, and the outputs of the modules in the layers."""
    with Precision(dtype):
        model = load(folder, dtype)
        capture = Capture(model, modules)
        logits = forward(model, tokens)
        values = {**capture.values, "logits": logits}
        inside = dict(capture.module_values)
        values = {name: value.clone() for name, value in values.items()}
        sequence, chosen, margins = list(tokens), [], []
        for _ in range(greedy):
            best = forward(load(folder, dtype) if keeps_state(model) else model, sequence)[-1].topk(2)
            chosen.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            sequence.append(chosen[-1])
        values["greedy"] = torch.tensor(chosen, dtype=torch.int64)
        values["greedy_margin"] = torch.tensor(margins, dtype=torch.float64)
    assert dtype is torch.float32 or logits.dtype == torch.float64
    return values, inside


def relative_distance(value, reference):
    value, reference = value.double(), reference.double()
    return float((value - reference).norm() / reference.norm())


# weights


def fan_in(name, value, model_type):
    if model_type == "gpt2" and "wte" not in name and "wpe" not in name and "lm_head" not in name:
        return value.shape[0]  # Conv1D: [in, out]
    if value.dim() == 3 and model_type in ("gpt_oss", "llama4_text"):
        return value.shape[1]  # experts: [expert, in, out]
    return value.shape[-1]


# Larger weights here, so that attention and routing are far from uniform.
SHARPENED = ("q_proj", "k_proj", "qkv", "query_key_value", "c_attn", "q_b_proj", "gate.weight", "router")


def draw(name, value, model_type, tied, generator):
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    if "bias" in name:
        return 0.3 * noise
    if "sinks" in name:
        return 1.0 + noise
    if value.dim() == 1 or "norm" in name:
        centre = 0.0 if model_type in ("gemma", "gemma2", "gemma3_text") else 1.0
        return centre + 0.25 * noise
    if "embed" in name or "wte" in name or "wpe" in name:
        if model_type.startswith("gemma"):
            return 0.2 * noise  # is multiplied by the square root of the width
        return (0.4 if tied else 0.7) * noise
    gain = 1.6 if any(part in name for part in SHARPENED) else 1.0
    return gain / math.sqrt(fan_in(name, value, model_type)) * noise


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    tied = bool(getattr(config, "tie_word_embeddings", False))
    state = dict(model.named_parameters())
    state.update({name: value for name, value in model.named_buffers() if "e_score_correction_bias" in name})
    with torch.no_grad():
        for name in sorted(state):
            state[name].copy_(draw(name, state[name], config.model_type, tied, generator).float())


# making a variant


def write_config(folder, variant):
    """The file as hubs have it: what was asked for, not every default of this version of transformers."""
    config = json.loads((folder / "config.json").read_text())
    if variant.get("old_keys"):
        rope = config.pop("rope_parameters", None) or {}
        config["torch_dtype"] = config.pop("dtype", "float32")
        if "rope_theta" in rope:
            config["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        config["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    for key in variant["drop"]:
        config.pop(key, None)
    config.update(variant["file"])
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def write_model(folder, variant, seed):
    config = AutoConfig.for_model(variant["type"], **variant["config"])
    with Precision(torch.float32):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        randomise(model, seed)
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
    for name in ("generation_config.json",):
        (folder / name).unlink(missing_ok=True)
    write_config(folder, variant)


def draw_tokens(seed, vocabulary):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocabulary, (length,), generator=generator).tolist() for length in LENGTHS]


def router_gaps(inside, k):
    """The least distance, over spread, of the last expert chosen from the first left out."""
    gaps = []
    for name, value in inside.items():
        if name.endswith((".gate", ".router")) and value.dim() >= 2 and value.shape[-1] > k:
            ranked = value.reshape(-1, value.shape[-1]).sort(descending=True).values
            gaps.append(float(((ranked[:, k - 1] - ranked[:, k]) / ranked.std(dim=-1)).min()))
    return gaps


def least_margin(golden, inside_by_list, config):
    margins = []
    for index in range(len(LENGTHS)):
        spread = float(golden[f"logits.{index}"].std())
        margins.append(float(golden[f"greedy_margin.{index}"].min()) / spread)
        top = golden[f"logits.{index}"].topk(2).values
        margins.append(float((top[:, 0] - top[:, 1]).min()) / spread)
    k = getattr(config, "num_experts_per_tok", None)
    for inside in inside_by_list:
        margins += router_gaps(inside, k) if k else []
    return min(margins)


def compute_golden(folder, lists, greedy=GREEDY):
    golden, inside_by_list = {}, []
    for index, tokens in enumerate(lists):
        values, inside = run(folder, tokens, torch.float64, greedy, modules=True)
        golden.update({f"{name}.{index}": value for name, value in values.items()})
        inside_by_list.append(inside)
    return golden, inside_by_list


def float32_distance(folder, lists, golden):
    worst = 0.0
    for index, tokens in enumerate(lists):
        values, _ = run(folder, tokens, torch.float32, greedy=0)
        worst = max(worst, relative_distance(values["logits"], golden[f"logits.{index}"]))
    return worst


def stored(value):
    return (value.to(torch.int64) if not value.is_floating_point() else value.float()).contiguous().clone()


def save_golden(folder, golden, about):
    save_file({name: stored(value) for name, value in golden.items()}, folder / "golden.safetensors", metadata={"about": about})


def about(name, seed):
    versions = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    return f"{name}, seed {seed}, computed in float64 and stored as float32, {versions}"


def make_one(output, name, variant):
    folder = output / name
    for seed in range(1, MOST_DRAWS):
        write_model(folder, variant, seed)
        config = AutoConfig.from_pretrained(folder)
        lists = draw_tokens(seed, config.vocab_size)
        golden, inside = compute_golden(folder, lists)
        margin = least_margin(golden, inside, config)
        if margin >= LEAST_MARGIN:
            break
    else:
        raise RuntimeError(f"{name}: no draw without near ties")
    distance = float32_distance(folder, lists, golden)
    if not 1e-8 < distance < 1e-5:
        print(f"{name}: float32 and float64 differ by {distance:.2g}", file=sys.stderr)
    golden.update({path: value for path, value in inside[1].items()})
    (folder / "tokens.json").write_text(json.dumps(lists) + "\n")
    save_golden(folder, golden, about(name, seed))
    spread = float(golden["logits.2"].std())
    print(f"{name}: seed {seed}, float32 against float64 {distance:.1e}, least margin {margin:.3f}, spread {spread:.2f}, "
          f"{(folder / 'model.safetensors').stat().st_size} bytes", flush=True)


def make(arguments):
    names = arguments.names or list(VARIANTS)
    failed = []
    for name in names:
        try:
            make_one(Path(arguments.output), name, VARIANTS[name])
        except Exception as error:  # the others are still wanted
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {str(error)[:600]}", file=sys.stderr, flush=True)
    return 1 if failed else 0


# checking


def check_one(folder):
    lists = json.loads((folder / "tokens.json").read_text())
    golden = load_file(folder / "golden.safetensors")
    count = next((len(value) for name, value in golden.items() if name.startswith("greedy.")), 0)
    computed, _ = compute_golden(folder, lists, count)
    worst, where, compared = 0.0, "", 0
    for name, value in computed.items():
        if name not in golden or name.startswith("greedy_margin"):
            continue
        compared += 1
        if name.startswith("greedy."):
            distance = 0.0 if golden[name].tolist() == value.tolist() else math.inf
        else:
            distance = relative_distance(value, golden[name])
        if distance > worst:
            worst, where = distance, name
    own = float32_distance(folder, lists, computed)
    print(f"{folder.name}: {compared} tensors, worst {worst:.1e} at {where}, float32 against float64 {own:.1e}", flush=True)
    return compared > 0 and worst < 1e-6


def check(arguments):
    failed = [folder for folder in arguments.folders if not check_one(Path(folder))]
    print(f"{len(arguments.folders) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


# GGUF

# What llama.cpp's converter asks of config.json by names that transformers does not write any more.
HANDED_OVER = {"gpt_neox": ("rotary_pct", "partial_rotary_factor", 0.25), "gpt2": ("n_ctx", "n_positions", 0),
               "cohere2": ("rotary_pct", "partial_rotary_factor", 1.0)}


def plain_vocabulary(model):
    """One character for each token, so that no tokenizer is needed."""
    import gguf
    size = model.hparams["vocab_size"]
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>"] + [chr(0x21 + index) for index in range(size - 4)]
    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, kind.BYTE] + [kind.NORMAL] * (size - 4)
    model.gguf_writer.add_tokenizer_model("llama")
    model.gguf_writer.add_tokenizer_pre("default")
    model.gguf_writer.add_token_list(tokens)
    model.gguf_writer.add_token_scores([0.0] * 4 + [-1.0 - index for index in range(size - 4)])
    model.gguf_writer.add_token_types(types)
    model.gguf_writer.add_bos_token_id(1)
    model.gguf_writer.add_eos_token_id(2)
    model.gguf_writer.add_add_bos_token(False)


def all_subclasses(kind):
    return [kind] + [deeper for child in kind.__subclasses__() for deeper in all_subclasses(child)]


def completed(hparams):
    key, source, default = HANDED_OVER.get(hparams.get("model_type"), (None, None, None))
    if key and key not in hparams:
        value = hparams.get(source, (hparams.get("rope_parameters") or {}).get(source, default))
        hparams = {**hparams, key: value}
    return hparams


def with_returned(original):
    """Yields what a generator returns too: the converter of stablelm returns its stacked norms and so loses them."""
    def modify_tensors(self, data, name, layer):
        returned = yield from original(self, data, name, layer)
        yield from returned or ()
    return modify_tensors


def convert(folder, architecture, conversion):
    kind = conversion.get_model_class(architecture)
    if hasattr(kind, "_stack_qk_norm"):
        kind.modify_tensors = with_returned(kind.modify_tensors)
    for each in all_subclasses(conversion.ModelBase):
        if "set_vocab" in vars(each):
            each.set_vocab = plain_vocabulary
    hparams = completed(json.loads((folder / "config.json").read_text()))
    import gguf
    tokenizer = folder / "tokenizer.json"  # gemma3's converter counts the tokens in it
    tokenizer.write_text(json.dumps({"model": {"vocab": dict.fromkeys(map(str, range(hparams["vocab_size"])), 0)}, "added_tokens": []}))
    try:
        with torch.inference_mode():
            kind(folder, gguf.LlamaFileType.ALL_F32, folder / "model-f32.gguf", hparams=hparams, model_name="Tiny").write()
    finally:
        tokenizer.unlink()


def gguf(arguments):
    sys.path[:0] = [arguments.llama_cpp, str(Path(arguments.llama_cpp) / "gguf-py")]
    import conversion
    failed = 0
    for folder in map(Path, arguments.folders):
        try:
            architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
            convert(folder, architecture, conversion)
            print(f"{folder.name}: {(folder / 'model-f32.gguf').stat().st_size} bytes", flush=True)
        except Exception as error:  # the converter may refuse a variant
            failed += 1
            (folder / "model-f32.gguf").unlink(missing_ok=True)
            print(f"{folder.name}: not converted: {type(error).__name__}: {str(error)[:300]}", flush=True)
    return 1 if failed else 0


# what is committed

GGUF_LIMIT_BYTES = 60_000


def smaller(golden):
    """Logits and greedy ids of all lists, the residual stream of the last one."""
    last = len(LENGTHS) - 1
    kept = {}
    for name, value in golden.items():
        name_of, _, index = name.rpartition(".")
        whole = name_of in ("logits", "greedy", "greedy_margin")
        stream = name_of in ("embedding", "final_norm") or (name_of.startswith("layer.") and name_of.endswith(".output"))
        if whole or (stream and index == str(last)):
            kept[name] = value
    return kept


def pick_one(source, target, with_gguf):
    target.mkdir(parents=True, exist_ok=True)
    for name in ["config.json", "tokens.json", "model.safetensors"]:
        (target / name).write_bytes((source / name).read_bytes())
    with safe_open(source / "golden.safetensors", "pt") as opened:
        metadata = opened.metadata()
    save_file(smaller(load_file(source / "golden.safetensors")), target / "golden.safetensors", metadata=metadata)
    converted = source / "model-f32.gguf"
    if with_gguf and converted.exists() and converted.stat().st_size < GGUF_LIMIT_BYTES:
        (target / converted.name).write_bytes(converted.read_bytes())
    for path in target.iterdir():
        path.chmod(0o644)
    return sum(path.stat().st_size for path in target.iterdir())


def pick(arguments):
    names = arguments.names or [name for name, variant in VARIANTS.items() if variant["commit"]]
    total = 0
    for name in names:
        total += pick_one(Path(arguments.output) / name, Path(arguments.zoo) / name, VARIANTS[name]["gguf"])
    print(f"{len(names)} variants, {total} bytes")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("make")
    command.add_argument("output")
    command.add_argument("names", nargs="*")
    command.set_defaults(function=make)
    command = commands.add_parser("check")
    command.add_argument("folders", nargs="+")
    command.set_defaults(function=check)
    command = commands.add_parser("gguf")
    command.add_argument("llama_cpp")
    command.add_argument("folders", nargs="+")
    command.set_defaults(function=gguf)
    command = commands.add_parser("pick")
    command.add_argument("output")
    command.add_argument("zoo")
    command.add_argument("names", nargs="*")
    command.set_defaults(function=pick)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sys.exit(arguments.function(arguments))


if __name__ == "__main__":
    main()
