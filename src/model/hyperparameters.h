// SPDX-License-Identifier: Apache-2.0
// The sizes of a model, read from a file's metadata in any format into one set of names.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/model_file.h"

namespace plumb {

struct Hyperparameters {
  std::string architecture;  // GGUF's spelling: "llama", "command-r"; empty: not known here
  std::string declared;      // as the file says it: "mixtral", "CohereForCausalLM"

  std::optional<size_t> width, layers, heads, kv_heads, head_dim, value_dim, ffn, vocabulary,
      context, experts, experts_used, expert_ffn, shared_ffn, rope_dimensions, window;
  std::optional<double> epsilon, rope_base;
  std::optional<double> rope_base_local;  // of the layers with a window (Gemma 3)
  // "none", "linear", "yarn", "longrope", "llama3"… A GGUF says "none" for llama3 and holds the
  // factors as a tensor, rope_freqs.weight.
  std::string rope_scaling = "none";
  bool tied = false;            // the output matrix is the embedding
  bool head_dim_given = false;  // else head_dim is width / heads

  // One value for each layer, where the file gives them so; the fields above then hold the largest.
  std::vector<size_t> layer_heads, layer_kv_heads, layer_ffn;
  size_t dense_layers = 0;        // so many first layers have no experts
  std::vector<bool> layer_dense;  // … and those that are true here (Qwen); may be empty
  size_t extra_layers = 0;        // layers for predicting several tokens, behind `layers`
  // Whether linear layers have biases, as config.json says it; nothing: the file does not say.
  std::optional<bool> attention_bias, mlp_bias;

  // Low-rank attention (DeepSeek 2): head_dim counts both parts of a key, with RoPE and without.
  std::optional<size_t> query_rank, kv_rank;
  bool absorbed = false;  // the key and value parts of kv_b are apart (newer GGUF files)

  // Keys that are missing, of a wrong type or impossible, in words with the key:
  // "llama.block_count must be a whole number, found a string ('1')".
  std::vector<std::string> problems;
};

// Defaults that a format or an architecture defines are filled in.
Hyperparameters read_hyperparameters(const ModelFile& file);

// GGUF's name of an architecture for a model_type or a class of transformers ("mixtral",
// "MixtralForCausalLM"); empty if it is not known here.
std::string_view architecture_of(std::string_view name);

}  // namespace plumb
