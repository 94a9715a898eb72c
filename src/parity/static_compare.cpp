// SPDX-License-Identifier: Apache-2.0
// What two model files say, before anything is run: config against config, each weight against its
// partner.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ranges>

#include "parity/parity.h"
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
     [](const Config& c) { return c.rope_linear_factor; }},
    {"rope.dimension_count", "rope.dimensions", "layer.0.attn.q_rope",
     [](const Config& c) { return static_cast<double>(c.rope_dimensions); }},
    {"attention.sliding_window", "attention.window", "layer.0.attn.weights",
     [](const Config& c) { return static_cast<double>(c.window); }},
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

// --- Weights
// ----------------------------------------------------------------------------------------------------

struct WeightClass {
  std::string reason;  // empty: the same values
  std::string text;
  std::map<std::string, std::string> parameters;
};

double relative_l2(std::span<const float> a, std::span<const float> b) {
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(a[i]), 2);
  }
  return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

// The largest error that storing x in `type` can make, for a block with the largest magnitude
// `largest`: half a step of its quantization (a whole one where the scale itself is rounded), or
// half a unit in the last place.
double rounding_limit(DType type, double x, double largest) {
  switch (type) {
    case DType::F32: return 0;
    case DType::F16: return std::max(std::fabs(x) * 0x1p-11, 0x1p-25);
    case DType::BF16: return std::fabs(x) * 0x1p-8;
    case DType::Q8_0: return largest / 127;
    case DType::Q6_K: return largest / 31 * 1.5;
    default: return largest / 7;  // 4 bits: 15 steps from end to end
  }
}

// Whether every value differs by no more than the coarser of the two types rounds.
bool within_rounding(const Weight& a, const Weight& b, std::span<const float> x,
                     std::span<const float> y) {
  const auto coarser = [](const Weight& w) {
    return static_cast<double>(info(w.dtype).block_bytes) /
           static_cast<double>(info(w.dtype).block_elements);
  };
  if (a.dtype == b.dtype) return false;  // stored alike, the values themselves differ
  const DType type = coarser(a) <= coarser(b) ? a.dtype : b.dtype;
  const size_t block = std::max<size_t>(info(type).block_elements, 1);
  for (size_t begin = 0; begin < x.size(); begin += block) {
    double largest = 0;
    const size_t end = std::min(x.size(), begin + block);
    for (size_t i = begin; i < end; ++i)
      largest = std::max(
          {largest, std::fabs(static_cast<double>(x[i])), std::fabs(static_cast<double>(y[i]))});
    for (size_t i = begin; i < end; ++i)
      if (std::fabs(static_cast<double>(x[i]) - static_cast<double>(y[i])) >
          rounding_limit(type, static_cast<double>(x[i]), largest))
        return false;
  }
  return true;
}

// Each row of b as a row of a: the permutation, or nothing if some row has no exact partner.
std::optional<std::vector<size_t>> row_permutation(const Weight& a, std::span<const float> x,
                                                   std::span<const float> y) {
  std::map<std::vector<float>, std::vector<size_t>> rows;
  const size_t n = a.columns;
  for (size_t r = 0; r < a.rows; ++r)
    rows[{x.begin() + static_cast<ptrdiff_t>(r * n),
          x.begin() + static_cast<ptrdiff_t>((r + 1) * n)}]
        .push_back(r);
  std::vector<size_t> order;
  for (size_t r = 0; r < a.rows; ++r) {
    const auto found = rows.find({y.begin() + static_cast<ptrdiff_t>(r * n),
                                  y.begin() + static_cast<ptrdiff_t>((r + 1) * n)});
    if (found == rows.end() || found->second.empty()) return {};
    order.push_back(found->second.front());
    found->second.erase(found->second.begin());
  }
  return order;
}

bool is_transposed(const Weight& a, std::span<const float> x, std::span<const float> y) {
  for (size_t r = 0; r < a.rows; ++r)
    for (size_t c = 0; c < a.columns; ++c)
      if (x[r * a.columns + c] != y[c * a.rows + r]) return false;
  return true;
}

WeightClass few_or_unrelated(const Weight& a, std::span<const float> x, std::span<const float> y) {
  size_t different = 0;
  size_t first = x.size();
  double cross = 0;
  double xx = 0;
  double yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] != y[i] && different++ == 0) first = i;
    cross += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    xx += std::pow(static_cast<double>(x[i]), 2);
    yy += std::pow(static_cast<double>(y[i]), 2);
  }
  const double cosine = cross / std::sqrt(xx * yy);
  const auto place =
      fmt::format("first at row {}, column {}: {:.6g} and {:.6g}", first / a.columns,
                  first % a.columns, static_cast<double>(x[first]), static_cast<double>(y[first]));
  if (different * 100 <= x.size())
    return {"weights.elements",
            fmt::format("{} of {} values differ, {}", different, x.size(), place),
            {{"count", fmt::format("{}", different)}}};
  if (cosine > 0.9)
    return {"weights.different",
            fmt::format("{} of {} values differ by more than rounding, relative L2 {:.3g}, {}",
                        different, x.size(), relative_l2(x, y), place),
            {}};
  return {"weights.unrelated", fmt::format("the values are unrelated (cosine {:.3g})", cosine), {}};
}

WeightClass classify(const Weight& a, const Weight& b) {
  if (a.dtype == b.dtype && a.bytes.size() == b.bytes.size() &&
      std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0)
    return {};
  if (a.rows * a.columns != b.rows * b.columns)
    return {"weights.shape",
            fmt::format("{}x{} against {}x{}", a.rows, a.columns, b.rows, b.columns),
            {}};
  const auto x = a.values();
  const auto y = b.values();
  if (std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0) return {};
  if (a.rows > 1 && a.rows == b.columns && a.columns == b.rows && is_transposed(a, x, y))
    return {"weights.transposed", "the matrix is transposed", {}};
  if (a.rows != b.rows)
    return {"weights.shape",
            fmt::format("{}x{} against {}x{}", a.rows, a.columns, b.rows, b.columns),
            {}};
  if (within_rounding(a, b, x, y))
    return {"weights.rounding",
            fmt::format("the same values up to rounding, {} against {}, relative L2 {:.3g}",
                        info(a.dtype).name, info(b.dtype).name, relative_l2(x, y)),
            {{"baseline", std::string(info(a.dtype).name)},
             {"candidate", std::string(info(b.dtype).name)}}};
  if (a.rows == 1 && std::ranges::all_of(std::views::iota(size_t{0}, x.size()), [&](size_t i) {
        return std::fabs(std::fabs(x[i] - y[i]) - 1.0F) < 1e-6F * (2 + std::fabs(x[i]));
      }))
    return {"weights.offset",
            fmt::format("every value is off by {:g}", static_cast<double>(std::round(y[0] - x[0]))),
            {}};
  if (x[0] != 0 && y[0] != 0) {
    const float ratio = y[0] / x[0];
    if (std::ranges::all_of(std::views::iota(size_t{0}, x.size()), [&](size_t i) {
          return std::fabs(y[i] - ratio * x[i]) <= 4e-7F * std::fabs(y[i]);
        }))
      return {"weights.scaled",
              fmt::format("every value is {:.7g} times the other", static_cast<double>(ratio)),
              {{"found", fmt::format("{:.7g}", static_cast<double>(ratio))}}};
  }
  if (a.rows > 1) {
    if (const auto order = row_permutation(a, x, y)) {
      const size_t moved = static_cast<size_t>(std::ranges::count_if(
          std::views::iota(size_t{0}, order->size()), [&](size_t r) { return (*order)[r] != r; }));
      return {"weights.rows_permuted",
              fmt::format("the same rows in another order ({} of {} moved; row 1 was row {})",
                          moved, order->size(), order->size() > 1 ? (*order)[1] : 0),
              {}};
    }
  }
  return few_or_unrelated(a, x, y);
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
  compare_tokenizers(*baseline.model, *candidate.model, findings);
  compare_weights(baseline, candidate, threads, findings);
  return findings;
}

}  // namespace plumb
