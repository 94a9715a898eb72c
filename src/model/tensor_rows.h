// SPDX-License-Identifier: Apache-2.0
// How the tables of architectures are written: a module is a weight and, mostly, a bias.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "model/tensor_table.h"

namespace plumb {

// `name` and the patterns of `hf` lack ".weight" and ".bias"; a pattern that begins with "=" is the
// weight's whole name. A name that ends in ".weight" or ".bias" stands for that tensor only.
struct Module {
  std::string name;
  std::vector<Size> shape;  // of the weight; the bias has all but the last dimension
  Need weight = Need::Required;
  Need bias = Need::Never;
  std::vector<Source> hf;
  Where where = Where::All;
  int group = 0;  // of the biases; for an optional weight of itself
};

std::vector<TensorRow> rows_of(const std::vector<Module>& modules);

// The parts that most architectures share.
struct Family {
  std::string layer = "model.layers.{}.";  // what the names of a layer's tensors begin with
  Form qk = Form::Whole;
  Form norm = Form::Whole;
  Need norm_bias = Need::Never;
  Need qkv_bias = Need::IfAttentionBias;
  Need out_bias = Need::IfAttentionBias;
  Need mlp_bias = Need::Never;
  Need output = Need::UnlessTied;
};

using Modules = std::vector<Module>;
Modules operator+(Modules left, const Modules& right);

Modules embedding(const Family& f, const std::string& tokens, const std::string& norm,
                  const std::string& output);
Module norm(const Family& f, const std::string& name, const std::string& source);
Modules attention(const Family& f, const std::string& output = "self_attn.o_proj");
Modules gated_mlp(const Family& f, Where where = Where::All);
Modules experts(const Family& f, const std::string& router);

Modules text_embedding(const Family& f);
// Factors of RoPE's angles that a GGUF holds as tensors and config.json as numbers.
Modules rope_factors();
Modules llama_block(const Family& f);
// Norms of each head of q and k with one weight for all heads.
Modules head_norms(const Family& f);
Modules optional_head_norms(const Family& f, const std::string& q, const std::string& k);
// … with weights of their own for each head.
Modules norms_by_head(const Family& f, const std::string& q, const std::string& k, Form form);
// Norms behind the sub-layers only.
Modules post_norm_block(const Family& f);
// The gate and the up matrix are one, gate first.
Modules fused_mlp(const Family& f);
Module linear(const std::string& name, std::vector<Size> shape, Need bias,
              std::vector<Source> sources);
Modules plain_mlp(const Family& f, const std::string& up, const std::string& down,
                  Form form = Form::Whole);
Modules fused_attention(const Family& f, const std::string& qkv, Form form,
                        const std::string& output, Form output_form = Form::Whole);
Family with_biases(const std::string& layer);
// Embedding, head and the norms before attention and experts.
Modules experts_start(const Family& f);
Modules shared_expert(const Family& f, const std::string& source);

}  // namespace plumb
