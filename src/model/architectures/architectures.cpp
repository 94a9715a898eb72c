// SPDX-License-Identifier: Apache-2.0
#include "model/architectures/architectures.h"

#include <array>

namespace plumb {
namespace {

const auto& all() {
  static const std::array<const Architecture*, 26> list = {
      &llama_architecture(),    &mistral3_architecture(),  &granite_architecture(),
      &smollm3_architecture(),  &qwen2_architecture(),     &qwen3_architecture(),
      &qwen2moe_architecture(), &qwen3moe_architecture(),  &gemma_architecture(),
      &gemma2_architecture(),   &gemma3_architecture(),    &olmo2_architecture(),
      &exaone_architecture(),   &exaone4_architecture(),   &phi3_architecture(),
      &glm4_architecture(),     &gpt2_architecture(),      &gptneox_architecture(),
      &bloom_architecture(),    &falcon_architecture(),    &starcoder2_architecture(),
      &phi2_architecture(),     &stablelm_architecture(),  &command_r_architecture(),
      &gpt_oss_architecture(),  &deepseek2_architecture(),
  };
  return list;
}

}  // namespace

std::span<const Architecture* const> architectures() { return all(); }

const Architecture* find_architecture(std::string_view name) {
  for (const auto* architecture : all())
    if (architecture->name == name) return architecture;
  return nullptr;
}

size_t add_pre_norm_layer(PlanBuilder& plan, size_t input) {
  const size_t attention = plan.attention(plan.norm("attn.norm", "attn_norm", input));
  const size_t stream = plan.residual("attn.residual", input, "attn.out", attention);
  const size_t out = plan.feed_forward(plan.norm("ffn.norm", "ffn_norm", stream));
  return plan.residual("residual", stream, "ffn.out", out);
}

size_t add_post_norm_layer(PlanBuilder& plan, size_t input) {
  const size_t attention =
      plan.norm("attn.post_norm", "post_attention_norm", plan.attention(input));
  const size_t stream = plan.residual("attn.residual", input, "attn.post_norm", attention);
  const size_t out = plan.norm("ffn.post_norm", "post_ffw_norm", plan.feed_forward(stream));
  return plan.residual("residual", stream, "ffn.post_norm", out);
}

size_t add_double_norm_layer(PlanBuilder& plan, size_t input) {
  const size_t attention = plan.attention(plan.norm("attn.norm", "attn_norm", input));
  const size_t normed = plan.norm("attn.post_norm", "post_attention_norm", attention);
  const size_t stream = plan.residual("attn.residual", input, "attn.post_norm", normed);
  const size_t out = plan.feed_forward(plan.norm("ffn.norm", "ffn_norm", stream));
  const size_t out_normed = plan.norm("ffn.post_norm", "post_ffw_norm", out);
  return plan.residual("residual", stream, "ffn.post_norm", out_normed);
}

size_t add_parallel_layer(PlanBuilder& plan, size_t input, size_t attention_input,
                          size_t ffn_input) {
  const size_t attention = plan.attention(attention_input);
  const size_t stream = plan.residual("attn.residual", input, "attn.out", attention);
  return plan.residual("residual", stream, "ffn.out", plan.feed_forward(ffn_input));
}

void configure_qwen_windows(ConfigReader& reader, Config& c,
                            bool (*rule)(size_t layer, size_t max_window_layers)) {
  reader.whole(nullptr, {"sliding_window"});
  const bool used = reader.flag(nullptr, {"use_sliding_window"}).value_or(false);
  if (!reader.is_gguf() && !used) c.window = 0;
  const auto sliding = reader.sliding_layers();
  const size_t bound = reader.whole(nullptr, {"max_window_layers"}).value_or(28);
  for (size_t layer = 0; layer < c.layers; ++layer)
    c.windowed[layer] = c.window != 0 && (sliding ? (*sliding)[layer] : rule(layer, bound));
}

const MetadataValue* find_value(const ModelFile& file, const std::string& key) {
  for (const char* prefix : {"text_config.", ""}) {
    const auto found = file.metadata.find(prefix + key);
    if (found == file.metadata.end()) continue;
    return std::holds_alternative<std::monostate>(found->second) ? nullptr : &found->second;
  }
  return nullptr;
}

}  // namespace plumb
