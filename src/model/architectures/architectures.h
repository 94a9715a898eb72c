// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "model/architecture.h"

namespace plumb {

const Architecture& llama_architecture();
const Architecture& mistral3_architecture();
const Architecture& granite_architecture();
const Architecture& smollm3_architecture();
const Architecture& qwen2_architecture();
const Architecture& qwen3_architecture();
const Architecture& qwen2moe_architecture();
const Architecture& qwen3moe_architecture();
const Architecture& gemma_architecture();
const Architecture& gemma2_architecture();
const Architecture& gemma3_architecture();
const Architecture& olmo2_architecture();
const Architecture& exaone_architecture();
const Architecture& exaone4_architecture();
const Architecture& phi3_architecture();
const Architecture& glm4_architecture();
const Architecture& gpt2_architecture();
const Architecture& gptneox_architecture();
const Architecture& bloom_architecture();
const Architecture& falcon_architecture();
const Architecture& starcoder2_architecture();
const Architecture& phi2_architecture();
const Architecture& stablelm_architecture();
const Architecture& command_r_architecture();
const Architecture& gpt_oss_architecture();
const Architecture& deepseek2_architecture();

// The layers that several architectures share.
// norm, attention, sum, norm, feed-forward, sum
size_t add_pre_norm_layer(PlanBuilder& plan, size_t input);
// attention, norm, sum, feed-forward, norm, sum
size_t add_post_norm_layer(PlanBuilder& plan, size_t input);
// norm, attention, norm, sum, norm, feed-forward, norm, sum
size_t add_double_norm_layer(PlanBuilder& plan, size_t input);
// input + attention(attention_input) + feed_forward(ffn_input)
size_t add_parallel_layer(PlanBuilder& plan, size_t input, size_t attention_input,
                          size_t ffn_input);

// Qwen's window: only if use_sliding_window says so, and for the layers of layer_types or those of
// the class's rule.
void configure_qwen_windows(ConfigReader& reader, Config& c,
                            bool (*rule)(size_t layer, size_t max_window_layers));

// A key of config.json, in the text part if the model has one; null if it is absent or null.
const MetadataValue* find_value(const ModelFile& file, const std::string& key);

}  // namespace plumb
