# SPDX-License-Identifier: Apache-2.0
"""Finds the modules of a transformers causal LM that plumb's steps come from."""

import sys

from .trace_file import CaptureError

# Each part has the names that the architectures give it; the first that is there is taken.
_ATTENTION = ("self_attn", "attn", "self_attention", "attention")
_MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn")
_OUT = ("o_proj", "dense", "c_proj", "out_proj", "wo")
_FUSED_QKV = ("qkv_proj", "query_key_value", "c_attn")
_UP = ("up_proj", "fc1", "c_fc", "dense_h_to_4h", "fc_in")
_DOWN = ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "fc_out")
_ACT = ("act_fn", "activation_fn", "act", "gelu_impl", "activation")
_FINAL_NORM = ("norm", "final_layernorm", "ln_f", "final_layer_norm", "final_norm")
_EMBEDDING = ("embed_tokens", "wte", "embed_in", "word_embeddings")


def child(module, names):
    for name in names:
        found = getattr(module, name, None)
        if found is not None and hasattr(found, "register_forward_hook"):
            return found
    return None


class Layer:
    """One decoder layer: its modules under plumb's names, None where it has none."""

    def __init__(self, module, index, config):
        self.module = module
        self.index = index
        self.attention = child(module, _ATTENTION)
        self.mlp = child(module, _MLP)
        if self.attention is None:
            raise CaptureError(f"layer {index} ({type(module).__name__}) has no attention module that is known "
                               f"({', '.join(_ATTENTION)}); this architecture is not supported")
        attention = self.attention
        self.q, self.k, self.v = (child(attention, (n,)) for n in ("q_proj", "k_proj", "v_proj"))
        self.qkv = child(attention, _FUSED_QKV) if self.q is None else None
        self.out = child(attention, _OUT)
        self.q_norm = child(attention, ("q_norm", "q_layernorm"))
        self.k_norm = child(attention, ("k_norm", "k_layernorm"))
        self._find_sizes(config)
        self._find_norms()
        self._find_mlp()

    def _find_sizes(self, config):
        attention = self.attention
        heads = getattr(config, "num_attention_heads", None) or getattr(config, "n_head", None)
        self.heads = int(heads)
        head_dim = (getattr(attention, "head_dim", None) or getattr(attention, "head_size", None)
                    or getattr(config, "head_dim", None) or config.hidden_size // self.heads)
        self.head_dim = int(head_dim)
        kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        if config.model_type == "falcon":
            grouped = config.new_decoder_architecture or not config.multi_query
            kv_heads = config.num_kv_heads if grouped else 1
        if getattr(config, "model_type", "") == "gpt_bigcode" and config.multi_query:
            kv_heads = 1
        if self.k is not None and hasattr(self.k, "out_features"):
            kv_heads = self.k.out_features // self.head_dim
        self.kv_heads = int(kv_heads)

    def _find_norms(self):
        m = self.module

        def get(*names):
            return child(m, names)

        before_mlp = get("pre_feedforward_layernorm")
        after_mlp = get("post_feedforward_layernorm")
        self.attn_norm = get("input_layernorm", "ln_1", "ln_attn")
        self.attn_post_norm = self.ffn_norm = self.ffn_post_norm = None
        if before_mlp is not None or (after_mlp is not None and self.attn_norm is None):
            # Gemma 2 and 3: norms on both sides. OLMo 2, EXAONE 4: behind the sub-layers only.
            self.attn_post_norm = get("post_attention_layernorm")
            self.ffn_norm, self.ffn_post_norm = before_mlp, after_mlp
        else:
            self.attn_post_norm = get("post_self_attn_layernorm")
            self.ffn_norm = get("post_attention_layernorm", "ln_2", "ln_mlp")
            self.ffn_post_norm = get("post_mlp_layernorm")

    def _find_mlp(self):
        mlp = self.mlp
        self.gate = self.up = self.gate_up = self.act = self.down = None
        self.router = self.experts = self.shared = self.shared_router = None
        if mlp is None:
            return
        self.experts = child(mlp, ("experts",))
        if self.experts is not None:
            self.router = child(mlp, ("gate", "router"))
            self.shared = child(mlp, ("shared_expert", "shared_experts", "shared_mlp"))
            self.shared_router = child(mlp, ("shared_expert_gate",))
            return
        self.gate = child(mlp, ("gate_proj",))
        self.gate_up = child(mlp, ("gate_up_proj",))
        self.up = child(mlp, _UP)
        self.act = child(mlp, _ACT)
        self.down = child(mlp, _DOWN)

    @property
    def gated(self):
        return self.gate is not None or self.gate_up is not None

    def split_qkv(self, rows):
        """The parts of a fused projection: tensors [tokens, heads * head_dim] for q, k and v."""
        heads, kv_heads, d = self.heads, self.kv_heads, self.head_dim
        name = type(self.attention).__name__.lower()
        count = rows.shape[0]
        if "falcon" in name:
            grouped = rows.view(count, kv_heads, heads // kv_heads + 2, d)
        elif "neox" in name or "bloom" in name:
            grouped = rows.view(count, heads, 3, d)
        else:
            return rows.split([heads * d, kv_heads * d, kv_heads * d], dim=-1)
        return (grouped[:, :, :-2].reshape(count, -1), grouped[:, :, -2].reshape(count, -1),
                grouped[:, :, -1].reshape(count, -1))


class ModelMap:
    """The modules of a whole model."""

    def __init__(self, model):
        if hasattr(model, "_orig_mod"):
            raise CaptureError("this is a compiled model: its hooks do not see what ran. Capture the model that "
                               "was given to torch.compile")
        config = getattr(model, "config", None)
        if config is None or not hasattr(model, "named_modules"):
            raise CaptureError("expected a model of transformers (a torch module with a config)")
        self.config = config.get_text_config() if hasattr(config, "get_text_config") else config
        if not hasattr(self.config, "model_type"):
            raise CaptureError("the model's config has no model_type")
        if self.config.model_type == "falcon" and getattr(self.config, "alibi", False):
            self.rotates = False
        else:
            self.rotates = True
        self.root = model
        self.base, modules = self._find_layers(model)
        self.layers = [Layer(m, i, self.config) for i, m in enumerate(modules)]
        self.embedding = child(self.base, _EMBEDDING)
        self.final_norm = child(self.base, _FINAL_NORM)
        self.head = self._find_head(model)
        # Functions that rotate, and functions that attend, live in the module of the attention class.
        names = {type(layer.attention).__module__ for layer in self.layers}
        self.python_modules = [sys.modules[n] for n in sorted(names)]

    @staticmethod
    def _find_layers(model):
        for _, module in model.named_modules():
            for name in ("layers", "h", "blocks"):
                layers = getattr(module, name, None)
                if layers is None or not hasattr(layers, "__len__") or len(layers) == 0:
                    continue
                if child(layers[0], _ATTENTION) is not None:
                    return module, list(layers)
        raise CaptureError(f"{type(model).__name__}: no list of decoder layers found (layers, h, blocks with an "
                           "attention inside); this architecture is not supported")

    @staticmethod
    def _find_head(model):
        if hasattr(model, "get_output_embeddings"):
            try:
                return model.get_output_embeddings()
            except (AttributeError, NotImplementedError):
                return None
        return child(model, ("lm_head", "embed_out"))
