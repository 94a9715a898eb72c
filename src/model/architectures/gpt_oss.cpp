// SPDX-License-Identifier: Apache-2.0
// gpt-oss: its files can be looked at; running it waits for attention sinks and its own activation.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

// The experts of gpt-oss are [experts, in, out] with gate and up in turn, or MXFP4 in two tensors.
Modules gpt_oss_experts(const Family& f) {
  const std::string e = "=" + f.layer + "mlp.experts.";
  const std::vector<Size> wide = {Size::Experts, Size::ExpertFfn, Size::Width};
  const std::vector<Size> narrow = {Size::Experts, Size::Width, Size::ExpertFfn};
  const auto bias = Need::Required;
  const auto module = [&](const char* name, const std::vector<Size>& shape,
                          std::vector<Source> sources) {
    return Module{name, shape, Need::Required, Need::Never, std::move(sources), Where::Experts};
  };
  return {
      {"blk.{}.ffn_gate_inp",
       {Size::Experts, Size::Width},
       Need::Required,
       bias,
       {{f.layer + "mlp.router"}},
       Where::Experts},
      module("blk.{}.ffn_gate_exps.weight", wide,
             {{e + "gate_up_proj", Form::EvenTransposed}, {e + "gate_up_proj_*", Form::Fp4Even}}),
      module("blk.{}.ffn_up_exps.weight", wide,
             {{e + "gate_up_proj", Form::OddTransposed}, {e + "gate_up_proj_*", Form::Fp4Odd}}),
      module("blk.{}.ffn_down_exps.weight", narrow,
             {{e + "down_proj", Form::EachTransposed}, {e + "down_proj_*", Form::Fp4}}),
      module("blk.{}.ffn_gate_exps.bias", {Size::Experts, Size::ExpertFfn},
             {{e + "gate_up_proj_bias", Form::Even}}),
      module("blk.{}.ffn_up_exps.bias", {Size::Experts, Size::ExpertFfn},
             {{e + "gate_up_proj_bias", Form::Odd}}),
      module("blk.{}.ffn_down_exps.bias", {Size::Experts, Size::Width}, {{e + "down_proj_bias"}}),
  };
}

Modules tensors() {
  Family f;
  f.output = Need::InGguf;
  return embedding(f, "model.embed_tokens", "model.norm", "lm_head") +
         Modules{norm(f, "attn_norm", "input_layernorm"),
                 norm(f, "post_attention_norm", "post_attention_layernorm"),
                 {"blk.{}.attn_sinks.weight",
                  {Size::Heads},
                  Need::Required,
                  Need::Never,
                  {{"=" + f.layer + "self_attn.sinks"}}}} +
         attention(f) + gpt_oss_experts(f);
}

}  // namespace

const Architecture& gpt_oss_architecture() {
  static const Architecture architecture{"gpt-oss", tensors, nullptr, nullptr};
  return architecture;
}

}  // namespace plumb
