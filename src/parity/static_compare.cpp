// SPDX-License-Identifier: Apache-2.0
// What two model files say, before anything is run: config against config, each weight against its
// partner.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ranges>
#include <sstream>

#include "parity/parity.h"
#include "parity/weight_class.h"
#include "quant/dequantize.h"

namespace plumb {
namespace {

Finding static_finding(std::string reason, std::string text) {
  Finding finding;
  finding.kind = "static";
  finding.side = "undecided";
  finding.reason = std::move(reason);
  finding.text = std::move(text);
  return finding;
}

// --- Config
// -----------------------------------------------------------------------------------------------------

struct ConfigField {
  const char* key;  // after the architecture's name
  const char* reason;
  const char* step;  // the first that it reaches
  double (*value)(const Config&);
};

constexpr ConfigField kConfigFields[] = {
    {"embedding_length", "config.shape", "embedding",
     [](const Config& c) { return static_cast<double>(c.width); }},
    {"block_count", "config.shape", "embedding",
     [](const Config& c) { return static_cast<double>(c.layers); }},
    {"vocab_size", "config.shape", "embedding",
     [](const Config& c) { return static_cast<double>(c.vocabulary); }},
    {"attention.layer_norm_rms_epsilon", "norm.epsilon", "layer.0.attn.norm",
     [](const Config& c) { return c.epsilon; }},
    {"attention.head_count", "config.shape", "layer.0.attn.q",
     [](const Config& c) { return static_cast<double>(c.heads); }},
    {"attention.head_count_kv", "config.shape", "layer.0.attn.k",
     [](const Config& c) { return static_cast<double>(c.kv_heads); }},
    {"attention.key_length", "config.shape", "layer.0.attn.q",
     [](const Config& c) { return static_cast<double>(c.head_dim); }},
    {"rope.freq_base", "rope.theta", "layer.0.attn.q_rope",
     [](const Config& c) { return c.rope_base; }},
    {"rope.scaling.factor", "rope.scaling", "layer.0.attn.q_rope",
     [](const Config& c) { return c.rope_scaling.factor; }},
    {"rope.dimension_count", "rope.dimensions", "layer.0.attn.q_rope",
     [](const Config& c) { return static_cast<double>(c.rope_dimensions); }},
    {"attention.sliding_window", "attention.window", "layer.0.attn.weights",
     [](const Config& c) { return static_cast<double>(c.window); }},
    {"rope.freq_base_swa", "rope.theta", "layer.0.attn.q_rope",
     [](const Config& c) { return c.rope_base_local; }},
    {"rope.scaling.attn_factor", "rope.scaling", "layer.0.attn.q_rope",
     [](const Config& c) { return c.rope_scaling.magnitude; }},
    {"attention.scale", "attention.scale", "layer.0.attn.scores",
     [](const Config& c) { return c.attention_scale; }},
    {"attn_logit_softcapping", "attention.softcap", "layer.0.attn.scores",
     [](const Config& c) { return c.attention_softcap; }},
    {"final_logit_softcapping", "logits.softcap", "logits",
     [](const Config& c) { return c.final_softcap; }},
    {"embedding_scale", "embedding.scale", "embedding",
     [](const Config& c) { return c.embedding_scale; }},
    {"residual_scale", "residual.scale", "layer.0.attn.residual",
     [](const Config& c) { return c.residual_scale; }},
    {"logit_scale", "logits.scale", "logits", [](const Config& c) { return c.logit_scale; }},
    {"expert_count", "config.shape", "layer.0.ffn.router",
     [](const Config& c) { return static_cast<double>(c.experts); }},
    {"expert_used_count", "experts.used", "layer.0.ffn.experts",
     [](const Config& c) { return static_cast<double>(c.experts_used); }},
    {"expert_weights_norm", "experts.normalize", "layer.0.ffn.expert_weights",
     [](const Config& c) { return c.experts != 0 && c.normalize_experts ? 1.0 : 0.0; }},
    {"feed_forward_length", "config.shape", "layer.0.ffn.gate",
     [](const Config& c) { return static_cast<double>(c.ffn); }},
};

void compare_config(const Model& a, const Model& b, std::vector<Finding>& findings) {
  if (a.config.architecture != b.config.architecture) {
    findings.push_back(static_finding("config.architecture",
                                      fmt::format("the architectures differ: {} and {}",
                                                  a.config.architecture, b.config.architecture)));
    findings.back().key = "general.architecture";
    return;
  }
  for (const auto& field : kConfigFields) {
    const double x = field.value(a.config);
    const double y = field.value(b.config);
    if (x == y) continue;
    const auto key = fmt::format("{}.{}", a.config.architecture, field.key);
    auto finding = static_finding(
        field.reason,
        fmt::format("the files differ in {}: {:.9g} in the baseline, {:.9g} in the candidate", key,
                    x, y));
    finding.key = key;
    finding.step = field.step;
    finding.parameters = {{"baseline", fmt::format("{:.9g}", x)},
                          {"candidate", fmt::format("{:.9g}", y)}};
    findings.push_back(std::move(finding));
  }
}

// --- Plans

// What a step does beside its weights, in words by aspect. Two plans that differ in none of them
// compute the same function of the same weights.
std::map<std::string, std::string> aspects_of(const Plan& plan, const Step& step) {
  const auto number = [](double x) { return fmt::format("{:.9g}", x); };
  std::map<std::string, std::string> aspects = {{"operation", to_text(step.op)},
                                                {"width", fmt::format("{}", step.width)}};
  std::vector<std::string> inputs;
  for (const size_t input : step.inputs) inputs.push_back(plan.steps[input].name);
  aspects["inputs"] = fmt::format("{}", fmt::join(inputs, ", "));
  if (is_norm(step.op)) {
    aspects["norm.epsilon"] = number(step.epsilon);
    aspects["norm.group"] = fmt::format("{}", norm_group(step));
  }
  if (step.op == Op::Scale || step.op == Op::SoftCap) aspects["factor"] = number(step.factor);
  if (step.op == Op::Rope) {
    const auto& r = step.rope;
    aspects["rope.pairing"] = r.pairing == RopePairing::Neighbours ? "neighbours" : "halves";
    aspects["rope.dimensions"] = fmt::format("{} of {}", r.dimensions, step.head_dim);
    aspects["rope.magnitude"] = number(r.magnitude);
    std::string frequencies;
    for (const double f : rope_frequencies(r))
      frequencies += fmt::format("{}{:.7g}", frequencies.empty() ? "" : " ", f);
    aspects["rope.frequencies"] = frequencies;
  }
  if (step.attention.heads != 0) {
    const auto& a = step.attention;
    aspects["attention.heads"] = fmt::format("{} over {} of {}", a.heads, a.kv_heads, a.head_dim);
    aspects["attention.scale"] = number(a.scale);
    aspects["attention.window"] = a.window == 0 ? "none" : fmt::format("{}", a.window);
    aspects["attention.softcap"] = number(a.softcap);
    aspects["attention.alibi"] = number(a.alibi_max_bias);
    aspects["attention.temperature"] =
        fmt::format("{} from {}", number(a.temperature_beta), a.temperature_length);
  }
  if (step.experts.count != 0)
    aspects["experts"] = fmt::format("{} of {}{}", step.experts.used, step.experts.count,
                                     step.experts.normalize ? ", their weights sum to 1" : "");
  return aspects;
}

// Of two lists of numbers, how many differ and which is the first; other aspects as they are.
std::string say_difference(const std::string& aspect, const std::string& mine,
                           const std::string& theirs) {
  if (aspect != "rope.frequencies")
    return fmt::format("{} in the baseline, {} in the candidate", mine, theirs);
  std::istringstream a(mine);
  std::istringstream b(theirs);
  std::string x, y, text;
  size_t count = 0;
  size_t differ = 0;
  for (; a >> x && b >> y; ++count)
    if (x != y && differ++ == 0)
      text = fmt::format(
          "pair {} turns by {} at each position in the baseline, {} in the candidate", count, x, y);
  return fmt::format("{}; {} of {} pairs differ", text, differ, count);
}

// The first step at which the plans part in an aspect that no key above has named: a switch that
// one of the files has lost, such as an activation or which layers have a window.
void compare_plans(const Side& a, const Side& b, std::vector<Finding>& findings) {
  std::map<std::string, Finding> by_aspect;
  std::vector<std::string> order;
  for (const auto& step : a.plan.steps) {
    const auto other = b.plan.find(step.name);
    std::map<std::string, std::string> theirs = {{"operation", "no such step"}};
    if (other) theirs = aspects_of(b.plan, b.plan.steps[*other]);
    for (const auto& [aspect, mine] : aspects_of(a.plan, step)) {
      const auto found = theirs.find(aspect);
      if (found == theirs.end() || found->second == mine) continue;
      if (by_aspect.contains(aspect)) continue;
      order.push_back(aspect);
      auto finding =
          static_finding(aspect.find('.') == std::string::npos ? "config." + aspect : aspect,
                         fmt::format("the files ask for different things at {} ({}): {}", step.name,
                                     aspect, say_difference(aspect, mine, found->second)));
      finding.step = step.name;
      finding.parameters = {{"baseline", mine}, {"candidate", found->second}};
      by_aspect.emplace(aspect, std::move(finding));
    }
  }
  if (!findings.empty()) return;  // a key says more than a step
  for (const auto& aspect : order) findings.push_back(std::move(by_aspect.at(aspect)));
  for (const auto& step : b.plan.steps)
    if (!a.plan.find(step.name) && findings.empty()) {
      findings.push_back(static_finding(
          "config.operation", fmt::format("only the candidate has the step {}", step.name)));
      findings.back().step = step.name;
    }
}

// --- Weights
// ----------------------------------------------------------------------------------------------------

WeightClass classify(const Weight& a, const Weight& b) {
  if (a.dtype == b.dtype && a.bytes.size() == b.bytes.size() && a.rows == b.rows &&
      std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0)
    return {};
  if (a.count() != b.count())
    return {"weights.shape",
            fmt::format("{}x{} against {}x{}", a.rows, a.columns, b.rows, b.columns),
            {}};
  const auto x = a.values();
  const auto y = b.values();
  return classify_weights({a.dtype, a.rows, a.columns, x}, {b.dtype, b.rows, b.columns, y});
}

// The first step that reads a tensor, of either plan.
std::string first_step(const Side& side, const std::string& tensor) {
  for (const auto& step : side.plan.steps)
    if ((step.weight && step.weight->name == tensor) || (step.bias && step.bias->name == tensor) ||
        (step.rope.factors && step.rope.factors->name == tensor))
      return step.name;
  return {};
}

int layer_of(const std::string& step) {
  return step.starts_with("layer.") ? std::atoi(step.c_str() + 6) : -1;
}
std::string without_layer(const std::string& name, const std::string& mark) {
  const size_t at = name.find(mark);
  if (at == std::string::npos) return name;
  return name.substr(name.find('.', at + mark.size()) + 1);
}

// One finding for the same thing in several layers.
void add_merged(std::vector<Finding>& findings, Finding finding) {
  for (auto& known : findings) {
    if (known.reason != finding.reason || known.side != finding.side || layer_of(known.step) < 0 ||
        layer_of(finding.step) < 0)
      continue;
    if (without_layer(known.tensor, "blk.") != without_layer(finding.tensor, "blk.")) continue;
    known.layers.push_back(layer_of(finding.step));
    return;
  }
  if (layer_of(finding.step) >= 0) finding.layers = {layer_of(finding.step)};
  findings.push_back(std::move(finding));
}

// Where a tensor's values are those of another one of the same shape: gate and up exchanged, a
// layer miscounted. Tensors near it in the list first; each is looked at only if a sample of it
// fits.
void find_swapped(const Side& a, const Side& b, const std::vector<std::string>& names, size_t at,
                  WeightClass& found) {
  const auto theirs = b.model->find(names[at]);
  const auto sample = [](const Weight& weight) {
    std::vector<float> row(weight.columns);
    dequantize(weight.dtype, weight.row(0), row.size(), row.data());
    return row;
  };
  const auto near = [](const std::vector<float>& x, const std::vector<float>& y) {
    double error = 0;
    double size = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      error += std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2);
      size += std::pow(static_cast<double>(x[i]), 2);
    }
    return error <= 0.25 * size;
  };
  const auto row = sample(*theirs);
  for (const auto& name : names) {
    const auto other = a.model->find(name);
    if (!other || name == names[at] || other->rows != theirs->rows ||
        other->columns != theirs->columns || other->count() != theirs->count())
      continue;
    if (!near(sample(*other), row)) continue;
    const auto same = classify(*other, *theirs);
    if (!same.reason.empty() && same.reason != "weights.rounding") continue;
    found = {"weights.swapped",
             fmt::format("the candidate's values are those of the baseline's {}", name),
             {{"expected", names[at]}, {"found", name}}};
    return;
  }
}

void compare_weights(const Side& a, const Side& b, Threads& threads,
                     std::vector<Finding>& findings) {
  std::vector<std::string> names;
  for (const auto& [name, weight] : a.model->weights) names.push_back(name);
  for (const auto& [name, weight] : b.model->weights)
    if (!a.model->find(name)) names.push_back(name);
  std::vector<WeightClass> classes(names.size());
  threads.run(names.size(), 1, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const auto x = a.model->find(names[i]);
      const auto y = b.model->find(names[i]);
      if (x && y) classes[i] = classify(*x, *y);
      else
        classes[i] = {"weights.missing",
                      fmt::format("it is in the {} only", x ? "baseline" : "candidate"),
                      {}};
    }
  });
  for (size_t i = 0; i < names.size(); ++i)
    if (classes[i].reason == "weights.unrelated" || classes[i].reason == "weights.different")
      find_swapped(a, b, names, i, classes[i]);
  // In the order of the model's steps.
  std::vector<std::pair<size_t, size_t>> order;
  for (size_t i = 0; i < names.size(); ++i) {
    if (classes[i].reason.empty()) continue;
    const auto& side = a.model->find(names[i]) ? a : b;
    order.emplace_back(side.plan.find(first_step(side, names[i])).value_or(SIZE_MAX), i);
  }
  std::ranges::sort(order);
  for (const auto& [step, i] : order) {
    auto finding =
        static_finding(classes[i].reason, fmt::format("tensor {}: {}", names[i], classes[i].text));
    finding.tensor = names[i];
    finding.step = first_step(a.model->find(names[i]) ? a : b, names[i]);
    finding.parameters = classes[i].parameters;
    if (finding.reason == "weights.missing")
      finding.side = a.model->find(names[i]) ? "candidate" : "baseline";
    add_merged(findings, std::move(finding));
  }
}

void compare_tokenizers(const Model& a, const Model& b, std::vector<Finding>& findings) {
  if (!a.tokenizer || !b.tokenizer || a.tokenizer->size() != b.tokenizer->size()) return;
  for (size_t id = 0; id < a.tokenizer->size(); ++id) {
    const auto x = a.tokenizer->piece(static_cast<Token>(id));
    const auto y = b.tokenizer->piece(static_cast<Token>(id));
    if (x == y) continue;
    findings.push_back(static_finding(
        "tokenizer.vocabulary",
        fmt::format("token {} is '{}' in the baseline and '{}' in the candidate", id, x, y)));
    findings.back().key = "tokenizer.ggml.tokens";
    return;
  }
}

}  // namespace

std::vector<Finding> compare_models(const Side& baseline, const Side& candidate, Threads& threads) {
  std::vector<Finding> findings;
  if (baseline.model->sha256 == candidate.model->sha256) return findings;
  compare_config(*baseline.model, *candidate.model, findings);
  compare_plans(baseline, candidate, findings);
  compare_tokenizers(*baseline.model, *candidate.model, findings);
  compare_weights(baseline, candidate, threads, findings);
  // What changes the function before what rounding explains.
  const auto is_rounding = [](const Finding& f) { return f.reason == "weights.rounding"; };
  std::vector<Finding> rounding;
  std::ranges::copy_if(findings, std::back_inserter(rounding), is_rounding);
  std::erase_if(findings, is_rounding);
  std::ranges::move(rounding, std::back_inserter(findings));
  return findings;
}

}  // namespace plumb
