// SPDX-License-Identifier: Apache-2.0
#include "model/hyperparameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "model/key_reader.h"

namespace plumb {
namespace {

// What transformers fills in where config.json is silent: the defaults of its configuration
// classes. head_dim 0: width / heads; kv_heads 0: as many as heads; rotary: the part of a head that
// RoPE turns, 0: there is no RoPE.
struct ClassDefaults {
  std::string_view model_type, architecture, class_name;
  bool tied;
  double epsilon, rope_base, rotary;
  size_t head_dim, kv_heads;
};

constexpr ClassDefaults kClasses[] = {
    {"llama", "llama", "LlamaForCausalLM", false, 1e-6, 1e4, 1, 0, 0},
    {"mistral", "llama", "MistralForCausalLM", false, 1e-6, 1e4, 1, 0, 8},
    {"ministral", "llama", "MinistralForCausalLM", false, 1e-6, 1e4, 1, 0, 8},
    {"mixtral", "llama", "MixtralForCausalLM", false, 1e-5, 1e6, 1, 0, 8},
    {"smollm2", "llama", "", true, 1e-5, 1e4, 1, 0, 0},
    {"mistral3", "mistral3", "Mistral3ForConditionalGeneration", false, 1e-5, 1e9, 1, 0, 8},
    {"ministral3", "mistral3", "Ministral3ForCausalLM", false, 1e-5, 1e6, 1, 128, 8},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false, 1e-6, 1e4, 1, 0, 32},
    {"qwen2_moe", "qwen2moe", "Qwen2MoeForCausalLM", false, 1e-6, 1e4, 1, 0, 16},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", false, 1e-6, 1e4, 1, 128, 32},
    {"qwen3_moe", "qwen3moe", "Qwen3MoeForCausalLM", false, 1e-6, 1e4, 1, 0, 4},
    {"gemma", "gemma", "GemmaForCausalLM", true, 1e-6, 1e4, 1, 256, 16},
    {"gemma2", "gemma2", "Gemma2ForCausalLM", true, 1e-6, 1e4, 1, 256, 4},
    {"gemma3_text", "gemma3", "Gemma3ForCausalLM", true, 1e-6, 1e6, 1, 256, 4},
    {"gemma3", "gemma3", "Gemma3ForConditionalGeneration", true, 1e-6, 1e6, 1, 256, 4},
    {"phi", "phi2", "PhiForCausalLM", false, 1e-5, 1e4, 0.5, 0, 0},
    {"phi3", "phi3", "Phi3ForCausalLM", false, 1e-5, 1e4, 1, 0, 0},
    {"smollm3", "smollm3", "SmolLM3ForCausalLM", true, 1e-6, 2e6, 1, 0, 4},
    {"olmo2", "olmo2", "Olmo2ForCausalLM", false, 1e-5, 1e4, 1, 0, 0},
    {"gpt2", "gpt2", "GPT2LMHeadModel", true, 1e-5, 1e4, 0, 0, 0},
    {"gpt_neox", "gptneox", "GPTNeoXForCausalLM", false, 1e-5, 1e4, 0.25, 0, 0},
    {"falcon", "falcon", "FalconForCausalLM", true, 1e-5, 1e4, 1, 0, 0},
    {"RefinedWebModel", "falcon", "RWForCausalLM", true, 1e-5, 1e4, 1, 0, 0},
    {"RefinedWeb", "falcon", "", true, 1e-5, 1e4, 1, 0, 0},
    {"starcoder2", "starcoder2", "Starcoder2ForCausalLM", true, 1e-5, 1e4, 1, 0, 2},
    {"stablelm", "stablelm", "StableLmForCausalLM", false, 1e-5, 1e4, 0.25, 0, 32},
    {"stablelm_epoch", "stablelm", "StableLMEpochForCausalLM", false, 1e-5, 1e4, 0.25, 0, 32},
    {"granite", "granite", "GraniteForCausalLM", false, 1e-6, 1e4, 1, 0, 0},
    {"cohere", "command-r", "CohereForCausalLM", true, 1e-5, 1e4, 1, 0, 0},
    {"glm4", "glm4", "Glm4ForCausalLM", false, 1.5625e-7, 1e4, 0.5, 128, 2},
    {"exaone", "exaone", "ExaoneForCausalLM", true, 1e-5, 1e4, 1, 0, 0},
    {"exaone4", "exaone4", "Exaone4ForCausalLM", false, 1e-5, 1e4, 1, 0, 32},
    {"bloom", "bloom", "BloomForCausalLM", true, 1e-5, 1e4, 0, 0, 0},
    {"gpt_oss", "gpt-oss", "GptOssForCausalLM", false, 1e-5, 1.5e5, 1, 64, 8},
    {"deepseek_v2", "deepseek2", "DeepseekV2ForCausalLM", false, 1e-6, 1e4, 1, 0, 0},
    {"deepseek_v3", "deepseek2", "DeepseekV3ForCausalLM", false, 1e-6, 1e4, 1, 0, 0},
};

const ClassDefaults* find_class(std::string_view name) {
  for (const auto& row : kClasses)
    if (!name.empty() && (row.model_type == name || row.class_name == name)) return &row;
  return nullptr;
}

// The first row of an architecture by GGUF's name.
const ClassDefaults* find_architecture_class(std::string_view name) {
  for (const auto& row : kClasses)
    if (row.architecture == name) return &row;
  return nullptr;
}

// A hyperparameter and its names: GGUF's behind "<architecture>.", APR's own (then aliases), and
// config.json's in the order in which they count.
struct Field {
  std::optional<size_t> Hyperparameters::* member;
  const char* gguf;
  std::vector<const char*> names;
  bool may_be_zero = false;  // zero then says: there is none
};

const std::vector<Field>& fields() {
  using H = Hyperparameters;
  static const std::vector<Field> kFields = {
      {&H::width, "embedding_length", {"hidden_size", "n_embd", "d_model", "hidden_dim"}},
      {&H::layers, "block_count", {"num_hidden_layers", "n_layer", "num_layers", "n_layers"}},
      {&H::vocabulary, "vocab_size", {"vocab_size", "n_vocab"}},
      {&H::context,
       "context_length",
       {"max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len",
        "context_length"}},
      {&H::experts, "expert_count", {"num_local_experts", "num_experts", "n_routed_experts"}, true},
      {&H::experts_used,
       "expert_used_count",
       {"num_experts_per_tok", "num_experts_per_token"},
       true},
      {&H::expert_ffn, "expert_feed_forward_length", {"moe_intermediate_size"}, true},
      {&H::shared_ffn,
       "expert_shared_feed_forward_length",
       {"shared_expert_intermediate_size"},
       true},
      {&H::window, "attention.sliding_window", {"sliding_window"}, true},
      {&H::query_rank, "attention.q_lora_rank", {"q_lora_rank"}, true},
      {&H::kv_rank, "attention.kv_lora_rank", {"kv_lora_rank"}, true},
  };
  return kFields;
}

const std::vector<const char*> kHeadNames = {"num_attention_heads", "n_head", "num_heads",
                                             "n_heads"};
const std::vector<const char*> kKvHeadNames = {"num_key_value_heads", "num_kv_heads", "n_head_kv",
                                               "n_kv_heads"};
const std::vector<const char*> kFfnNames = {"intermediate_size", "n_inner", "ffn_hidden_size",
                                            "ffn_dim", "intermediate_dim"};

bool has_tensor(const ModelFile& file, std::string_view name) {
  return std::ranges::any_of(file.tensors,
                             [&](const TensorEntry& tensor) { return tensor.name == name; });
}

template <class T>
void default_to(std::optional<T>& value, std::type_identity_t<T> fallback) {
  if (!value) value = fallback;
}

size_t largest_or(const std::vector<size_t>& list, size_t fallback) {
  return list.empty() ? fallback : std::ranges::max(list);
}

// width / heads, if it divides.
std::optional<size_t> divided(const Hyperparameters& h) {
  const size_t heads = largest_or(h.layer_heads, h.heads.value_or(0));
  if (!h.width || heads == 0 || *h.width % heads != 0) return std::nullopt;
  return *h.width / heads;
}

// --- GGUF

void read_gguf_sizes(KeyReader& keys, Hyperparameters& h) {
  for (const auto& field : fields()) h.*field.member = keys.whole(field.gguf, field.may_be_zero);
  const char* heads = "attention.head_count";
  const char* kv_heads = "attention.head_count_kv";
  const char* ffn = "feed_forward_length";
  h.heads = keys.whole_or_list(std::span(&heads, 1), h.layer_heads);
  h.kv_heads = keys.whole_or_list(std::span(&kv_heads, 1), h.layer_kv_heads);
  h.ffn = keys.whole_or_list(std::span(&ffn, 1), h.layer_ffn);
  h.absorbed = keys.find("attention.key_length_mla") != nullptr;
  h.head_dim = keys.whole(h.absorbed ? "attention.key_length_mla" : "attention.key_length");
  h.value_dim = keys.whole(h.absorbed ? "attention.value_length_mla" : "attention.value_length");
  h.head_dim_given = h.head_dim.has_value();
  h.dense_layers = keys.whole("leading_dense_block_count", true).value_or(0);
  h.extra_layers = keys.whole("nextn_predict_layers", true).value_or(0);
  if (h.layers && h.extra_layers > 0) {
    if (h.extra_layers >= *h.layers)
      keys.problem("{}.nextn_predict_layers is {}, of {} layers", h.declared, h.extra_layers,
                   *h.layers);
    else *h.layers -= h.extra_layers;
  }
}

void read_gguf_rest(KeyReader& keys, Hyperparameters& h) {
  const char* epsilons[] = {"attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"};
  const char* base = "rope.freq_base";
  const char* local = "rope.freq_base_swa";
  h.epsilon = keys.positive(epsilons);
  const bool rope = h.architecture != "gpt2" && h.architecture != "bloom";
  h.rope_base = keys.positive(std::span(&base, 1));
  h.rope_base_local = keys.positive(std::span(&local, 1));
  h.rope_dimensions = keys.whole("rope.dimension_count", true);
  if (rope) {
    default_to(h.rope_base, 1e4);
    if (h.architecture == "gemma3") default_to(h.rope_base_local, 1e4);
    if (!h.rope_dimensions) h.rope_dimensions = h.head_dim ? h.head_dim : divided(h);
  }
  h.rope_scaling = keys.text("rope.scaling.type").value_or("none");
  if (h.rope_scaling.empty()) h.rope_scaling = "none";
}

void read_gguf(const ModelFile& file, Hyperparameters& h) {
  KeyReader general(file, {""}, h.problems);
  h.declared = general.text("general.architecture").value_or("");
  if (h.declared.empty()) {
    general.problem("general.architecture is missing");
    return;
  }
  if (find_architecture_class(h.declared) != nullptr) h.architecture = h.declared;
  KeyReader keys(file, {h.declared + "."}, h.problems);
  read_gguf_sizes(keys, h);
  read_gguf_rest(keys, h);
  // The tokens decide; the key is a repetition that not every file has.
  if (const auto tokens = general.array_size("tokenizer.ggml.tokens"); tokens && *tokens > 0)
    h.vocabulary = tokens;
  h.tied = !has_tensor(file, "output.weight");
  const bool qwen = h.architecture == "qwen2moe" || h.architecture == "qwen3moe";
  if (qwen && !h.expert_ffn && h.ffn && h.experts_used) h.expert_ffn = *h.ffn / *h.experts_used;
  if (h.architecture == "qwen2moe" && !h.shared_ffn) h.shared_ffn = h.ffn;
}

// --- config.json

std::string first_class(const ModelFile& file) {
  const auto found = file.metadata.find("architectures");
  if (found == file.metadata.end()) return {};
  const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(&found->second);
  std::string name;
  if (array != nullptr)
    (*array)->for_each([&](const MetadataValue& value) {
      if (const auto* text = std::get_if<std::string>(&value)) name = *text;
      return false;
    });
  return name;
}

// The class whose defaults hold: by model_type, else that of the text part, else by class name.
const ClassDefaults* declared_class(const ModelFile& file, KeyReader& root, Hyperparameters& h) {
  const auto type = root.text("model_type").value_or("");
  const auto text_type = root.text("text_config.model_type").value_or("");
  const auto name = first_class(file);
  for (const auto& candidate : {type, text_type, name})
    if (const auto* found = find_class(candidate)) {
      h.declared = candidate;
      return found;
    }
  h.declared = !type.empty() ? type : name;
  return nullptr;
}

void read_config_rope(KeyReader& keys, const ClassDefaults& defaults, Hyperparameters& h) {
  const char* bases[] = {"rope_theta", "rope_parameters.rope_theta",
                         "rope_parameters.full_attention.rope_theta", "rotary_emb_base"};
  const char* locals[] = {"rope_local_base_freq", "rope_parameters.sliding_attention.rope_theta"};
  const char* parts[] = {"partial_rotary_factor", "rope_parameters.partial_rotary_factor",
                         "rope_parameters.full_attention.partial_rotary_factor", "rotary_pct"};
  const char* types[] = {"rope_scaling.rope_type", "rope_scaling.type", "rope_parameters.rope_type",
                         "rope_parameters.full_attention.rope_type"};
  const auto base = keys.positive(bases);
  const auto local = keys.positive(locals);
  const auto part = keys.positive(parts);
  const auto type = keys.text(types).value_or("default");
  if (defaults.rotary == 0 || keys.flag("alibi").value_or(false)) return;
  h.rope_base = base.value_or(defaults.rope_base);
  h.rope_base_local = local;
  if (h.architecture == "gemma3") default_to(h.rope_base_local, 1e4);
  h.rope_scaling = type == "default" ? "none" : type == "su" ? "longrope" : type;
  if (const auto turned = keys.whole("qk_rope_head_dim")) h.rope_dimensions = turned;
  else if (h.head_dim && part.value_or(defaults.rotary) <= 1)
    h.rope_dimensions =
        static_cast<size_t>(static_cast<double>(*h.head_dim) * part.value_or(defaults.rotary));
}

void read_config_heads(KeyReader& keys, const ClassDefaults& defaults, Hyperparameters& h) {
  h.heads = keys.whole_or_list(kHeadNames, h.layer_heads);
  h.kv_heads = keys.whole_or_list(kKvHeadNames, h.layer_kv_heads);
  if (h.architecture == "falcon") {
    // Several queries share one key unless the newer block says how many there are.
    const bool newer = keys.flag("new_decoder_architecture").value_or(false);
    if (!newer && keys.flag("multi_query").value_or(true)) h.kv_heads = 1;
  }
  if (!h.kv_heads) {
    const bool by_class = defaults.kv_heads > 0 && !keys.is_null(kKvHeadNames);
    h.kv_heads = by_class ? std::optional(defaults.kv_heads) : h.heads;
  }
  const char* head_dim = "head_dim";
  h.head_dim = keys.whole(head_dim);
  if (!h.head_dim && defaults.head_dim > 0 && !keys.is_null(std::span(&head_dim, 1)))
    h.head_dim = defaults.head_dim;
}

// DeepSeek 2: a key has a part that RoPE turns and one that it does not.
void read_config_low_rank(KeyReader& keys, Hyperparameters& h) {
  const auto turned = keys.whole("qk_rope_head_dim");
  const auto plain = keys.whole("qk_nope_head_dim");
  if (turned && plain) h.head_dim = *turned + *plain;
  h.value_dim = keys.whole("v_head_dim");
  h.absorbed = true;
  h.dense_layers = keys.whole("first_k_dense_replace", true).value_or(0);
  if (!h.experts) h.dense_layers = h.layers.value_or(0);
  const auto shared = keys.whole("n_shared_experts", true);
  if (shared && h.expert_ffn) h.shared_ffn = *shared * *h.expert_ffn;
}

void read_config_ffn(KeyReader& keys, const ClassDefaults& defaults, Hyperparameters& h) {
  h.ffn = keys.whole_or_list(kFfnNames, h.layer_ffn);
  const auto& name = h.architecture;
  if (!h.ffn && h.width && (name == "gpt2" || name == "bloom" || name == "falcon"))
    h.ffn = 4 * *h.width;
  if (h.experts && !h.expert_ffn && (name == "llama" || name == "gpt-oss" || name == "mistral3"))
    h.expert_ffn = h.ffn;
  const char* epsilons[] = {"rms_norm_eps",      "layer_norm_eps", "layer_norm_epsilon",
                            "layernorm_epsilon", "norm_epsilon",   "norm_eps"};
  h.epsilon = keys.positive(epsilons);
  default_to(h.epsilon, defaults.epsilon);
  const char* attention[] = {"attention_bias", "use_qkv_bias", "use_bias", "bias"};
  const char* mlp[] = {"mlp_bias", "use_bias", "bias"};
  h.attention_bias = keys.flag(attention);
  h.mlp_bias = keys.flag(mlp);
}

// Qwen: a layer has experts unless it is listed, or not one of every `decoder_sparse_step`.
void read_config_dense_layers(KeyReader& keys, Hyperparameters& h) {
  const size_t step = keys.whole("decoder_sparse_step", true).value_or(1);
  const char* name = "mlp_only_layers";
  const auto listed = keys.numbers(std::span(&name, 1)).value_or(std::vector<double>{});
  if (!h.layers || *h.layers > KeyReader::kMostListed || (step == 1 && listed.empty())) return;
  h.layer_dense.assign(*h.layers, false);
  for (size_t layer = 0; layer < *h.layers; ++layer)
    h.layer_dense[layer] = (layer + 1) % step != 0 ||
                           std::ranges::find(listed, static_cast<double>(layer)) != listed.end();
}

// google/gemma-3's config.json leaves out what its class has by default.
void gemma3_defaults(Hyperparameters& h) {
  default_to(h.vocabulary, 262208);
  default_to(h.width, 2304);
  default_to(h.layers, 26);
  default_to(h.heads, 8);
  default_to(h.ffn, 9216);
  default_to(h.context, 131072);
}

void read_config(const ModelFile& file, Hyperparameters& h) {
  KeyReader root(file, {""}, h.problems);
  const auto* found = declared_class(file, root, h);
  const ClassDefaults unknown = {"", "", "", true, 1e-6, 1e4, 1, 0, 0};
  const ClassDefaults& defaults = found ? *found : unknown;
  h.architecture = defaults.architecture;
  // A model that sees or hears has the sizes of its text part apart.
  const bool nested = root.find("text_config.hidden_size") || root.find("text_config.model_type");
  auto prefixes =
      nested ? std::vector<std::string>{"text_config.", ""} : std::vector<std::string>{""};
  KeyReader keys(file, std::move(prefixes), h.problems);
  for (const auto& field : fields()) h.*field.member = keys.whole(field.names, field.may_be_zero);
  read_config_heads(keys, defaults, h);
  if (h.architecture == "deepseek2") read_config_low_rank(keys, h);
  read_config_ffn(keys, defaults, h);
  if (h.architecture == "gemma3") gemma3_defaults(h);
  if (h.architecture == "qwen2moe" || h.architecture == "qwen3moe")
    read_config_dense_layers(keys, h);
  h.head_dim_given = h.head_dim.has_value();
  if (!h.head_dim) h.head_dim = divided(h);
  read_config_rope(keys, defaults, h);
  h.extra_layers = keys.whole("num_nextn_predict_layers", true).value_or(0);
  if (h.architecture == "bloom") default_to(h.context, 2048);  // ALiBi has no end of its own
  if (!keys.flag("use_sliding_window").value_or(true)) h.window.reset();
  // Mistral's class has a window unless config.json says null.
  const char* window = "sliding_window";
  const bool mistral = defaults.model_type == "mistral" || defaults.model_type == "ministral";
  if (mistral && !h.window && !keys.is_null(std::span(&window, 1))) h.window = 4096;
  h.tied = keys.flag("tie_word_embeddings").value_or(defaults.tied);
}

// --- APR

void read_apr(const ModelFile& file, Hyperparameters& h) {
  KeyReader keys(file, {"", "model."}, h.problems);
  const char* types[] = {"hf_model_type", "architecture", "hf_architecture", "model_type"};
  const ClassDefaults* found = nullptr;
  for (const auto* type : types) {
    const auto name = keys.text(type).value_or("");
    if (h.declared.empty()) h.declared = name;
    found = find_class(name) ? find_class(name) : find_architecture_class(name);
    if (found == nullptr) continue;
    h.declared = name;
    break;
  }
  const ClassDefaults unknown = {"", "", "", true, 1e-6, 1e4, 1, 0, 0};
  const ClassDefaults& defaults = found ? *found : unknown;
  h.architecture = defaults.architecture;
  for (const auto& field : fields()) h.*field.member = keys.whole(field.names, field.may_be_zero);
  h.heads = keys.whole_or_list(kHeadNames, h.layer_heads);
  h.kv_heads = keys.whole_or_list(kKvHeadNames, h.layer_kv_heads);
  if (!h.kv_heads) h.kv_heads = h.heads;
  h.head_dim = keys.whole("head_dim");
  // The importer writes no head_dim for a GGUF, whatever its key_length was.
  h.head_dim_given = h.head_dim.has_value();
  if (!h.head_dim) h.head_dim = divided(h);
  read_config_ffn(keys, defaults, h);
  read_config_rope(keys, defaults, h);
  h.tied = keys.flag("tied_embeddings").value_or(false) ||
           (!has_tensor(file, "lm_head.weight") && !has_tensor(file, "output.weight"));
}

// --- All formats

std::string key_name(const ModelFile& file, const Hyperparameters& h, const char* gguf,
                     const char* config, const char* apr) {
  if (file.format == FileFormat::Gguf) return h.declared + "." + gguf;
  return file.format == FileFormat::Apr ? apr : config;
}

bool has_layer_norm(std::string_view architecture) {
  static constexpr std::string_view kNames[] = {"gpt2",     "gptneox", "falcon", "starcoder2",
                                                "stablelm", "phi2",    "bloom",  "command-r"};
  return std::ranges::find(kNames, architecture) != std::end(kNames);
}

void check_required(const ModelFile& file, Hyperparameters& h) {
  const auto missing = [&](bool absent, const char* gguf, const char* config, const char* apr) {
    if (!absent) return;
    const auto key = key_name(file, h, gguf, config, apr);
    // A key of a wrong type has a problem already.
    if (!std::ranges::any_of(h.problems, [&](const auto& text) { return text.starts_with(key); }))
      h.problems.push_back(key + " is missing");
  };
  const bool gpt = h.architecture == "gpt2";
  missing(!h.layers, "block_count", gpt ? "n_layer" : "num_hidden_layers", "num_layers");
  missing(!h.width, "embedding_length", gpt ? "n_embd" : "hidden_size", "hidden_size");
  missing(!h.heads, "attention.head_count", gpt ? "n_head" : "num_attention_heads", "num_heads");
  missing(!h.ffn && !h.expert_ffn, "feed_forward_length", "intermediate_size", "intermediate_size");
  if (file.format == FileFormat::Gguf) {
    missing(!h.epsilon,
            has_layer_norm(h.architecture) ? "attention.layer_norm_epsilon"
                                           : "attention.layer_norm_rms_epsilon",
            "", "");
    missing(!h.context, "context_length", "", "");
  }
  if (h.experts) {
    missing(!h.experts_used, "expert_used_count", "num_experts_per_tok", "num_experts_per_tok");
  } else if (h.architecture == "qwen2moe" || h.architecture == "qwen3moe" ||
             h.architecture == "gpt-oss") {
    missing(true, "expert_count", "num_experts", "num_experts");
  }
}

void check_heads(const ModelFile& file, Hyperparameters& h) {
  const auto heads = key_name(file, h, "attention.head_count", "num_attention_heads", "num_heads");
  const auto kv =
      key_name(file, h, "attention.head_count_kv", "num_key_value_heads", "num_kv_heads");
  const auto width = key_name(file, h, "embedding_length", "hidden_size", "hidden_size");
  if (h.width && h.heads && !h.head_dim && h.layer_heads.empty() && *h.width % *h.heads != 0)
    h.problems.push_back(
        fmt::format("{} {} is not a multiple of {} {}", width, *h.width, heads, *h.heads));
  const size_t layers = std::max<size_t>({h.layer_heads.size(), h.layer_kv_heads.size(), 1});
  for (size_t i = 0; i < layers; ++i) {
    const size_t q = i < h.layer_heads.size() ? h.layer_heads[i] : h.heads.value_or(0);
    const size_t k = i < h.layer_kv_heads.size() ? h.layer_kv_heads[i] : h.kv_heads.value_or(0);
    if (q == 0 || k == 0 || q % k == 0) continue;
    h.problems.push_back(fmt::format("{} {} is not a multiple of {} {}", heads, q, kv, k));
    break;
  }
  if (h.experts && h.experts_used && *h.experts_used > *h.experts)
    h.problems.push_back(fmt::format(
        "{} {} is more than {} {}",
        key_name(file, h, "expert_used_count", "num_experts_per_tok", "num_experts_per_tok"),
        *h.experts_used, key_name(file, h, "expert_count", "num_experts", "num_experts"),
        *h.experts));
  if (h.rope_dimensions && h.head_dim && *h.rope_dimensions > *h.head_dim)
    h.problems.push_back(
        fmt::format("RoPE turns {} values of a head that has {}", *h.rope_dimensions, *h.head_dim));
}

void check_lists(const ModelFile& file, Hyperparameters& h) {
  if (!h.layers) return;
  const auto check = [&](std::vector<size_t>& list, const char* gguf, const char* config) {
    // A list may count the extra layers too.
    if (list.empty() || list.size() == *h.layers || list.size() == *h.layers + h.extra_layers)
      return;
    h.problems.push_back(fmt::format("{} has {} values, for {} layers",
                                     key_name(file, h, gguf, config, config), list.size(),
                                     *h.layers));
    list.clear();
  };
  check(h.layer_heads, "attention.head_count", "num_attention_heads");
  check(h.layer_kv_heads, "attention.head_count_kv", "num_key_value_heads");
  check(h.layer_ffn, "feed_forward_length", "intermediate_size");
}

// A bias that the architecture has unless config.json says no.
bool has_biases(std::string_view architecture) {
  return architecture == "starcoder2" || architecture == "gptneox" || architecture == "gpt-oss";
}

}  // namespace

std::string_view architecture_of(std::string_view name) {
  const auto* found = find_class(name);
  return found ? found->architecture : std::string_view{};
}

Hyperparameters read_hyperparameters(const ModelFile& file) {
  Hyperparameters h;
  switch (file.format) {
    case FileFormat::Gguf: read_gguf(file, h); break;
    case FileFormat::Apr: read_apr(file, h); break;
    case FileFormat::Safetensors:
    case FileFormat::HuggingFace: read_config(file, h); break;
  }
  if (!h.kv_heads) {
    h.kv_heads = h.heads;
    h.layer_kv_heads = h.layer_heads;
  }
  check_lists(file, h);
  if (!h.head_dim) h.head_dim = divided(h);
  if (!h.value_dim) h.value_dim = h.head_dim;
  if (!h.architecture.empty()) {
    check_required(file, h);
    check_heads(file, h);
    if (!h.expert_ffn && h.experts) h.expert_ffn = h.ffn;
    if (has_biases(h.architecture)) {
      default_to(h.attention_bias, true);
      default_to(h.mlp_bias, true);
    }
  }
  return h;
}

}  // namespace plumb
