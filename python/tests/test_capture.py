# SPDX-License-Identifier: Apache-2.0
"""Tiny random models are made here; what the hooks wrote is compared with the models' own sums."""

import json
import os

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors")

from plumb_capture import CaptureError, capture  # noqa: E402
from plumb_capture.torch_capture import cache_name, cache_of  # noqa: E402

COMMON = dict(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
IDS = [1, 7, 9, 4, 22]


def config(kind, **more):
    table = {
        "llama": (transformers.LlamaConfig, {}),
        "qwen2": (transformers.Qwen2Config, {}),
        "qwen3": (transformers.Qwen3Config, {"head_dim": 12}),
        "gemma2": (transformers.Gemma2Config, {"head_dim": 8}),
        "gemma3": (transformers.Gemma3TextConfig, {"head_dim": 8}),
        "phi3": (transformers.Phi3Config, {}),
        "mixtral": (transformers.MixtralConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
        "olmo2": (transformers.Olmo2Config, {}),
        "granite": (transformers.GraniteConfig, {"residual_multiplier": 0.5, "logits_scaling": 2.0}),
        "stablelm": (transformers.StableLmConfig, {}),
        "gpt2": (transformers.GPT2Config, None),
        "gpt_neox": (transformers.GPTNeoXConfig, {"num_key_value_heads": None}),
        "falcon": (transformers.FalconConfig, None),
        "bloom": (transformers.BloomConfig, None),
    }
    cls, extra = table[kind]
    if extra is not None:
        settings = {k: v for k, v in {**COMMON, **extra, **more}.items() if v is not None}
    elif kind == "gpt2":
        settings = dict(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    elif kind == "falcon":
        settings = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, bos_token_id=1,
                        eos_token_id=2, **more)
    else:
        settings = dict(vocab_size=50, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    return cls(**settings)


def make(kind, dtype=torch.float32, **more):
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(config(kind, **more)).to(dtype).eval()


def feed(model, ids=IDS, decode=3):
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), use_cache=True)
        for _ in range(decode):
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, use_cache=True, **{cache_name(model): cache_of(out)})
    return out


def read(path):
    """Also a check that the file is safetensors: the package reads it."""
    with safetensors.safe_open(path, "pt") as f:
        return {k: f.get_tensor(k) for k in f.keys()}, json.loads(f.metadata()["plumb"]), f.metadata()["plumb.trace"]


KINDS = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "mixtral", "olmo2", "granite", "stablelm", "gpt2",
         "gpt_neox", "falcon", "bloom"]


@pytest.mark.parametrize("kind", KINDS)
def test_prefill_and_decode_are_joined_and_change_no_bit(kind, tmp_path):
    model = make(kind)
    path = tmp_path / "run.safetensors"
    with capture(model, path, check=True) as c:
        feed(model)
    assert c.check_result is True
    steps, about, version = read(path)
    assert version == "1"
    assert about["prompt"] == len(IDS) and len(about["tokens"]) == len(IDS) + 3
    for name in ("embedding", "layer.0.attn.q", "layer.0.attn.k", "layer.0.attn.v", "layer.1.attn.mix", "layer.1.attn.out",
                 "layer.0.ffn.out", "layer.0.residual", "layer.1.residual", "final.norm", "logits"):
        assert name in steps, name
        assert steps[name].shape[0] == len(about["tokens"]), name
    assert steps["layer.0.attn.mix"].shape == steps["layer.0.attn.q"].shape
    assert steps["layer.0.attn.k"].shape == steps["layer.0.attn.v"].shape
    assert os.listdir(tmp_path) == ["run.safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_attention_of_the_recorded_values_gives_the_recorded_mix(kind, tmp_path):
    """A wrong split of heads, or keys of another order, would not."""
    if kind == "bloom":
        pytest.skip("its scores have a term of the distance")
    model = make(kind)
    path = tmp_path / "run.safetensors"
    with capture(model, path):
        feed(model)
    steps, _, _ = read(path)
    cfg = model.config
    heads = cfg.num_attention_heads
    name = "layer.1.attn."
    q = steps[name + ("q_rope" if name + "q_rope" in steps else "q")]
    k = steps[name + ("k_rope" if name + "k_rope" in steps else "k")]
    v = steps[name + "v"]
    d = q.shape[1] // heads
    n = q.shape[0]
    q = q.view(n, heads, d).transpose(0, 1)
    k = k.view(n, -1, d).transpose(0, 1).repeat_interleave(heads * d // k.shape[1], 0)
    v = v.view(n, -1, d).transpose(0, 1).repeat_interleave(heads * d // v.shape[1], 0)
    scale = getattr(cfg, "query_pre_attn_scalar", None)
    scale = scale ** -0.5 if scale else getattr(cfg, "attention_multiplier", None) or d ** -0.5
    scores = q @ k.transpose(1, 2) * scale
    cap = getattr(cfg, "attn_logit_softcapping", None)
    if cap:
        scores = cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
    mix = (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, -1)
    assert torch.allclose(mix, steps[name + "mix"], atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "gpt2", "bloom"])
def test_residual_sums_add_up(kind, tmp_path):
    model = make(kind)
    path = tmp_path / "run.safetensors"
    with capture(model, path):
        feed(model)
    s, _, _ = read(path)
    added = s.get("layer.1.attn.post_norm", s["layer.1.attn.out"])
    assert torch.equal(s["layer.0.residual"] + added, s["layer.1.attn.residual"])
    added = s.get("layer.1.ffn.post_norm", s["layer.1.ffn.out"])
    assert torch.equal(s["layer.1.attn.residual"] + added, s["layer.1.residual"])


def test_names_and_values_of_a_llama(tmp_path):
    model = make("llama")
    path = tmp_path / "run.safetensors"
    with capture(model, path) as c:
        feed(model, decode=0)
    s, about, _ = read(path)
    layer = model.model.layers[0]
    with torch.no_grad():
        assert torch.equal(s["embedding"], model.model.embed_tokens(torch.tensor(IDS)))
        assert torch.equal(s["layer.0.ffn.act"], torch.nn.functional.silu(s["layer.0.ffn.gate"]))
        assert torch.equal(s["layer.0.ffn.glu"], s["layer.0.ffn.act"] * s["layer.0.ffn.up"])
        assert torch.equal(s["layer.0.attn.out"], layer.self_attn.o_proj(s["layer.0.attn.mix"]))
        assert torch.equal(s["logits"], model.lm_head(s["final.norm"]))
    # Position 0 is not turned; the others are.
    assert torch.equal(s["layer.0.attn.q_rope"][0], s["layer.0.attn.q"][0])
    assert not torch.equal(s["layer.0.attn.q_rope"][1], s["layer.0.attn.q"][1])
    assert c.not_captured == []
    assert about["engine"]["rope_rows"] == "hf"


def test_scaled_and_capped_logits_have_two_steps(tmp_path):
    for kind in ("gemma2", "granite"):
        model = make(kind)
        path = tmp_path / "run.safetensors"
        with capture(model, path):
            out = feed(model, decode=0)
        s, _, _ = read(path)
        assert torch.equal(s["logits"], out.logits[0])
        assert not torch.equal(s["logits"], s["logits_matmul"])


def test_experts_are_in_the_order_of_their_weights(tmp_path):
    model = make("mixtral")
    path = tmp_path / "run.safetensors"
    with capture(model, path) as c:
        feed(model)
    s, _, _ = read(path)
    logits, experts, weights = (s["layer.0.ffn." + n] for n in ("router", "experts", "expert_weights"))
    assert experts.dtype == torch.int32
    assert torch.equal(logits.topk(2).indices.to(torch.int32), experts)
    assert torch.allclose(weights, logits.softmax(-1).topk(2).values / logits.softmax(-1).topk(2).values.sum(-1, True))
    assert "layer.0.ffn.down" in c.not_captured


def test_bfloat16_is_kept(tmp_path):
    model = make("llama", torch.bfloat16)
    path = tmp_path / "run.safetensors"
    with capture(model, path, check=True) as c:
        feed(model)
    s, about, _ = read(path)
    assert c.check_result is True
    assert s["layer.0.attn.q"].dtype == torch.bfloat16
    assert about["kv_cache"] == "bf16"


def test_chosen_steps_only(tmp_path):
    model = make("llama")
    path = tmp_path / "run.safetensors"
    with capture(model, path, steps=["layer.0.attn.*", "logits"]):
        feed(model)
    s, _, _ = read(path)
    assert all(n.startswith("layer.0.attn.") or n == "logits" for n in s)
    assert len(s) == 10


def test_attention_weights_on_request(tmp_path):
    model = transformers.AutoModelForCausalLM.from_config(config("llama"), attn_implementation="eager").eval()
    fed = IDS + [3, 5]
    path = tmp_path / "run.safetensors"
    with torch.no_grad(), capture(model, path, tokens=fed, steps="layer.*.attn.weights"):
        out = model(input_ids=torch.tensor([IDS]), use_cache=True)
        for token in fed[len(IDS):]:
            out = model(input_ids=torch.tensor([[token]]), use_cache=True, **{cache_name(model): cache_of(out)})
    s, _, _ = read(path)
    assert s["layer.0.attn.weights"].shape == (7, 4, 7)
    assert torch.allclose(s["layer.0.attn.weights"].sum(-1), torch.ones(7, 4))


def test_logits_of_the_last_position_only(tmp_path):
    model = make("llama")
    path = tmp_path / "run.safetensors"
    with torch.no_grad(), capture(model, path):
        model(input_ids=torch.tensor([IDS]), logits_to_keep=1)
    s, _, _ = read(path)
    assert s["logits"].shape[0] == 1
    assert s["positions:logits"].tolist() == [len(IDS) - 1]


def refuses(tmp_path, text, call, **options):
    path = tmp_path / "run.safetensors"
    model = make("llama")
    with pytest.raises(CaptureError, match=text), torch.no_grad(), capture(model, path, **options):
        call(model)
    assert os.listdir(tmp_path) == []
    # The model is as before: no hook is left, no function is exchanged.
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    feed(model)


def test_refuses_a_batch(tmp_path):
    refuses(tmp_path, "one sequence", lambda m: m(input_ids=torch.tensor([IDS, IDS])))


def test_refuses_padding(tmp_path):
    refuses(tmp_path, "padding", lambda m: m(input_ids=torch.tensor([IDS]), attention_mask=torch.tensor([[0, 1, 1, 1, 1]])))


def test_refuses_a_second_run(tmp_path):
    def twice(m):
        m(input_ids=torch.tensor([IDS]))
        m(input_ids=torch.tensor([IDS]))

    refuses(tmp_path, "5 positions were recorded", twice)


def test_refuses_other_tokens_than_announced(tmp_path):
    refuses(tmp_path, "tokens= says", lambda m: m(input_ids=torch.tensor([IDS])), tokens=[1, 2, 3, 4, 5])


def test_refuses_fewer_tokens_than_announced(tmp_path):
    refuses(tmp_path, "were fed", lambda m: m(input_ids=torch.tensor([IDS])), tokens=IDS + [1])


def test_refuses_an_empty_run(tmp_path):
    refuses(tmp_path, "not called", lambda m: None)


def test_refuses_a_pattern_that_fits_nothing(tmp_path):
    refuses(tmp_path, "fits no step", lambda m: m(input_ids=torch.tensor([IDS])), steps=["logits", "layer.7.*"])


def test_an_error_inside_leaves_no_file(tmp_path):
    model = make("llama")
    with pytest.raises(ZeroDivisionError), capture(model, tmp_path / "run.safetensors"):
        feed(model)
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_refuses_what_is_no_language_model(tmp_path):
    with pytest.raises(CaptureError, match="expected a model"):
        capture(torch.nn.Linear(2, 2), tmp_path / "run.safetensors")


def test_the_check_finds_a_hook_that_changes_a_bit(tmp_path):
    """A check that cannot fail is none: here a foreign hook disturbs the observed run only."""
    model = make("llama")
    with capture(model, tmp_path / "run.safetensors", check=True) as c:
        handle = model.model.layers[0].register_forward_hook(lambda m, a, y: y * 1.0001)
        feed(model)
        handle.remove()
    assert c.check_result is False


def test_hooks_restore_what_they_exchanged(tmp_path):
    import sys

    model = make("llama")
    module = sys.modules[type(model.model.layers[0].self_attn).__module__]
    before = module.apply_rotary_pos_emb, module.eager_attention_forward
    with capture(model, tmp_path / "run.safetensors"):
        feed(model)
    assert (module.apply_rotary_pos_emb, module.eager_attention_forward) == before


def test_generate_inside(tmp_path):
    model = make("llama")
    path = tmp_path / "run.safetensors"
    with torch.no_grad(), capture(model, path, check=True) as c:
        model.generate(torch.tensor([IDS]), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    steps, about, _ = read(path)
    assert c.check_result is True
    assert steps["layer.1.residual"].shape[0] == len(about["tokens"]) == len(IDS) + 3
    assert steps["positions:logits"].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_are_those_of_the_values(dtype, tmp_path):
    from plumb_capture.row_statistics import summarize

    model = make("mixtral", dtype)
    with capture(model, tmp_path / "values.safetensors"):
        feed(model)
    with capture(model, tmp_path / "stats.safetensors", depth="stats", check=True) as c:
        feed(model)
    assert c.check_result is True
    values, _, _ = read(tmp_path / "values.safetensors")
    stats, about, _ = read(tmp_path / "stats.safetensors")
    assert len(about["tokens"]) == len(IDS) + 3
    assert "logits" not in stats
    for name, rows in values.items():
        if name.endswith("ffn.experts"):
            assert torch.equal(rows, stats[name])  # numbers of experts stay as they are
            continue
        figures, sketches = summarize(rows.to(torch.float64).numpy())
        assert stats[name + ".stats"].dtype == torch.float64 and stats[name + ".sketch"].dtype == torch.float32
        assert (stats[name + ".stats"].numpy() == figures).all(), name
        assert (stats[name + ".sketch"].numpy() == sketches).all(), name
        assert figures[0, 0] == rows.shape[1]


def test_statistics_of_some_positions_have_those_of_their_step(tmp_path):
    model = make("llama")
    with torch.no_grad(), capture(model, tmp_path / "run.safetensors", depth="stats", steps=["logits", "embedding"]):
        model.generate(torch.tensor([IDS]), max_new_tokens=3, do_sample=False, pad_token_id=0)
    stats, about, _ = read(tmp_path / "run.safetensors")
    assert sorted(stats) == ["embedding.sketch", "embedding.stats", "logits.sketch", "logits.stats", "positions:logits"]
    assert stats["positions:logits"].tolist() == [4, 5, 6]
    assert stats["logits.stats"].shape == (3, 8)


def test_statistics_of_attention_weights_are_refused(tmp_path):
    model = make("llama", attn_implementation="eager")
    with pytest.raises(CaptureError, match="fits no step"):
        with capture(model, tmp_path / "run.safetensors", depth="stats", tokens=IDS, steps=["layer.0.attn.weights"]):
            feed(model, decode=0)
    with pytest.raises(CaptureError, match="expected values or stats"):
        capture(model, tmp_path / "run.safetensors", depth="all")
