# SPDX-License-Identifier: Apache-2.0
"""Records the steps of a transformers causal LM while it runs, as a plumb trace."""

import copy
import fnmatch
import inspect
import os
import platform
import re

import torch

from .modules import ModelMap
from .trace_file import CaptureError, TraceFile, now

_DTYPES = {
    torch.float64: ("F64", torch.int64),
    torch.float32: ("F32", torch.int32),
    torch.float16: ("F16", torch.int16),
    torch.bfloat16: ("BF16", torch.int16),
    torch.int32: ("I32", torch.int32),
}
_CACHE_WORDS = {torch.float64: "f64", torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_ON_REQUEST = re.compile(r"layer\.\d+\.attn\.weights")


def capture(model, path, tokens=None, steps=None, check=False, model_name=None, depth="values"):
    """A context manager: what the model computes inside it is written to `path` when it ends.

    tokens      the ids that will be fed, if you want them compared with what is fed
    steps       patterns such as ["layer.0.*", "logits"]; None: all but attn.weights
    check       afterwards run the same without hooks, and compare the bits of the logits
    depth       "values", or "stats": eight figures and a sketch of each row in place of its values, which say where
                to look and judge nothing. attn.weights have none
    """
    return Capture(model, path, tokens, steps, check, model_name, depth)


def _first(value):
    return value[0] if isinstance(value, (tuple, list)) else value


class Capture:
    def __init__(self, model, path, tokens=None, steps=None, check=False, model_name=None, depth="values"):
        if depth not in ("values", "stats"):
            raise CaptureError(f"depth is '{depth}', expected values or stats")
        self.depth = depth
        self.map = ModelMap(model)
        self.path = os.fspath(path)
        self.expected = None if tokens is None else _id_list(tokens)
        self.patterns = None if steps is None else [steps] if isinstance(steps, str) else list(steps)
        self.check = check
        self.model_name = model_name or getattr(model.config, "_name_or_path", "") or type(model).__name__
        self.tokens = []
        self.passes = []  # tokens of each call of the model
        self.not_captured = []
        self.check_result = None  # True: the same bits; False: not; None: not checked
        self._handles = []
        self._restore = []
        self._used = set()
        self._pending = {}
        self._layer = None
        self._count = 0
        self._open = False
        self._file = None
        self._logits = []
        self._calls = []
        self._first_cache = None
        self._layer_input = {}

    # --- the context -------------------------------------------------------------------------

    def __enter__(self):
        self._file = TraceFile(self.path)
        try:
            self._hook_root()
            for layer in self.map.layers:
                self._hook_layer(layer)
            self._patch_functions()
        except BaseException:
            self._unhook()
            self._file.discard()
            raise
        return self

    def __exit__(self, kind, value, trace):
        self._unhook()
        if kind is not None:
            self._file.discard()
            return False
        try:
            self._finish()
        except BaseException:
            self._file.discard()
            raise
        return False

    def _unhook(self):
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for undo in reversed(self._restore):
            undo()
        self._restore = []

    def _finish(self):
        if not self.tokens:
            raise CaptureError("the model was not called inside the capture; nothing was written")
        if self.expected is not None and len(self.tokens) != len(self.expected):
            raise CaptureError(f"tokens= has {len(self.expected)} ids and {len(self.tokens)} were fed")
        for pattern in self.patterns or []:
            if pattern not in self._used:
                raise CaptureError(f"steps: '{pattern}' fits no step of this run; it has "
                                   f"{', '.join(sorted(self._names())[:6])}, …")
        self.not_captured = self._missing()
        if self.check:
            self.check_result = self._same_without_hooks()
        self._file.finish(self._about(), len(self.tokens))

    def _names(self):
        return getattr(self, "_seen_names", set())

    # --- hooks -------------------------------------------------------------------------------

    def _on_output(self, module, take):
        if module is not None:
            self._handles.append(module.register_forward_hook(lambda m, args, output: take(output)))

    def _on_input(self, module, take):
        if module is None:
            return

        def hook(m, args, kwargs):
            value = args[0] if args else kwargs.get("hidden_states", kwargs.get("x", kwargs.get("input")))
            if value is not None:
                take(value)

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _hook_root(self):
        root = self.map.root
        self._handles.append(root.register_forward_pre_hook(self._begin_pass, with_kwargs=True))
        self._handles.append(root.register_forward_hook(lambda m, args, output: self._end_pass(output)))
        self._on_output(self.map.embedding, lambda y: self._hold("embedding_lookup", y))
        self._on_output(self.map.final_norm, lambda y: self._put("final.norm", y))
        self._on_output(self.map.head, lambda y: self._hold("logits_matmul", y))

    def _hook_layer(self, layer):
        name = f"layer.{layer.index}."

        def output(module, step):
            self._on_output(module, lambda y: self._put(name + step, _first(y)))

        def begin(x):
            self._layer = layer
            self._layer_input[layer.index] = x
            if layer.index == 0:
                self._put("embedding", x)
                held = self._pending.pop("embedding_lookup", None)
                scaled = hasattr(self.map.embedding, "embed_scale") or hasattr(self.map.embedding, "scalar_embed_scale")
                if held is not None and not scaled and not _same(held, x):
                    self._put("embedding_lookup", held)

        self._on_input(layer.module, begin)
        output(layer.attn_norm, "attn.norm")
        self._hook_projections(layer, name)
        self._on_input(layer.out, lambda x: self._put(name + "attn.mix", x))
        output(layer.out, "attn.out")
        output(layer.attn_post_norm, "attn.post_norm")
        sum_reader = layer.ffn_norm if layer.ffn_norm is not None else layer.mlp
        if layer.ffn_norm is not None or layer.attn_post_norm is not None:
            self._on_input(sum_reader, lambda x: self._put_residual(layer, x))
        output(layer.ffn_norm, "ffn.norm")
        self._hook_mlp(layer, name)
        output(layer.ffn_post_norm, "ffn.post_norm")
        output(layer.module, "residual")

    def _put_residual(self, layer, x):
        # Where attention and feed-forward stand side by side, the norm reads the layer's input.
        entered = self._layer_input.get(layer.index)
        if entered is not None and (entered is x or _same(entered, x)):
            return
        self._put(f"layer.{layer.index}.attn.residual", x)

    def _hook_projections(self, layer, name):
        for part in ("q", "k", "v"):
            self._on_output(getattr(layer, part), lambda y, part=part: self._projected(name, part, y))

        def fused(y):
            for part, rows in zip(("q", "k", "v"), layer.split_qkv(self._rows(y))):
                self._put(f"{name}attn.{part}", rows)

        self._on_output(layer.qkv, fused)
        for part, module in (("q", layer.q_norm), ("k", layer.k_norm)):
            if module is None:
                continue

            def normed(m, args, y, part=part):
                self._put(f"{name}attn.{part}_norm", self._token_major(args[0], y, self._pending.get(part)))

            self._handles.append(module.register_forward_hook(normed))

    def _projected(self, name, part, y):
        self._pending[part] = y
        self._put(f"{name}attn.{part}", y)

    def _hook_mlp(self, layer, name):
        def output(module, step):
            self._on_output(module, lambda y: self._put(name + step, _first(y)))

        if layer.experts is not None:
            self._hook_experts(layer, name)
            return
        output(layer.gate, "ffn.gate")
        output(layer.up, "ffn.up")

        def halves(y):
            gate, up = self._rows(y).chunk(2, dim=-1)
            self._put(name + "ffn.gate", gate)
            self._put(name + "ffn.up", up)

        self._on_output(layer.gate_up, halves)
        output(layer.act, "ffn.act")
        if layer.gated:
            self._on_input(layer.down, lambda x: self._put(name + "ffn.glu", x))
        elif layer.act is None:
            self._on_input(layer.down, lambda x: self._put(name + "ffn.act", x))
        output(layer.down, "ffn.out")

    def _hook_experts(self, layer, name):
        def routed(y):
            if not isinstance(y, tuple):
                self._put(name + "ffn.router", y)
                return
            for value in y:
                if not torch.is_tensor(value) or value.shape[0] != self._count:
                    continue
                if not value.is_floating_point():
                    self._put(name + "ffn.experts", value.to(torch.int32))
                elif value.shape[-1] == self.map.config.num_experts_per_tok and name + "ffn.router" in self._now:
                    self._put(name + "ffn.expert_weights", value)
                else:
                    self._put(name + "ffn.router", value)

        self._on_output(layer.router, routed)
        shared = layer.shared
        if shared is not None:
            for step, part in (("gate", "gate_proj"), ("up", "up_proj"), ("act", "act_fn"), ("out", "down_proj")):
                module = getattr(shared, part, None)
                if module is not None:
                    self._on_output(module, lambda y, s=step: self._put(f"{name}ffn.shared_{s}", y))
            self._on_input(getattr(shared, "down_proj", None), lambda x: self._put(name + "ffn.shared_glu", x))
            self._on_output(layer.shared_router, lambda y: self._put(name + "ffn.shared_router", y))
            self._on_output(layer.experts, lambda y: self._put(name + "ffn.routed", _first(y)))
        self._on_output(layer.mlp, lambda y: self._put(name + "ffn.out", _first(y)))

    # --- functions that are no modules ---------------------------------------------------------

    def _patch_functions(self):
        for module in self.map.python_modules:
            self._patch(module, "apply_rotary_pos_emb", self._watch_rotation)
            self._patch(module, "eager_attention_forward", self._watch_attention)
        try:
            from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions
        except ImportError:
            return
        for name in list(functions.keys()):
            original = functions[name]
            functions[name] = self._watch_attention(original)
            self._restore.append(lambda n=name, f=original: functions.__setitem__(n, f))

    def _patch(self, module, name, watch):
        original = getattr(module, name, None)
        if callable(original):
            setattr(module, name, watch(original))
            self._restore.append(lambda: setattr(module, name, original))

    def _watch_rotation(self, function):
        def watched(*args, **kwargs):
            result = function(*args, **kwargs)
            layer = self._layer
            if layer is not None and isinstance(result, tuple) and len(result) == 2:
                # A part of each head only: then the attention function sees the whole.
                if result[0].dim() == 4 and result[0].shape[-1] == layer.head_dim:
                    axis = kwargs.get("unsqueeze_dim", args[4] if len(args) > 4 else 1)
                    self._put_rotated(layer, result[0], result[1], heads_first=axis == 1)
            return result

        return watched

    def _watch_attention(self, function):
        def watched(module, query, key, value, *args, **kwargs):
            layer = self._layer
            known = layer is not None and module is layer.attention
            if known and self._rotates(layer):
                # Behind the cache: the keys of this pass are the last ones.
                self._put_rotated(layer, query, key[:, :, -self._count:], heads_first=True)
            result = function(module, query, key, value, *args, **kwargs)
            if known and isinstance(result, tuple) and len(result) > 1 and result[1] is not None:
                self._put_weights(layer, result[1])
            return result

        return watched

    def _rotates(self, layer):
        if not any(hasattr(m, "apply_rotary_pos_emb") for m in self.map.python_modules):
            return False
        return getattr(layer.attention, "use_rope", True) is not False and self._sees_rotation(layer)

    def _sees_rotation(self, layer):
        flags = getattr(self.map.config, "no_rope_layers", None)
        if flags is not None and layer.index < len(flags):
            return bool(flags[layer.index])
        # EXAONE 4: with a window, the layers without one have no positions.
        if self.map.config.model_type == "exaone4":
            attention = layer.attention
            return getattr(attention, "sliding_window", None) is None or bool(getattr(attention, "is_sliding", True))
        return True

    def _put_rotated(self, layer, query, key, heads_first):
        name = f"layer.{layer.index}.attn."
        if name + "q_rope" in self._now or name + "k_rope" in self._now:
            return
        if key.shape[1 if heads_first else 2] == layer.heads != layer.kv_heads:
            # Falcon repeats its keys before it rotates them.
            repeat = layer.heads // layer.kv_heads
            key = key[:, ::repeat] if heads_first else key[:, :, ::repeat]
        for step, value in (("q_rope", query), ("k_rope", key)):
            self._put(name + step, value.transpose(1, 2) if heads_first else value)

    def _put_weights(self, layer, weights):
        step = f"layer.{layer.index}.attn.weights"
        if weights.dim() != 4 or not self._wants(step):
            return
        if self.expected is None:
            raise CaptureError("attn.weights have one value for each token of the run: give capture(tokens=…)")
        total = len(self.expected)
        rows = torch.zeros(self._count, weights.shape[1], total, dtype=weights.dtype)
        keys = weights.shape[3]
        if keys != self._first + self._count:
            raise CaptureError(f"{step}: {keys} keys at position {self._first + self._count - 1}; a cache that "
                               "drops keys cannot be recorded")
        rows[:, :, :keys] = weights[0].transpose(0, 1).detach().cpu()
        self._store(step, rows, self._positions)

    # --- one call of the model -----------------------------------------------------------------

    def _begin_pass(self, module, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not torch.is_tensor(ids) or ids.is_floating_point():
            raise CaptureError("the model must be called with token ids (input_ids)")
        if ids.dim() != 2 or ids.shape[0] != 1:
            raise CaptureError(f"input_ids has the shape {list(ids.shape)}; a trace is one sequence: [1, tokens]")
        mask = kwargs.get("attention_mask")
        if torch.is_tensor(mask) and mask.dim() == 2 and not bool((mask != 0).all()):
            raise CaptureError("attention_mask hides tokens (padding); a trace has no padding")
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        first = int(cache.get_seq_length()) if cache is not None and hasattr(cache, "get_seq_length") else 0
        if first != len(self.tokens):
            raise CaptureError(
                f"this call begins at position {first} and {len(self.tokens)} positions were recorded. Record one "
                "run only: a prefill, and each further call with the cache of the call before")
        new = [int(t) for t in ids[0].tolist()]
        if self.expected is not None and new != self.expected[first:first + len(new)]:
            raise CaptureError(f"from position {first} the ids {new[:5]}… were fed, and tokens= says "
                               f"{self.expected[first:first + 5]}…")
        if len(self.passes) > 0 and len(new) != 1:
            raise CaptureError(f"{len(new)} tokens at position {first}: after the prefill, feed one token a call")
        self._first = first
        self._count = len(new)
        self._positions = list(range(first, first + len(new)))
        self._now = set()
        self._pending = {}
        self._layer_input = {}
        self.tokens.extend(new)
        self.passes.append(new)
        if self.check:
            self._remember_call(args, kwargs, cache)

    def _remember_call(self, args, kwargs, cache):
        """To be made again without hooks. The cache of the first call is copied while it is empty."""
        if not self._calls and cache is not None:
            self._first_cache = copy.deepcopy(cache)
        kept = {k: v.clone() if torch.is_tensor(v) else v for k, v in kwargs.items()}
        self._calls.append(([a.clone() if torch.is_tensor(a) else a for a in args], kept))

    def _end_pass(self, output):
        self._layer = None
        logits = getattr(output, "logits", None)
        if logits is None and isinstance(output, tuple) and torch.is_tensor(output[0]) and self.map.head is not None:
            logits = output[0]
        held = self._pending.pop("logits_matmul", None)
        if logits is not None:
            if self.check and not hasattr(output, "logits"):
                raise CaptureError("check needs a model that gives logits by name (return_dict)")
            self._put_last("logits", logits)
            if held is not None and not _same(held, logits):
                self._put_last("logits_matmul", held)
            if self.check:
                self._logits.append(logits.detach().cpu().clone())
        self._pending = {}
        self._layer_input = {}

    def _put_last(self, step, value):
        """Logits may have been asked for the last positions only."""
        rows = value.reshape(-1, value.shape[-1])
        self._note(step)
        if self._wants(step):
            self._store(step, rows, self._positions[len(self._positions) - rows.shape[0]:])

    # --- values --------------------------------------------------------------------------------

    def _hold(self, step, value):
        # Cloned, because what follows may work in place.
        self._pending[step] = value.detach().clone()

    def _note(self, step):
        if not hasattr(self, "_seen_names"):
            self._seen_names = set()
        self._seen_names.add(step)
        self._now.add(step)

    def _wants(self, step):
        if self.depth == "stats" and _ON_REQUEST.fullmatch(step):
            return False  # its rows hold keys that the query does not see
        if self.patterns is None:
            return not _ON_REQUEST.fullmatch(step)
        fits = [p for p in self.patterns if _fits(p, step)]
        self._used.update(fits)
        return bool(fits)

    def _rows(self, value):
        """[1, tokens, …] or [tokens, …] as [tokens, width]."""
        if value.numel() % self._count != 0:
            raise CaptureError(f"a tensor {list(value.shape)} has no rows for {self._count} tokens")
        return value.reshape(self._count, -1)

    def _token_major(self, before, after, projection):
        """The norm of heads may run on [1, heads, tokens, d] or on [1, tokens, heads, d]."""
        if after.dim() != 4:
            return after
        if projection is not None and torch.equal(before.reshape(self._count, -1), self._rows(projection)):
            return after
        return after.transpose(1, 2)

    def _put(self, step, value):
        self._note(step)
        if self._wants(step):
            self._store(step, self._rows(value), self._positions)

    def _store(self, step, rows, positions):
        if rows.dtype not in _DTYPES:
            raise CaptureError(f"{step} has the type {rows.dtype}")
        name, plain = _DTYPES[rows.dtype]
        if self.depth == "stats" and rows.dtype.is_floating_point:
            self._file.append_statistics(step, rows.detach().to("cpu", torch.float64).numpy(), positions)
            return
        data = rows.detach().to("cpu").contiguous().view(plain).numpy()
        self._file.append(step, name, rows.shape[1:], data.tobytes(), positions)

    # --- the end -------------------------------------------------------------------------------

    def _missing(self):
        """Steps that the model has and that no module shows. Their neighbours are judged together."""
        missing = []
        names = self._names()
        config = self.map.config
        for layer in self.map.layers:
            name = f"layer.{layer.index}."
            steps = ["attn.q", "attn.k", "attn.v", "attn.mix", "attn.out", "attn.residual", "ffn.out", "residual"]
            for part, module in (("q", layer.q), ("k", layer.k), ("v", layer.v)):
                module = module if module is not None else layer.qkv
                if getattr(module, "bias", None) is not None:
                    steps.append(f"attn.{part}_matmul")
            if self._rotates(layer) and self.map.rotates:
                steps += ["attn.q_rope", "attn.k_rope"]
            if getattr(config, "residual_multiplier", 1.0) != 1.0:
                steps += ["attn.out_scaled", "ffn.out_scaled"]
            if layer.experts is not None:
                steps += ["ffn.router", "ffn.experts", "ffn.expert_weights", "ffn.gate", "ffn.up", "ffn.act", "ffn.glu",
                          "ffn.down"]
            else:
                steps += ["ffn.up", "ffn.act"] + (["ffn.gate", "ffn.glu"] if layer.gated else [])
            missing += [name + s for s in steps if name + s not in names]
        for step in ("embedding", "final.norm", "logits"):
            if step not in names:
                missing.append(step)
        if hasattr(self.map.embedding, "embed_scale") or hasattr(self.map.embedding, "scalar_embed_scale"):
            missing.append("embedding_lookup")
        return missing

    def _about(self):
        config = self.map.config
        parameter = next(self.map.root.parameters())
        device = parameter.device
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        engine = {
            "name": "transformers", "version": _version("transformers"), "torch": str(torch.__version__),
            "backend": f"{device.type} ({where})", "dtype": str(parameter.dtype).replace("torch.", ""),
            "attention": str(getattr(config, "_attn_implementation", "unknown")),
            "threads": str(torch.get_num_threads()), "path": "batched prefill, serial decode",
            # q and k keep the row order of the checkpoint: the two halves of a head are turned as pairs.
            "rope_rows": "hf",
            "observer": {None: "not checked", True: "changes no bit of the logits",
                         False: "changes the logits"}[self.check_result],
            "capture": "plumb_capture " + _version("plumb-capture"),
        }
        about = {"tokens": self.tokens, "prompt": len(self.passes[0]), "engine": engine,
                 "model": {"name": str(self.model_name), "architecture": config.model_type}, "created": now()}
        word = _CACHE_WORDS.get(parameter.dtype)
        if word is not None:
            about["kv_cache"] = word
        return about

    def _same_without_hooks(self):
        if not self._logits:
            raise CaptureError("check: the model gave no logits")
        model = self.map.root
        cache = self._first_cache
        same = True
        with torch.no_grad():
            for (args, kwargs), seen in zip(self._calls, self._logits):
                for name in ("cache", "past_key_values"):
                    if kwargs.get(name) is not None:
                        kwargs[name] = cache
                output = model(*args, **kwargs)
                later = cache_of(output)
                cache = later if later is not None else cache
                same = same and _same(output.logits.detach().cpu(), seen)
        return same


def cache_name(model):
    """transformers renamed the argument."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def cache_of(output):
    cache = getattr(output, "cache", None)
    return cache if cache is not None else getattr(output, "past_key_values", None)


def _version(package):
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _same(a, b):
    """The same bits: also where values are NaN, and not where 0 stands for -0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    plain = _DTYPES[a.dtype][1]
    return torch.equal(a.detach().contiguous().view(plain), b.detach().contiguous().view(plain))


def _fits(pattern, step):
    return fnmatch.fnmatchcase(step, re.sub(r"([\[\]?])", r"[\1]", pattern))


def _id_list(tokens):
    if torch.is_tensor(tokens):
        tokens = tokens.reshape(-1).tolist()
    return [int(t) for t in tokens]
