// SPDX-License-Identifier: Apache-2.0
// Gemma 1 to 3 (text): the embedding times sqrt(width), norms that store their weight less 1, GELU;
// from 2 on norms behind each part too, soft caps and layers with a window; from 3 on norms of q
// and k.
#include <algorithm>
#include <cmath>

#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors_of(bool post_norms, bool qk_norms) {
  Family f;
  f.norm = Form::MinusOne;
  auto modules = text_embedding(f) + Modules{norm(f, "attn_norm", "input_layernorm")} +
                 attention(f) + gated_mlp(f);
  if (post_norms)
    modules = modules + Modules{norm(f, "post_attention_norm", "post_attention_layernorm"),
                                norm(f, "ffn_norm", "pre_feedforward_layernorm"),
                                norm(f, "post_ffw_norm", "post_feedforward_layernorm")};
  else modules = modules + Modules{norm(f, "ffn_norm", "post_attention_layernorm")};
  return qk_norms ? modules + head_norms(f) : modules;
}

Modules tensors_1() { return tensors_of(false, false); }
Modules tensors_2() { return tensors_of(true, false); }
Modules tensors_3() { return tensors_of(true, true); }

void configure_common(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Halves;
  c.embedding_scale = std::sqrt(static_cast<double>(c.width));
  reader.refuse_flag(nullptr, {"use_bidirectional_attention"});
}

void configure_1(ConfigReader& reader, Config& c) {
  configure_common(reader, c);
  // Google's own files say "gelu" and mean the tanh form.
  c.activation = reader.activation({"hidden_activation", "hidden_act"}, Activation::GeluTanh);
  if (c.activation == Activation::GeluErf) c.activation = Activation::GeluTanh;
}

// A GGUF does not hold the scale; llama.cpp knows it by the number of layers of the largest model.
void configure_scale(ConfigReader& reader, Config& c, size_t layers_of_27b) {
  if (const auto scalar = reader.number(nullptr, {"query_pre_attn_scalar"}))
    c.attention_scale = 1 / std::sqrt(*scalar);
  else if (reader.is_gguf() && c.layers == layers_of_27b)
    c.attention_scale = 1 / std::sqrt(static_cast<double>(c.width / c.heads));
  else if (!reader.is_gguf()) c.attention_scale = 1 / std::sqrt(256.0);
}

// Every layer but each pattern-th one has the window.
void configure_windows(ConfigReader& reader, Config& c, size_t pattern) {
  const auto sliding = reader.sliding_layers();
  for (size_t layer = 0; layer < c.layers; ++layer)
    c.windowed[layer] = c.window != 0 && (sliding ? (*sliding)[layer] : (layer + 1) % pattern != 0);
}

void configure_2(ConfigReader& reader, Config& c) {
  configure_common(reader, c);
  c.activation = reader.activation({"hidden_activation"}, Activation::GeluTanh);
  constexpr size_t kLayersOf27b = 46;
  configure_scale(reader, c, kLayersOf27b);
  if (!reader.whole("attention.sliding_window", {"sliding_window"})) c.window = 4096;
  configure_windows(reader, c, 2);
  c.attention_softcap =
      reader.number("attn_logit_softcapping", {"attn_logit_softcapping"}).value_or(50);
  c.final_softcap =
      reader.number("final_logit_softcapping", {"final_logit_softcapping"}).value_or(30);
}

void configure_3(ConfigReader& reader, Config& c) {
  configure_common(reader, c);
  c.activation = reader.activation({"hidden_activation"}, Activation::GeluTanh);
  constexpr size_t kLayersOf27b = 62;
  configure_scale(reader, c, kLayersOf27b);
  const auto window = reader.whole("attention.sliding_window", {"sliding_window"});
  if (!window && !reader.is_gguf()) c.window = 4096;
  const auto pattern = reader.sliding_layers()
                           ? std::nullopt
                           : reader.whole("attention.sliding_window_pattern",
                                          {"sliding_window_pattern", "_sliding_window_pattern"});
  configure_windows(reader, c, std::max<size_t>(pattern.value_or(6), 1));
  c.scale_local_rope = false;
  reader.number("rope.freq_base_swa", {});
  reader.number(nullptr, {"attn_logit_softcapping"});  // transformers' class does not use it
  c.final_softcap =
      reader.number("final_logit_softcapping", {"final_logit_softcapping"}).value_or(0);
}

}  // namespace

const Architecture& gemma_architecture() {
  static const Architecture architecture{"gemma", tensors_1, configure_1, add_pre_norm_layer};
  return architecture;
}

const Architecture& gemma2_architecture() {
  static const Architecture architecture{"gemma2", tensors_2, configure_2, add_double_norm_layer};
  return architecture;
}

const Architecture& gemma3_architecture() {
  static const Architecture architecture{"gemma3", tensors_3, configure_3, add_double_norm_layer};
  return architecture;
}

}  // namespace plumb
