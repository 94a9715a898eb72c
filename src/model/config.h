// SPDX-License-Identifier: Apache-2.0
// What a model computes beside its weights: every number and switch that its plan needs, whatever
// the format of the file.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace plumb {

// (2i, 2i+1), (i, i + n/2), or (a fault) neighbours in the order that the rows had before a
// converter made neighbours of halves.
enum class RopePairing { Neighbours, Halves, NeighboursOfHalves };
enum class Activation { Silu, GeluTanh, GeluErf };

struct RopeScaling {
  std::string type = "none";  // linear, yarn, longrope, dynamic; llama3 is the tensor rope_freqs
  double factor = 1;
  double magnitude = 1;                  // cos and sin are multiplied by it
  double beta_fast = 32, beta_slow = 1;  // YaRN
  bool truncate = true;                  // YaRN: the ends of the ramp are whole numbers
  size_t original_context = 0;           // of the training before the scaling
  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

struct Config {
  std::string architecture, name;
  size_t vocabulary = 0, context = 0, width = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0,
         ffn = 0;
  double epsilon = 0;
  bool layer_norm = false;  // LayerNorm in place of RMSNorm
  Activation activation = Activation::Silu;

  double rope_base = 10000;
  double rope_base_local = 0;  // of the layers with a window; 0: the same
  size_t rope_dimensions = 0;  // of each head; 0: no rotation at all
  RopePairing rope_pairing = RopePairing::Neighbours;
  RopeScaling rope_scaling;
  bool scale_local_rope = true;  // whether layers with a window have the scaling too
  std::vector<bool> rotated;     // of each layer

  size_t window = 0;            // a query sees this many keys, itself included; 0: all
  std::vector<bool> windowed;   // of each layer
  double attention_scale = 0;   // of the scores
  bool scale_by_layer = false;  // divided by the number of the layer, from 1
  double attention_softcap = 0, final_softcap = 0;  // x becomes cap · tanh(x / cap); 0: none
  double alibi_max_bias = 0;                        // 0: no ALiBi
  // Queries are multiplied by 1 + beta · ln(1 + floor(position / length)); beta 0: not.
  double temperature_beta = 0;
  size_t temperature_length = 0;

  double embedding_scale = 1, residual_scale = 1, logit_scale = 1;
  bool residual_after_norm = false;  // BLOOM can have it
  bool parallel = false;             // attention and feed-forward read the same input

  size_t experts = 0, experts_used = 0, expert_ffn = 0, shared_ffn = 0;
  bool normalize_experts = true;   // the chosen experts' weights are made to sum to 1
  std::vector<bool> expert_layer;  // of each layer
  bool tied_head = false;

  size_t window_of(size_t layer) const { return windowed[layer] ? window : 0; }
};

}  // namespace plumb
