// SPDX-License-Identifier: Apache-2.0
#include "faults/catalogue.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "quant/dequantize.h"

namespace plumb {
namespace {

using Variants = std::vector<FaultVariant>;

const Step& step_of(const FaultContext& c) { return c.plan.steps[c.step]; }

FaultVariant variant(const Step& step, std::string expected, std::string found, std::string text) {
  return {step, {{"expected", std::move(expected)}, {"found", std::move(found)}}, std::move(text)};
}

std::string number(double x) { return fmt::format("{:.6g}", x); }

// The given value, or those that engines use by mistake; never the right one.
std::vector<double> candidates(const FaultContext& c, double right, std::vector<double> usual) {
  if (c.parameter) return *c.parameter == right ? std::vector<double>{} : std::vector{*c.parameter};
  std::erase_if(usual, [&](double x) {
    return x == right || std::fabs(x - right) <= 1e-6 * std::fabs(right);
  });
  return usual;
}

Variants rope_pairing(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  Step step = step_of(c);
  const bool neighbours = step.rope.pairing == RopePairing::Neighbours;
  step.rope.pairing = neighbours ? RopePairing::Halves : RopePairing::Neighbours;
  const size_t half = step.rope.dimensions / 2;
  const auto halves = fmt::format("halves (i, i+{})", half);
  const std::string pairs = "neighbours (2i, 2i+1)";
  Variants all = {variant(step, neighbours ? "neighbours" : "halves",
                          neighbours ? "halves" : "neighbours",
                          fmt::format("it rotates {}; this model file pairs {}",
                                      neighbours ? halves : pairs, neighbours ? pairs : halves))};
  if (!neighbours) return all;
  step.rope.pairing = RopePairing::NeighboursOfHalves;
  all.push_back(variant(
      step, "halves", "neighbours",
      fmt::format("it rotates {} of a checkpoint whose rows are made for {}", pairs, halves)));
  return all;
}

Variants rope_theta(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  Variants all;
  for (const double base :
       candidates(c, step_of(c).rope.base,
                  {10000, 100000, 500000, 1000000, 5000000, 10000000, 20000, 50000, 130000})) {
    if (base <= 0) continue;
    Step step = step_of(c);
    step.rope.base = base;
    all.push_back(variant(step, number(step_of(c).rope.base), number(base),
                          fmt::format("it rotates with theta {}; the file says {}", number(base),
                                      number(step_of(c).rope.base))));
  }
  return all;
}

Variants rope_missing(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  Step step = step_of(c);
  step.rope.dimensions = 0;
  return {variant(step, "rotated", "not rotated", "the values are those before the rotation")};
}

Variants rope_position(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  Variants all;
  for (const double shift : candidates(c, 0, {1, -1})) {
    Step step = step_of(c);
    step.rope.position_shift = static_cast<int32_t>(shift);
    all.push_back(variant(step, "0", number(shift),
                          fmt::format("every position is off by {}", number(shift))));
  }
  return all;
}

Variants norm_epsilon(const FaultContext& c) {
  if (!is_norm(step_of(c).op)) return {};
  std::vector<double> usual = {1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 0, 1e-3, 1e-4};
  usual.insert(usual.end(), c.fitted_epsilons.begin(), c.fitted_epsilons.end());
  Variants all;
  for (const double epsilon : candidates(c, step_of(c).epsilon, usual)) {
    if (!(epsilon >= 0)) continue;
    Step step = step_of(c);
    step.epsilon = epsilon;
    all.push_back(variant(step, number(step_of(c).epsilon), number(epsilon),
                          fmt::format("epsilon is {}; the file says {}", number(epsilon),
                                      number(step_of(c).epsilon))));
  }
  return all;
}

Variants norm_gamma_skipped(const FaultContext& c) {
  if (!is_norm(step_of(c).op) || !step_of(c).weight) return {};
  Step step = step_of(c);
  step.use_gamma = false;
  return {variant(step, step.weight->name, "none",
                  fmt::format("the norm's weight {} is not applied", step.weight->name))};
}

Variants bias_skipped(const FaultContext& c) {
  Step step = step_of(c);
  const auto bias = step.op == Op::Bias ? step.weight : step.bias;
  if (!bias) return {};
  if (step.op == Op::Bias) {
    auto zeros = std::make_shared<Weight>(*bias);
    zeros->dtype = DType::F32;
    zeros->storage.assign(bias->columns * sizeof(float), std::byte{0});
    zeros->bytes = zeros->storage;
    step.weight = std::move(zeros);
  } else {
    step.bias = nullptr;
  }
  return {variant(step, bias->name, "none", fmt::format("the bias {} is not added", bias->name))};
}

// A weight of the same shape that belongs to another step of the same layer: gate and up swapped,
// the other norm.
Variants weights_swapped(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!right.weight || right.op == Op::Embedding || !right.name.starts_with("layer.")) return {};
  const auto layer = right.name.substr(0, right.name.find('.', 6) + 1);
  Variants all;
  for (const auto& other : c.plan.steps) {
    if (!other.name.starts_with(layer) || other.op != right.op || !other.weight ||
        other.weight == right.weight)
      continue;
    if (other.weight->rows != right.weight->rows || other.weight->columns != right.weight->columns)
      continue;
    Step step = right;
    step.weight = other.weight;
    all.push_back(variant(step, right.weight->name, other.weight->name,
                          fmt::format("it uses the weight {} in place of {}", other.weight->name,
                                      right.weight->name)));
  }
  return all;
}

std::shared_ptr<Weight> weight_of_floats(const Weight& like, const std::vector<float>& values) {
  auto weight = std::make_shared<Weight>(like);
  weight->dtype = DType::F32;
  weight->storage.resize(values.size() * sizeof(float));
  std::memcpy(weight->storage.data(), values.data(), weight->storage.size());
  weight->bytes = weight->storage;
  return weight;
}

// The kernel takes the matrix for its transpose: element (j, i) is read at i * rows + j.
Variants weights_transposed(const FaultContext& c) {
  Step step = step_of(c);
  if (step.op != Op::MatMul) return {};
  const auto right = step.weight->values();
  std::vector<float> read(right.size());
  const size_t rows = step.weight->rows;
  const size_t columns = step.weight->columns;
  for (size_t j = 0; j < rows; ++j)
    for (size_t i = 0; i < columns; ++i) read[j * columns + i] = right[i * rows + j];
  step.weight = weight_of_floats(*step.weight, read);
  return {variant(
      step, "rows x columns", "columns x rows",
      fmt::format("the matrix {} ({}x{}) is read transposed", step.weight->name, rows, columns))};
}

// Rows of q or k within each head in another order: a converter that did not make neighbours of
// halves, or did it twice.
Variants weights_rope_rows(const FaultContext& c) {
  const Step& right = step_of(c);
  const size_t head = c.model.config.head_dim;
  const bool turned = right.name.find(".attn.q") != std::string::npos ||
                      right.name.find(".attn.k") != std::string::npos;
  if (right.op != Op::MatMul || !turned || head == 0 || right.weight->rows % head != 0) return {};
  const auto permuted = [&](const Weight& weight, bool back) {
    const auto values = weight.values();
    const size_t columns = weight.is_vector() ? 1 : weight.columns;
    std::vector<float> out(values.size());
    for (size_t row = 0; row < values.size() / columns; ++row) {
      const size_t i = row % head;
      const size_t to = i < head / 2 ? 2 * i : 2 * (i - head / 2) + 1;
      const size_t other = row - i + to;
      std::copy_n(values.begin() + static_cast<ptrdiff_t>((back ? other : row) * columns), columns,
                  out.begin() + static_cast<ptrdiff_t>((back ? row : other) * columns));
    }
    return weight_of_floats(weight, out);
  };
  Variants all;
  for (const bool back : {true, false}) {
    Step step = right;
    step.weight = permuted(*right.weight, back);
    if (right.bias) step.bias = permuted(*right.bias, back);
    all.push_back(variant(
        step, "as in the file", back ? "neighbours → halves" : "halves → neighbours",
        fmt::format("the rows of each head of {} are in another order ({})", right.weight->name,
                    back ? "halves where the file has neighbours"
                         : "neighbours made of what the file has once more")));
  }
  return all;
}

// Low and high halves of each byte exchanged, in the types that pack two values into one byte.
Variants weights_nibbles(const FaultContext& c) {
  Step step = step_of(c);
  if (!step.weight || step.op == Op::Embedding) return {};
  size_t skip = 0;  // bytes of scales before the packed values
  switch (step.weight->dtype) {
    case DType::Q4_0: skip = 2; break;
    case DType::Q4_1: skip = 4; break;
    case DType::Q4_K: skip = 16; break;
    default: return {};
  }
  auto weight = std::make_shared<Weight>(*step.weight);
  weight->storage.assign(step.weight->bytes.begin(), step.weight->bytes.end());
  const size_t block = info(weight->dtype).block_bytes;
  for (size_t i = 0; i < weight->storage.size(); ++i) {
    auto& byte = weight->storage[i];
    if (i % block >= skip) byte = (byte << 4) | (byte >> 4);
  }
  weight->bytes = weight->storage;
  step.weight = std::move(weight);
  return {variant(step, "low nibble first", "high nibble first",
                  fmt::format("the nibbles of {} ({}) are taken in the wrong order",
                              step.weight->name, info(step.weight->dtype).name))};
}

// The bytes of the tensor go through the kernel of another block type; what it needs beyond the
// tensor it takes from whatever lies behind it in the file.
Variants weights_block_type(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::MatMul || !is_quantized(right.weight->dtype)) return {};
  const auto* data = right.weight->bytes.data();
  std::span<const std::byte> file;  // the one that holds the tensor
  for (const auto& part : c.model.file->parts)
    if (const auto bytes = part.file.bytes();
        data >= bytes.data() && data < bytes.data() + bytes.size())
      file = bytes;
  if (file.empty()) return {};
  const auto left = static_cast<size_t>(file.data() + file.size() - data);
  const size_t count = right.weight->rows * right.weight->columns;
  Variants all;
  for (const DType dtype : {DType::Q6_K, DType::Q4_K, DType::Q4_0, DType::Q4_1, DType::Q8_0}) {
    if (dtype == right.weight->dtype || right.weight->columns % info(dtype).block_elements != 0 ||
        bytes_of(dtype, count) > left)
      continue;
    auto weight = std::make_shared<Weight>(*right.weight);
    weight->dtype = dtype;
    weight->bytes = {data, bytes_of(dtype, count)};
    Step step = right;
    step.weight = std::move(weight);
    all.push_back(
        variant(step, std::string(info(right.weight->dtype).name), std::string(info(dtype).name),
                fmt::format("the {} blocks of {} are read as {}", info(right.weight->dtype).name,
                            right.weight->name, info(dtype).name)));
  }
  return all;
}

Variants attention_head_map(const FaultContext& c) {
  Step step = step_of(c);
  if ((step.op != Op::Scores && step.op != Op::Mix) || step.attention.kv_heads == 1 ||
      step.attention.kv_heads == step.attention.heads)
    return {};
  step.attention.head_map = HeadMap::Modulo;
  return {variant(
      step, "h / group", "h % kv_heads",
      fmt::format("query head h reads KV head h % {}; the model groups them: h / {}",
                  step.attention.kv_heads, step.attention.heads / step.attention.kv_heads))};
}

Variants attention_scale(const FaultContext& c) {
  if (step_of(c).op != Op::Scores) return {};
  const auto& a = step_of(c).attention;
  const auto dim = static_cast<double>(a.head_dim);
  Variants all;
  for (const double scale : candidates(
           c, a.scale,
           {1.0, 1 / dim, 1 / std::sqrt(dim * static_cast<double>(a.heads)),
            1 / std::sqrt(static_cast<double>(c.model.config.width) / static_cast<double>(a.heads)),
            std::sqrt(dim)})) {
    Step step = step_of(c);
    step.attention.scale = scale;
    all.push_back(variant(step, number(a.scale), number(scale),
                          fmt::format("scores are scaled by {}; the model asks for {} (ratio {})",
                                      number(scale), number(a.scale), number(scale / a.scale))));
  }
  return all;
}

Variants attention_mask(const FaultContext& c) {
  Step step = step_of(c);
  if (step.op != Op::Softmax) return {};
  step.attention.causal = false;
  return {variant(step, "causal", "none",
                  "queries see keys behind them: the causal mask is missing in the prefill")};
}

Variants attention_window(const FaultContext& c) {
  if (step_of(c).op != Op::Softmax) return {};
  const auto right = static_cast<double>(step_of(c).attention.window);
  std::vector<double> usual;
  if (right > 0) usual = {right + 1, right - 1, 0};
  else if (c.first_position && *c.first_position > 0)
    usual = {static_cast<double>(*c.first_position)};
  Variants all;
  for (const double window : candidates(c, right, usual)) {
    if (window < 0) continue;
    Step step = step_of(c);
    step.attention.window = static_cast<size_t>(window);
    all.push_back(variant(
        step, right == 0 ? "none" : number(right), window == 0 ? "none" : number(window),
        fmt::format("a query sees {} keys; the model says {}", window == 0 ? "all" : number(window),
                    right == 0 ? "all" : number(right))));
  }
  return all;
}

Variants kv_stale_row(const FaultContext& c) {
  if (step_of(c).op != Op::Scores && step_of(c).op != Op::Mix) return {};
  std::vector<double> usual;
  if (c.first_position && *c.first_position > 0) usual = {static_cast<double>(*c.first_position)};
  Variants all;
  for (const double position : candidates(c, 0, usual)) {
    if (position < 1) continue;
    Step step = step_of(c);
    step.attention.stale_position = static_cast<int32_t>(position);
    all.push_back(variant(
        step, "the row of the position", "the row before it",
        fmt::format("the {} cache was not written at position {}: the row before it is read",
                    step.op == Op::Scores ? "K" : "V", number(position))));
    all.back().parameters["position"] = number(position);
  }
  return all;
}

std::string cap_text(double cap) { return cap == 0 ? "none" : number(cap); }

// The soft cap of the scores or of the logits: left out, or the model's other one.
Variants cap(const FaultContext& c, bool missing) {
  const Step& right = step_of(c);
  const bool scores = right.op == Op::Scores;
  if (!scores && right.op != Op::SoftCap) return {};
  const double have = scores ? right.attention.softcap : right.factor;
  std::vector<double> usual = {0};
  if (!missing) usual = {30, 50, 20, have * have, 1 / have};
  if (missing && have == 0) return {};
  Variants all;
  for (const double found : candidates(c, have, usual)) {
    if (found < 0 || !std::isfinite(found) || missing != (found == 0)) continue;
    Step step = right;
    if (scores) {
      step.attention.softcap = found;
    } else {
      step.op = found == 0 ? Op::Scale : Op::SoftCap;
      step.factor = found == 0 ? 1 : found;
    }
    all.push_back(variant(step, cap_text(have), cap_text(found),
                          found == 0
                              ? fmt::format("the soft cap of {} is not applied", number(have))
                              : fmt::format("the soft cap is {}; the model asks for {}",
                                            number(found), cap_text(have))));
  }
  return all;
}
Variants cap_missing(const FaultContext& c) { return cap(c, true); }
Variants cap_value(const FaultContext& c) { return cap(c, false); }

const char* activation_name(Op op) {
  switch (op) {
    case Op::Silu: return "SiLU";
    case Op::GeluTanh: return "GELU (tanh)";
    case Op::GeluErf: return "GELU (erf)";
    default: return "sigmoid";
  }
}

// Another function than the one that the model names; the two GELUs are told apart.
Variants activation_function(const FaultContext& c) {
  const Step& right = step_of(c);
  const std::vector<Op> functions = {Op::Silu, Op::GeluTanh, Op::GeluErf, Op::Sigmoid};
  if (std::ranges::find(functions, right.op) == functions.end()) return {};
  Variants all;
  for (const Op op : functions) {
    if (op == right.op) continue;
    Step step = right;
    step.op = op;
    all.push_back(variant(step, activation_name(right.op), activation_name(op),
                          fmt::format("the activation is {}; the model asks for {}",
                                      activation_name(op), activation_name(right.op))));
  }
  return all;
}

// A step that gives one of its inputs as it is.
Step passed_on(const Step& right, size_t input) {
  Step step = right;
  step.op = Op::Scale;
  step.factor = 1;
  step.inputs = {right.inputs[input]};
  step.weight = step.bias = nullptr;
  return step;
}

Variants positions_missing(const FaultContext& c) {
  if (step_of(c).op != Op::Positions) return {};
  return {
      variant(passed_on(step_of(c), 0), step_of(c).weight->name, "none",
              fmt::format("the row of the position in {} is not added", step_of(c).weight->name))};
}

Variants residual_missing(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Add) return {};
  Variants all;
  for (const size_t kept : {size_t{1}, size_t{0}}) {
    const auto& other = c.plan.steps[right.inputs[1 - kept]].name;
    all.push_back(variant(passed_on(right, kept), "the sum", c.plan.steps[right.inputs[kept]].name,
                          fmt::format("{} is not added", other)));
  }
  return all;
}

// A scale that is left out, inverted or applied twice: of the embedding, the residual, the logits.
Variants scale_value(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Scale) return {};
  Variants all;
  for (const double factor :
       candidates(c, right.factor, {1, 1 / right.factor, right.factor * right.factor})) {
    Step step = right;
    step.factor = factor;
    all.push_back(variant(step, number(right.factor), number(factor),
                          factor == 1
                              ? fmt::format("the scale {} is not applied", number(right.factor))
                              : fmt::format("the scale is {}; the model asks for {}",
                                            number(factor), number(right.factor))));
  }
  return all;
}

// Mean and variance where the model has the root mean square alone, or the other way round.
Variants norm_kind(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_norm(right.op)) return {};
  const bool layer = right.op == Op::LayerNorm;
  Step step = right;
  step.op = layer ? Op::RmsNorm : Op::LayerNorm;
  Variants all = {
      variant(step, layer ? "layer norm" : "RMS norm", layer ? "RMS norm" : "layer norm",
              fmt::format("the mean is {} the values", layer ? "not taken from" : "taken from"))};
  if (!layer || !right.bias) return all;
  step.bias = nullptr;
  all.push_back(variant(step, "layer norm", "RMS norm without bias",
                        "the mean is not taken from the values, and the bias not added"));
  return all;
}

// Weights of Gemma are stored less 1 in checkpoints, whole in a GGUF.
Variants norm_offset(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_norm(right.op) || !right.weight) return {};
  Variants all;
  for (const double offset : candidates(c, 0, {1, -1})) {
    auto values = right.weight->values();
    for (auto& value : values) value += static_cast<float>(offset);
    Step step = right;
    step.weight = weight_of_floats(*right.weight, values);
    all.push_back(variant(step, "w", offset > 0 ? "1 + w" : "w - 1",
                          fmt::format("the norm multiplies by {}; the file's weight is {} as it is",
                                      offset > 0 ? "1 + w" : "w - 1", right.weight->name)));
  }
  return all;
}

// All values of a row in place of each head, or each head in place of the row.
Variants norm_group_size(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_norm(right.op) || !right.weight) return {};
  const size_t head = c.model.config.head_dim;
  const size_t have = norm_group(right);
  const size_t other = have == right.width ? head : right.width;
  if (other == have || other == 0 || right.width % other != 0) return {};
  Step step = right;
  step.group = other;
  if (right.weight->count() != have && right.weight->count() != right.width) return {};
  return {variant(step, number(static_cast<double>(have)), number(static_cast<double>(other)),
                  fmt::format("it norms {} values together; the model {}", other, have))};
}

// What a scaling of RoPE does, left out: one part, or all.
Variants rope_scaling(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Rope) return {};
  Step plain = right;
  plain.rope.linear_factor = 1;
  plain.rope.factors = nullptr;
  plain.rope.yarn.reset();
  plain.rope.magnitude = 1;
  if (plain.rope == right.rope) return {};
  // A GGUF may have no word for it, only the factors.
  auto kind = c.model.config.rope_scaling.type;
  if (right.rope.factors && (kind.empty() || kind == "none")) kind = "factors of frequencies";
  Variants all = {
      variant(plain, kind, "none", fmt::format("the scaling of RoPE ({}) is not applied", kind))};
  if (right.rope.magnitude != 1) {
    Step step = right;
    step.rope.magnitude = 1;
    all.push_back(variant(step, number(right.rope.magnitude), "1",
                          "cosine and sine are not multiplied by the scaling's magnitude"));
    plain.rope.magnitude = right.rope.magnitude;
    all.push_back(variant(plain, "frequencies scaled", "magnitude alone",
                          "the frequencies of RoPE are not scaled"));
  }
  return all;
}

Variants rope_dimensions(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Rope) return {};
  const auto head = static_cast<double>(right.head_dim);
  Variants all;
  for (const double dimensions :
       candidates(c, static_cast<double>(right.rope.dimensions), {head, head / 2, head / 4})) {
    if (dimensions < 2 || dimensions > head || std::fmod(dimensions, 2) != 0 || right.rope.factors)
      continue;
    Step step = right;
    step.rope.dimensions = static_cast<size_t>(dimensions);
    all.push_back(variant(step, number(static_cast<double>(right.rope.dimensions)),
                          number(dimensions),
                          fmt::format("it rotates {} values of a head; the model {}",
                                      number(dimensions), right.rope.dimensions)));
  }
  return all;
}

Variants alibi_missing(const FaultContext& c) {
  Step step = step_of(c);
  if (step.op != Op::Scores || step.attention.alibi_max_bias == 0) return {};
  step.attention.alibi_max_bias = 0;
  return {variant(step, "ALiBi", "none", "scores do not fall with the distance (ALiBi)")};
}

Variants temperature_missing(const FaultContext& c) {
  Step step = step_of(c);
  if (step.op != Op::Scores || step.attention.temperature_beta == 0) return {};
  step.attention.temperature_beta = 0;
  return {variant(step, "by position", "none", "the temperature of late positions is not applied")};
}

Variants experts_normalize(const FaultContext& c) {
  Step step = step_of(c);
  if (step.op != Op::ExpertWeights) return {};
  const bool right = step.experts.normalize;
  step.experts.normalize = !right;
  return {variant(
      step, right ? "sum 1" : "as they are", right ? "as they are" : "sum 1",
      right ? "the weights of the chosen experts are not brought to the sum 1"
            : "the weights of the chosen experts are brought to the sum 1; the model leaves them")};
}

// For injection only: replay sees a single wrong value as a clue, and fits a constant ratio by
// itself.
Variants value_element(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!c.parameter || right.width == 0) return {};
  Step step = right;
  step.edit = ValueEdit{.position = static_cast<int32_t>(*c.parameter),
                        .channel = right.width / 3,
                        .multiply = 1.5,
                        .add = 0.5};
  return {variant(
      step, "x", "1.5 x + 0.5",
      fmt::format("channel {} of position {} is wrong", right.width / 3, number(*c.parameter)))};
}

Variants value_scaled(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!c.parameter || *c.parameter == 1 || right.width == 0) return {};
  Step step = right;
  step.gain = *c.parameter;
  return {variant(step, "1", fmt::format("{:.9g}", *c.parameter),
                  fmt::format("every value is multiplied by {:.9g}", *c.parameter))};
}

std::vector<Fault> make_catalogue() {
  return {
      {"rope.pairing", "pairs of channels are taken the other way", "attn.q_rope attn.k_rope",
       rope_pairing},
      {"rope.theta", "another base of the frequencies (parameter: the base)",
       "attn.q_rope attn.k_rope", rope_theta},
      {"rope.missing", "no rotation", "attn.q_rope attn.k_rope", rope_missing},
      {"rope.position", "positions are shifted (parameter: by how much)", "attn.q_rope attn.k_rope",
       rope_position},
      {"norm.epsilon", "another epsilon (parameter: its value)", "attn.norm ffn.norm final.norm",
       norm_epsilon},
      {"norm.gamma_skipped", "the norm's weight is not applied", "attn.norm ffn.norm final.norm",
       norm_gamma_skipped},
      {"bias.skipped", "the bias is not added", "projections with a bias", bias_skipped},
      {"weights.swapped", "the weight of another step of the layer (gate for up, the other norm)",
       "steps with a weight", weights_swapped},
      {"attention.head_map", "query heads read the wrong KV head", "attn.scores attn.mix",
       attention_head_map},
      {"attention.scale", "another scale of the scores (parameter: the scale)", "attn.scores",
       attention_scale},
      {"attention.mask", "no causal mask in the prefill", "attn.weights", attention_mask},
      {"attention.window", "another sliding window (parameter: its keys)", "attn.weights",
       attention_window},
      {"positions.missing", "learned positions are not added", "embedding", positions_missing},
      {"residual.missing", "one part of the sum is not added", "residuals", residual_missing},
      {"scale.value", "a scale left out, inverted or applied twice (parameter: the scale)",
       "embedding attn.out_scaled ffn.out_scaled logits", scale_value},
      {"norm.kind", "layer norm for RMS norm or the other way", "norms", norm_kind},
      {"norm.offset", "1 + w for w, or w - 1 (parameter: the offset)", "norms", norm_offset},
      {"norm.group", "the row is normed for each head or the other way", "attn.q_norm attn.k_norm",
       norm_group_size},
      {"rope.scaling", "the scaling of RoPE is not applied", "attn.q_rope attn.k_rope",
       rope_scaling},
      {"rope.dimensions", "another part of each head is rotated (parameter: its values)",
       "attn.q_rope attn.k_rope", rope_dimensions},
      {"alibi.missing", "scores without ALiBi", "attn.scores", alibi_missing},
      {"temperature.missing", "scores without their temperature", "attn.scores",
       temperature_missing},
      {"experts.normalize", "weights of experts normalized or not", "ffn.expert_weights",
       experts_normalize},
      {"cap.missing", "the soft cap is not applied", "attn.scores logits", cap_missing},
      {"cap.value", "another soft cap (parameter: the cap)", "attn.scores logits", cap_value},
      {"activation.function", "another activation function, or the other GELU", "ffn.act",
       activation_function},
      {"kv.stale_row", "one row of the cache holds the row before it (parameter: its position)",
       "attn.scores attn.mix", kv_stale_row},
      {"weights.nibbles", "4-bit values are unpacked in the wrong order",
       "projections in Q4_0, Q4_1, Q4_K", weights_nibbles},
      {"weights.block_type", "blocks are read as those of another type",
       "projections with block types", weights_block_type},
      {"weights.rope_rows", "rows of each head in another order: permuted for RoPE twice, or not",
       "attn.q attn.k", weights_rope_rows},
      {"weights.transposed", "the matrix is read transposed", "projections", weights_transposed},
      {"value.scaled", "every value is multiplied (parameter: the factor)", "any recorded step",
       value_scaled},
      {"value.element", "one value is wrong (parameter: its position)", "any recorded step",
       value_element},
  };
}

Result<double> parse_number(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    return fail(ErrorCode::Usage, fmt::format("'{}' is not a number", text));
  return value;
}

std::string known_faults() {
  std::string names;
  for (const auto& fault : fault_catalogue()) names += (names.empty() ? "" : ", ") + fault.name;
  return names;
}

}  // namespace

const std::vector<Fault>& fault_catalogue() {
  static const std::vector<Fault> catalogue = make_catalogue();
  return catalogue;
}

Result<std::string> inject(const std::string& text, const Model& model, Plan& plan) {
  const size_t at = text.find('@');
  if (at == std::string::npos)
    return fail(ErrorCode::Usage,
                fmt::format("--inject '{}' must be NAME@STEP or NAME@STEP:PARAMETER", text));
  const auto name = text.substr(0, at);
  const size_t colon = text.find(':', at);
  const auto step_name = text.substr(at + 1, colon == std::string::npos ? colon : colon - at - 1);
  const auto fault = std::ranges::find(fault_catalogue(), name, &Fault::name);
  if (fault == fault_catalogue().end())
    return fail(ErrorCode::Usage,
                fmt::format("--inject: there is no fault '{}' (known: {})", name, known_faults()));
  const auto index = plan.find(step_name);
  if (!index)
    return fail(ErrorCode::Usage, fmt::format("--inject: this model has no step '{}'", step_name));
  FaultContext context{.model = model,
                       .plan = plan,
                       .step = *index,
                       .parameter = {},
                       .first_position = {},
                       .fitted_epsilons = {}};
  if (colon != std::string::npos) {
    TRY_ASSIGN(context.parameter, parse_number(text.substr(colon + 1)));
  }
  auto variants = fault->variants(context);
  if (variants.empty())
    return fail(ErrorCode::Usage,
                fmt::format("--inject: '{}' does not apply to {}{} (it is for {})", name, step_name,
                            context.parameter ? " with this parameter" : ", or needs a parameter",
                            fault->steps));
  plan.steps[*index] = variants[0].step;
  return fmt::format("{} at {}: {}", name, step_name, variants[0].text);
}

}  // namespace plumb
