// SPDX-License-Identifier: Apache-2.0
// DeepSeek 2 and 3: their files can be looked at; running them waits for low-rank attention.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules low_rank_attention(const Family& f) {
  const auto a = f.layer + "self_attn.";
  const auto need = Need::Required;
  const auto none = Need::Never;
  return {
      {"blk.{}.attn_q",
       {Size::QueryRows, Size::Width},
       need,
       none,
       {{a + "q_proj"}},
       Where::FullQuery},
      {"blk.{}.attn_q_a",
       {Size::QueryRank, Size::Width},
       need,
       none,
       {{a + "q_a_proj"}},
       Where::LowRankQuery},
      {"blk.{}.attn_q_a_norm",
       {Size::QueryRank},
       need,
       none,
       {{a + "q_a_layernorm"}},
       Where::LowRankQuery},
      {"blk.{}.attn_q_b",
       {Size::QueryRows, Size::QueryRank},
       need,
       none,
       {{a + "q_b_proj"}},
       Where::LowRankQuery},
      {"blk.{}.attn_kv_a_mqa",
       {Size::KvRankRope, Size::Width},
       need,
       none,
       {{a + "kv_a_proj_with_mqa"}}},
      {"blk.{}.attn_kv_a_norm", {Size::KvRank}, need, none, {{a + "kv_a_layernorm"}}},
      {"blk.{}.attn_k_b",
       {Size::Heads, Size::KvRank, Size::PlainDim},
       need,
       none,
       {{a + "kv_b_proj", Form::AbsorbedKey}},
       Where::Absorbed},
      {"blk.{}.attn_v_b",
       {Size::Heads, Size::ValueDim, Size::KvRank},
       need,
       none,
       {{a + "kv_b_proj", Form::AbsorbedValue}},
       Where::Absorbed},
      {"blk.{}.attn_kv_b",
       {Size::KeyValueRows, Size::KvRank},
       need,
       none,
       {{a + "kv_b_proj"}},
       Where::Joined},
      {"blk.{}.attn_output", {Size::Width, Size::MixedWidth}, need, none, {{a + "o_proj"}}},
  };
}

Modules tensors() {
  const Family f;
  return experts_start(f) + low_rank_attention(f) + gated_mlp(f, Where::Dense) +
         experts(f, "mlp.gate") +
         Modules{{"blk.{}.exp_probs_b.bias",
                  {Size::Experts},
                  Need::Optional,
                  Need::Never,
                  {{"=" + f.layer + "mlp.gate.e_score_correction_bias"}},
                  Where::Experts}} +
         shared_expert(f, "mlp.shared_experts.");
}

}  // namespace

const Architecture& deepseek2_architecture() {
  static const Architecture architecture{"deepseek2", tensors, nullptr, nullptr};
  return architecture;
}

}  // namespace plumb
