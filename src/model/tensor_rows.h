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

// The architectures of the two files beside this one.
std::vector<std::pair<std::string, Modules>> llama_architectures();
std::vector<std::pair<std::string, Modules>> gpt_architectures();
std::vector<std::pair<std::string, Modules>> expert_architectures();

}  // namespace plumb
