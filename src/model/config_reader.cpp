// SPDX-License-Identifier: Apache-2.0
#include "model/config_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "model/architecture.h"

namespace plumb {
namespace {

std::vector<std::string> prefixes_of(const ModelFile& file, const Hyperparameters& h) {
  switch (file.format) {
    case FileFormat::Gguf: return {h.declared + "."};
    case FileFormat::Apr: return {"", "model."};
    default: break;
  }
  const bool nested = file.metadata.contains("text_config.hidden_size") ||
                      file.metadata.contains("text_config.model_type");
  return nested ? std::vector<std::string>{"text_config.", ""} : std::vector<std::string>{""};
}

// What a GGUF can hold of a number.
double as_float(double x) { return static_cast<double>(static_cast<float>(x)); }

std::optional<Activation> activation_named(const std::string& name) {
  static const std::map<std::string, Activation, std::less<>> kNames = {
      {"silu", Activation::Silu},         {"swish", Activation::Silu},
      {"gelu", Activation::GeluErf},      {"gelu_python", Activation::GeluErf},
      {"gelu_new", Activation::GeluTanh}, {"gelu_pytorch_tanh", Activation::GeluTanh},
      {"gelu_fast", Activation::GeluTanh}};
  const auto found = kNames.find(name);
  return found == kNames.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace

ConfigReader::ConfigReader(const ModelFile& file, const Hyperparameters& h)
    : file_(file), h_(h), keys_(file, prefixes_of(file, h), problems_) {}

template <class Read>
auto ConfigReader::read(const char* gguf, Names config, Read read) {
  if (is_gguf()) {
    if (gguf == nullptr) return decltype(read(std::span(&gguf, 1)))();
    return read(std::span<const char* const>(&gguf, 1));
  }
  return read(std::span<const char* const>(config.begin(), config.size()));
}

std::optional<double> ConfigReader::number(const char* gguf, Names config) {
  auto value = read(gguf, config, [&](auto names) { return keys_.number(names); });
  if (value) value = as_float(*value);
  return value;
}
std::optional<size_t> ConfigReader::whole(const char* gguf, Names config) {
  return read(gguf, config, [&](auto names) { return keys_.whole(names, true); });
}
std::optional<bool> ConfigReader::flag(const char* gguf, Names config) {
  return read(gguf, config, [&](auto names) { return keys_.flag(names); });
}
std::optional<std::string> ConfigReader::text(const char* gguf, Names config) {
  return read(gguf, config, [&](auto names) { return keys_.text(names); });
}
std::optional<std::vector<double>> ConfigReader::numbers(const char* gguf, Names config) {
  return read(gguf, config, [&](auto names) { return keys_.numbers(names); });
}
std::optional<std::vector<std::string>> ConfigReader::texts(const char* gguf, Names config) {
  return read(gguf, config, [&](auto names) { return keys_.texts(names); });
}

void ConfigReader::refuse_flag(const char* gguf, Names config, bool expected) {
  const auto found = flag(gguf, config);
  if (!found || *found == expected) return;
  const std::string key = is_gguf() ? h_.declared + "." + gguf : *config.begin();
  problem(fmt::format("{} is {}: {} is done here only with {}", key, *found, h_.architecture,
                      expected));
}

Activation ConfigReader::activation(Names config, Activation fallback) {
  const auto name = text(nullptr, config);
  if (!name) return fallback;
  if (const auto known = activation_named(*name)) return *known;
  problem(fmt::format("{} is '{}': known are silu, gelu, gelu_new and gelu_pytorch_tanh",
                      *config.begin(), *name));
  return fallback;
}

std::optional<std::vector<bool>> ConfigReader::sliding_layers() {
  const auto key = h_.declared + ".attention.sliding_window_pattern";
  if (const auto found = file_.metadata.find(key);
      is_gguf() && found != file_.metadata.end() &&
      std::holds_alternative<std::shared_ptr<const MetadataArray>>(found->second)) {
    const auto flags =
        numbers("attention.sliding_window_pattern", {}).value_or(std::vector<double>{});
    if (flags.size() < h_.layers.value_or(0))
      problem(fmt::format("{} has {} entries, for {} layers", key, flags.size(),
                          h_.layers.value_or(0)));
    std::vector<bool> sliding(h_.layers.value_or(0));
    for (size_t i = 0; i < std::min(sliding.size(), flags.size()); ++i) sliding[i] = flags[i] != 0;
    return sliding;
  }
  const auto types = texts(nullptr, {"layer_types"});
  if (!types) return std::nullopt;
  std::vector<bool> sliding;
  for (const auto& type : *types) {
    if (type != "sliding_attention" && type != "full_attention")
      problem(fmt::format("layer_types has '{}': known are full_attention and sliding_attention",
                          type));
    sliding.push_back(type == "sliding_attention");
  }
  if (sliding.size() < h_.layers.value_or(0))
    problem(fmt::format("layer_types has {} entries, for {} layers", sliding.size(),
                        h_.layers.value_or(0)));
  sliding.resize(h_.layers.value_or(0));
  return sliding;
}

namespace {

// Keys that change what is computed, wherever they stand, and the values with which they do not.
struct Meaningful {
  const char* key;     // behind the prefix
  double neutral = 0;  // besides 0, false, null and the empty text
};

constexpr auto kGgufKeys = std::to_array<Meaningful>({
    {"attention.sliding_window"},
    {"attention.sliding_window_pattern"},
    {"attention.scale"},
    {"attention.output_scale", 1},
    {"attention.clamp_kqv"},
    {"attention.max_alibi_bias"},
    {"attention.causal", 1},
    {"attention.temperature_scale"},
    {"attention.temperature_length"},
    {"attention.value_scale", 1},
    {"attention.relative_buckets_count"},
    {"attn_logit_softcapping"},
    {"final_logit_softcapping"},
    {"router_logit_softcapping"},
    {"logit_scale", 1},
    {"embedding_scale", 1},
    {"residual_scale", 1},
    {"rope.scale_linear", 1},
    {"rope.freq_base_swa"},
    {"rope.scaling.alpha"},
    {"rope.scaling.yarn_ext_factor", 1},
    {"rope.scaling.yarn_log_multiplier"},
    {"rope.dimension_sections"},
    {"expert_weights_norm"},
    {"expert_weights_scale", 1},
    {"expert_gating_func", 1},
    {"expert_group_count", 1},
    {"expert_group_used_count", 1},
    {"expert_group_scale"},
    {"expert_shared_count"},
    {"experts_per_group", 1},
    {"interleave_moe_layer_step", 1},
    {"moe_every_n_layers", 1},
    {"moe_latent_size"},
    {"n_deepstack_layers"},
    {"activation_sparsity_scale"},
    {"altup.num_inputs"},
    {"swiglu_clamp_exp"},
    {"swiglu_clamp_shexp"},
    {"pooling_type"},
    {"ssm.state_size"},
    {"full_attention_interval", 1},
    {"use_parallel_residual"},
});

constexpr auto kConfigKeys = std::to_array<Meaningful>({
    {"sliding_window"},
    {"use_sliding_window"},
    {"attn_logit_softcapping"},
    {"final_logit_softcapping"},
    {"router_logit_softcapping"},
    {"logit_scale", 1},
    {"logits_scaling", 1},
    {"embedding_multiplier", 1},
    {"residual_multiplier", 1},
    {"attention_multiplier"},
    {"query_pre_attn_scalar"},
    {"clip_qkv"},
    {"use_qk_norm"},
    {"qk_layernorm"},
    {"alibi"},
    {"use_bidirectional_attention"},
    {"is_decoder", 1},
    {"add_cross_attention"},
    {"rope_interleaved"},
    {"partial_rotary_factor", 1},
    {"attn_temperature_tuning"},
    {"attention_chunk_size"},
    {"use_mup"},
    {"mup_attn_multiplier"},
    {"scale_emb", 1},
    {"scale_depth"},
    {"dim_model_base"},
    {"norm_topk_prob"},
    {"routed_scaling_factor", 1},
    {"n_group", 1},
    {"topk_group", 1},
    {"swiglu_limit"},
    {"num_experts_shared"},
    {"n_shared_experts"},
    {"moe_layer_freq", 1},
    {"hidden_act_param"},
    {"fp32_residual_connection"},
    {"apply_residual_connection_post_layernorm"},
    {"scale_attn_by_inverse_layer_idx"},
    {"rope_scaling.short_mscale"},
    {"rope_scaling.long_mscale"},
    {"per_layer_config"},
});

bool is_neutral(const MetadataValue& value, double neutral) {
  if (std::holds_alternative<std::monostate>(value)) return true;
  if (const auto* flag = std::get_if<bool>(&value)) return !*flag || neutral == 1;
  if (const auto* text = std::get_if<std::string>(&value)) return text->empty();
  if (const auto* real = std::get_if<double>(&value)) return *real == 0 || *real == neutral;
  if (const auto* whole = std::get_if<int64_t>(&value))
    return *whole == 0 || static_cast<double>(*whole) == neutral;
  return false;
}

}  // namespace

std::optional<std::string> ConfigReader::ignored_key() const {
  const auto list =
      is_gguf() ? std::span<const Meaningful>(kGgufKeys) : std::span<const Meaningful>(kConfigKeys);
  for (const auto& prefix : prefixes_of(file_, h_))
    for (const auto& [key, neutral] : list) {
      const auto found = file_.metadata.find(prefix + key);
      if (found == file_.metadata.end() || keys_.taken().contains(found->first)) continue;
      if (!is_neutral(found->second, neutral))
        return fmt::format("{} is {}", found->first, to_text(found->second));
    }
  return std::nullopt;
}

namespace {

// --- RoPE

double yarn_magnitude(double factor, double scale) {
  return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
}

class RopeReader {
 public:
  RopeReader(ConfigReader& reader, Config& config)
      : reader_(reader), c_(config), s_(config.rope_scaling) {}

  void read() {
    const auto& h = reader_.sizes();
    c_.rope_base = static_cast<double>(static_cast<float>(h.rope_base.value_or(1e4)));
    c_.rope_base_local = static_cast<double>(static_cast<float>(h.rope_base_local.value_or(0)));
    c_.rope_dimensions = h.rope_base ? h.rope_dimensions.value_or(0) : 0;
    if (c_.rope_dimensions % 2 != 0)
      reader_.problem(
          fmt::format("RoPE turns {} values of a head, must be even", c_.rope_dimensions));
    s_.type = h.rope_scaling;
    s_.original_context =
        whole("rope.scaling.original_context_length", "original_max_position_embeddings")
            .value_or(c_.context);
    if (reader_.is_gguf()) read_gguf();
    else read_config();
    if (s_.factor <= 0 || s_.magnitude <= 0 || s_.original_context == 0)
      reader_.problem(
          fmt::format("the scaling of RoPE has factor {}, attention factor {} and "
                      "original context {}: each must be above 0",
                      s_.factor, s_.magnitude, s_.original_context));
  }

 private:
  // config.json has had the scaling in three places; values at its root count last.
  std::optional<double> number(const char* gguf, const std::string& name) {
    if (reader_.is_gguf()) return reader_.number(gguf, {});
    for (const char* place :
         {"rope_parameters.full_attention.", "rope_parameters.", "rope_scaling.", ""})
      if (const auto value = reader_.number(nullptr, {(place + name).c_str()})) return value;
    return std::nullopt;
  }
  std::optional<size_t> whole(const char* gguf, const std::string& name) {
    const auto value = number(gguf, name);
    if (!value) return std::nullopt;
    if (*value < 1 || *value > 1e9 || *value != std::floor(*value)) {
      reader_.problem(fmt::format("{} is {}, must be a whole number above 0", name, *value));
      return std::nullopt;
    }
    return static_cast<size_t>(*value);
  }

  void read_gguf() {
    const auto type = reader_.text("rope.scaling.type", {}).value_or("");
    const double linear = reader_.number("rope.scale_linear", {}).value_or(1);
    s_.factor = reader_.number("rope.scaling.factor", {}).value_or(linear);
    // As llama.cpp has it: a factor without a type is linear, the type "none" makes it void.
    if (type.empty() && s_.factor != 1) s_.type = "linear";
    s_.magnitude = reader_.number("rope.scaling.attn_factor", {}).value_or(1);
    if (s_.type == "yarn") {
      const auto given = reader_.number("rope.scaling.yarn_attn_factor", {});
      const auto log_multiplier = reader_.number("rope.scaling.yarn_log_multiplier", {});
      s_.magnitude *= given.value_or(yarn_magnitude(s_.factor, 1) /
                                     yarn_magnitude(s_.factor, log_multiplier.value_or(0)));
      s_.beta_fast = reader_.number("rope.scaling.yarn_beta_fast", {}).value_or(32);
      s_.beta_slow = reader_.number("rope.scaling.yarn_beta_slow", {}).value_or(1);
    }
    if (s_.type == "longrope" || has_long_factors()) s_.type = "longrope";
    check_type({"none", "linear", "yarn", "longrope"});
  }

  bool has_long_factors() const {
    return reader_.file().find("rope_factors_long.weight") != nullptr;
  }

  void read_config() {
    check_type({"none", "linear", "yarn", "longrope", "dynamic", "llama3"});
    s_.factor = number(nullptr, "factor").value_or(1);
    const auto attention_factor = number(nullptr, "attention_factor");
    if (s_.type == "yarn") {
      s_.beta_fast = number(nullptr, "beta_fast").value_or(32);
      s_.beta_slow = number(nullptr, "beta_slow").value_or(1);
      s_.truncate = truncate();
      const auto mscale = number(nullptr, "mscale");
      const auto all_dim = number(nullptr, "mscale_all_dim");
      const bool both = mscale.value_or(0) != 0 && all_dim.value_or(0) != 0;
      s_.magnitude = both ? yarn_magnitude(s_.factor, *mscale) / yarn_magnitude(s_.factor, *all_dim)
                          : yarn_magnitude(s_.factor, 1);
    }
    const bool magnifies = s_.type == "yarn" || s_.type == "longrope";
    if (s_.type == "longrope") read_longrope();
    if (attention_factor && magnifies) s_.magnitude = *attention_factor;
    if (s_.type == "dynamic") {  // the context grows with the factor
      s_.original_context = c_.context;
      c_.context = static_cast<size_t>(static_cast<double>(c_.context) * std::max(s_.factor, 1.0));
    }
    // The factors of llama3 are a tensor, computed from config.json (canonical.cpp).
    if (s_.type == "llama3" || s_.type == "longrope") s_.factor = 1;
  }

  void read_longrope() {
    const double original = static_cast<double>(s_.original_context);
    const double factor =
        number(nullptr, "factor").value_or(static_cast<double>(c_.context) / original);
    s_.magnitude = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
    s_.magnitude = static_cast<double>(static_cast<float>(s_.magnitude));
  }

  bool truncate() {
    for (const char* key : {"rope_parameters.truncate", "rope_scaling.truncate"})
      if (const auto flag = reader_.flag(nullptr, {key})) return *flag;
    return true;
  }

  void check_type(std::initializer_list<std::string_view> known) {
    if (std::ranges::find(known, s_.type) != known.end()) return;
    reader_.problem(fmt::format("the scaling of RoPE is '{}': done here are {}", s_.type,
                                fmt::join(known, ", ")));
  }

  ConfigReader& reader_;
  Config& c_;
  RopeScaling& s_;
};

// --- Sizes

void read_sizes(ConfigReader& reader, Config& c) {
  const auto& h = reader.sizes();
  c.width = h.width.value_or(0);
  c.layers = h.layers.value_or(0);
  c.heads = h.heads.value_or(0);
  c.kv_heads = h.kv_heads.value_or(0);
  c.head_dim = h.head_dim.value_or(0);
  c.ffn = h.ffn.value_or(0);
  c.context = h.context.value_or(0);
  c.epsilon = static_cast<double>(static_cast<float>(h.epsilon.value_or(0)));
  c.experts = h.experts.value_or(0);
  c.experts_used = h.experts_used.value_or(0);
  c.expert_ffn = h.expert_ffn.value_or(0);
  c.shared_ffn = h.shared_ffn.value_or(0);
  c.window = h.window.value_or(0);
  c.attention_scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  c.rotated.assign(c.layers, true);
  c.windowed.assign(c.layers, c.window != 0);
  for (size_t layer = 0; layer < c.layers; ++layer)
    c.expert_layer.push_back(c.experts != 0 && applies(Where::Experts, h, layer));
}

// What a hostile or odd file may say that no plan is made for.
std::optional<std::string> unusable(const Hyperparameters& h, const Config& c) {
  const auto uniform = [](const std::vector<size_t>& list) {
    return std::ranges::all_of(list, [&](size_t x) { return x == list.front(); });
  };
  if (!uniform(h.layer_heads) || !uniform(h.layer_kv_heads) || !uniform(h.layer_ffn))
    return "layers with different numbers of heads or widths are not run here";
  if (h.value_dim && h.head_dim && *h.value_dim != *h.head_dim)
    return fmt::format(
        "values of a head ({}) and of its key ({}) differ in size, which is not run "
        "here",
        *h.value_dim, *h.head_dim);
  if (c.heads == 0 || c.kv_heads == 0 || c.heads % c.kv_heads != 0 || c.head_dim == 0)
    return fmt::format("{} heads, {} key heads and {} values a head do not go together", c.heads,
                       c.kv_heads, c.head_dim);
  if (c.width == 0 || c.layers == 0) return "there is no width or no layer";
  if (c.context == 0) return "the length of the context is missing";
  if (c.experts != 0 && (c.experts_used == 0 || c.experts_used > c.experts))
    return fmt::format("{} of {} experts are to be used", c.experts_used, c.experts);
  return std::nullopt;
}

}  // namespace

Result<Config> read_config(const ModelFile& file, const Hyperparameters& h) {
  const auto unsupported = [](std::string text) {
    return fail(ErrorCode::Unsupported, std::move(text));
  };
  const auto* architecture = find_architecture(h.architecture);
  if (architecture == nullptr || architecture->add_layer == nullptr) {
    std::string known;
    for (const auto* each : architectures())
      if (each->add_layer != nullptr)
        known += (known.empty() ? "" : ", ") + std::string(each->name);
    return unsupported(fmt::format("architecture '{}' cannot be run here (can be: {})",
                                   h.declared.empty() ? "(not named)" : h.declared, known));
  }
  if (!h.problems.empty()) return fail(ErrorCode::Corrupt, h.problems.front());
  Config config;
  config.architecture = h.architecture;
  ConfigReader reader(file, h);
  read_sizes(reader, config);
  if (auto text = unusable(h, config)) return unsupported(std::move(*text));
  RopeReader(reader, config).read();
  architecture->configure(reader, config);
  if (!reader.problems().empty()) return unsupported(reader.problems().front());
  if (const auto key = reader.ignored_key())
    return unsupported(fmt::format("{}, which {} does not do here", *key, h.architecture));
  return config;
}

}  // namespace plumb
