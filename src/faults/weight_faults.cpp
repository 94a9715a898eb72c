// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "faults/build.h"
#include "quant/dequantize.h"

namespace plumb::faults {
namespace {

bool is_matrix(const Step& step) { return is_product(step.op) && step.weight != nullptr; }

// A copy of a weight whose rows stand in another order; `source` gives the row that is read for
// each; nothing: zeros.
WeightPtr with_rows(const Weight& right,
                    const std::function<std::optional<size_t>(size_t row)>& source) {
  auto copy = weight_of_bytes(right);
  const size_t bytes = bytes_of(right.dtype, right.columns);
  for (size_t m = 0; m < right.matrices; ++m)
    for (size_t row = 0; row < right.rows; ++row) {
      const auto from = source(row);
      auto* to = copy->storage.data() + (m * right.rows + row) * bytes;
      if (from) std::memcpy(to, right.row(m * right.rows + *from), bytes);
      else std::memset(to, 0, bytes);
    }
  return copy;
}

FaultVariant with_weight(const Step& right, std::function<WeightPtr()> make, std::string expected,
                         std::string found, std::string text) {
  return variant(
      [right, make] {
        Step step = right;
        step.weight = make();
        return step;
      },
      std::move(expected), std::move(found), std::move(text));
}

Variants bias_skipped(const FaultContext& c) {
  const Step& right = step_of(c);
  const auto bias = right.op == Op::Bias ? right.weight : right.bias;
  if (!bias) return {};
  Step step = right;
  if (right.op == Op::Bias)
    step.weight = weight_of_floats(*bias, std::vector<float>(bias->count(), 0.0F));
  else step.bias = nullptr;
  return {variant(step, bias->name, "none", fmt::format("the bias {} is not added", bias->name))};
}

Step with_bias(const Step& right, WeightPtr bias) {
  Step step = right;
  (right.op == Op::Bias ? step.weight : step.bias) = std::move(bias);
  return step;
}

Variants bias_twice(const FaultContext& c) {
  const Step& right = step_of(c);
  const auto bias = right.op == Op::Bias ? right.weight : right.bias;
  if (!bias) return {};
  auto values = bias->values();
  for (float& value : values) value *= 2;
  return {variant(with_bias(right, weight_of_floats(*bias, values)), "once", "twice",
                  fmt::format("the bias {} is added twice", bias->name))};
}

Variants bias_swapped(const FaultContext& c) {
  const Step& right = step_of(c);
  const auto bias_of = [](const Step& step) {
    return step.op == Op::Bias ? step.weight : step.bias;
  };
  const auto bias = bias_of(right);
  const auto layer = layer_prefix(right.name);
  if (!bias || layer.empty()) return {};
  Variants all;
  for (const auto& other : c.plan.steps) {
    const auto found = bias_of(other);
    if (!other.name.starts_with(layer) || !found || found == bias ||
        found->count() != bias->count())
      continue;
    all.push_back(
        variant(with_bias(right, found), bias->name, found->name,
                fmt::format("it adds the bias {} in place of {}", found->name, bias->name)));
  }
  return all;
}

// A weight of the same shape that belongs to another step of the same layer: gate and up swapped,
// the other norm.
Variants weights_swapped(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!right.weight || right.op == Op::Embedding || !right.name.starts_with("layer.")) return {};
  const auto layer = layer_prefix(right.name);
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

// The weight of the layer before or behind: a counter that is off by one, a cache by name.
Variants weights_layer(const FaultContext& c) {
  const Step& right = step_of(c);
  const auto prefix = layer_prefix(right.name);
  if (!right.weight || prefix.empty()) return {};
  const int layer = std::atoi(prefix.c_str() + 6);
  Variants all;
  for (const int other : {layer + 1, layer - 1}) {
    const auto at =
        c.plan.find(fmt::format("layer.{}.{}", other, right.name.substr(prefix.size())));
    if (!at || !c.plan.steps[*at].weight || c.plan.steps[*at].op != right.op) continue;
    const auto& weight = c.plan.steps[*at].weight;
    if (weight == right.weight || weight->rows != right.weight->rows ||
        weight->columns != right.weight->columns)
      continue;
    Step step = right;
    step.weight = weight;
    all.push_back(variant(step, right.weight->name, weight->name,
                          fmt::format("it uses the weight of layer {}: {} in place of {}", other,
                                      weight->name, right.weight->name)));
  }
  return all;
}

// Outside the layers: the embedding for an output head of its own, or the other way round.
Variants weights_tied(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!right.weight || !layer_prefix(right.name).empty()) return {};
  Variants all;
  for (const auto& other : c.plan.steps) {
    if (!other.weight || !layer_prefix(other.name).empty() || other.weight == right.weight ||
        other.weight->rows != right.weight->rows || other.weight->columns != right.weight->columns)
      continue;
    Step step = right;
    step.weight = other.weight;
    all.push_back(
        variant(step, right.weight->name, other.weight->name,
                fmt::format("it uses {} in place of {}", other.weight->name, right.weight->name)));
  }
  return all;
}

bool is_query_or_key(const Step& step) {
  return step.name.find(".attn.q") != std::string::npos ||
         step.name.find(".attn.k") != std::string::npos;
}

// Row `row` of a weight that pairs neighbours, in the order of an engine that pairs halves.
size_t neighbour_of_half(size_t row, size_t head_dim) {
  const size_t i = row % head_dim;
  return row - i + (i < head_dim / 2 ? 2 * i : 2 * (i - head_dim / 2) + 1);
}

// The kernel takes the matrix for its transpose: element (j, i) is read at i * rows + j. `order`
// gives the row of the file that an engine has at a row.
WeightPtr transposed(const Weight& weight, const std::function<size_t(size_t)>& order) {
  const auto values = weight.values();
  std::vector<float> read(values.size());
  const size_t rows = weight.rows;
  const size_t columns = weight.columns;
  for (size_t m = 0; m < weight.matrices; ++m)
    for (size_t j = 0; j < rows; ++j)
      for (size_t i = 0; i < columns; ++i) {
        const size_t at = i * rows + j;
        read[(m * rows + order(j)) * columns + i] =
            values[m * rows * columns + order(at / columns) * columns + at % columns];
      }
  return weight_of_floats(weight, read);
}

Variants weights_transposed(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_matrix(right)) return {};
  const auto make = [&](const std::function<size_t(size_t)>& order) {
    return with_weight(
        right, [weight = right.weight, order] { return transposed(*weight, order); },
        "rows x columns", "columns x rows",
        fmt::format("the matrix {} ({}x{}) is read transposed", right.weight->name,
                    right.weight->rows, right.weight->columns));
  };
  Variants all = {make([](size_t row) { return row; })};
  // Another engine has the rows of q and k in the order of its own rotation.
  const size_t dim = c.model.config.head_dim;
  if (is_query_or_key(right) && dim > 0 && dim % 2 == 0 && right.weight->rows % dim == 0)
    all.push_back(make([dim](size_t row) { return neighbour_of_half(row, dim); }));
  return all;
}

// Rows of q or k within each head in another order: a converter that did not make neighbours of
// halves, or did it twice, or with the wrong number of heads.
Variants weights_rope_rows(const FaultContext& c) {
  const Step& right = step_of(c);
  const size_t dim = c.model.config.head_dim;
  if (right.op != Op::MatMul || !is_query_or_key(right) || dim == 0) return {};
  Variants all;
  for (const size_t head : {dim, dim * 2, dim / 2})
    for (const bool back : {true, false}) {
      if (head < 4 || head % 2 != 0 || right.weight->rows % head != 0) continue;
      const auto source = [head, back](size_t row) {
        const size_t i = row % head;
        const size_t half = head / 2;
        const size_t in_head =
            back ? (i < half ? 2 * i : 2 * (i - half) + 1) : (i % 2 == 0 ? i / 2 : half + i / 2);
        return std::optional(row - i + in_head);
      };
      auto one = variant(
          [right, source] {
            Step step = right;
            step.weight = with_rows(*right.weight, source);
            if (!right.bias) return step;
            const auto values = right.bias->values();
            std::vector<float> moved(values.size());
            for (size_t row = 0; row < values.size(); ++row) moved[row] = values[*source(row)];
            step.bias = weight_of_floats(*right.bias, moved);
            return step;
          },
          "as in the file", back ? "neighbours → halves" : "halves → neighbours",
          fmt::format("the rows of each head of {} are in another order ({})", right.weight->name,
                      back ? "halves where the file has neighbours"
                           : "neighbours made of what the file has once more"));
      if (head != dim) {
        one.parameters["head_dim"] = number(head);
        one.text += fmt::format(", as if a head had {} values and not {}", head, dim);
      }
      all.push_back(std::move(one));
    }
  return all;
}

// Whole heads of q, k or v in another order.
Variants weights_heads(const FaultContext& c) {
  const Step& right = step_of(c);
  const size_t dim = c.model.config.head_dim;
  const bool of_heads = is_query_or_key(right) || right.name.find(".attn.v") != std::string::npos;
  if (right.op != Op::MatMul || !of_heads || dim == 0 || right.weight->rows % dim != 0) return {};
  const size_t heads = right.weight->rows / dim;
  if (heads < 2) return {};
  const auto order = [&](std::function<size_t(size_t)> head, const std::string& found) {
    const auto source = [=](size_t row) {
      return std::optional(head(row / dim) * dim + row % dim);
    };
    return with_weight(
        right, [=, weight = right.weight] { return with_rows(*weight, source); }, "0, 1, …", found,
        fmt::format("the heads of {} are in another order ({})", right.weight->name, found));
  };
  Variants all;
  if (c.fitted_order) {
    // Whole heads only, each value in its place.
    const auto& from = c.fitted_order->sources;
    if (from.size() != right.weight->rows) return {};
    std::vector<size_t> of_head(heads);
    for (size_t h = 0; h < heads; ++h) of_head[h] = from[h * dim] / dim;
    for (size_t row = 0; row < from.size(); ++row)
      if (from[row] != of_head[row / dim] * dim + row % dim) return {};
    return {order([of_head](size_t h) { return of_head[h]; },
                  fmt::format("{}", fmt::join(of_head, ", ")))};
  }
  const size_t group = c.model.config.heads / std::max<size_t>(c.model.config.kv_heads, 1);
  if (heads > 2 && group > 1 && heads % group == 0 && heads / group > 1)
    all.push_back(order([=](size_t h) { return h % (heads / group) * group + h / (heads / group); },
                        "by KV head first"));
  all.push_back(order([=](size_t h) { return heads - 1 - h; }, "the last first"));
  if (heads > 2)
    all.push_back(order([=](size_t h) { return (h + 1) % heads; }, "each one place early"));
  return all;
}

// Rows of several projections as one matrix holds them.
struct Fused {
  std::vector<WeightPtr> parts;
  std::vector<size_t> begin;  // of each part
  size_t rows = 0;

  std::pair<WeightPtr, size_t> at(size_t row) const {
    size_t part = parts.size() - 1;
    while (begin[part] > row) --part;
    return {parts[part], row - begin[part]};
  }
};

std::optional<Fused> fuse(const FaultContext& c, const std::vector<std::string>& names) {
  const Step& right = step_of(c);
  Fused fused;
  for (const auto& name : names) {
    auto at = c.plan.find(layer_prefix(right.name) + name + "_matmul");
    if (!at) at = c.plan.find(layer_prefix(right.name) + name);
    if (!at || c.plan.steps[*at].op != Op::MatMul) return {};
    const auto& weight = c.plan.steps[*at].weight;
    if (weight->dtype != right.weight->dtype || weight->columns != right.weight->columns) return {};
    fused.parts.push_back(weight);
    fused.begin.push_back(fused.rows);
    fused.rows += weight->rows;
  }
  return fused;
}

WeightPtr take_rows(const Weight& like, const Fused& fused,
                    const std::function<size_t(size_t row)>& source) {
  auto copy = weight_of_bytes(like);
  const size_t bytes = bytes_of(like.dtype, like.columns);
  for (size_t row = 0; row < like.rows; ++row) {
    const auto [part, at] = fused.at(source(row));
    std::memcpy(copy->storage.data() + row * bytes, part->row(at), bytes);
  }
  return copy;
}

// One matrix that holds q, k and v, or gate and up, taken apart in the wrong way: in equal thirds,
// head by head, row by row.
Variants weights_fused(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::MatMul || layer_prefix(right.name).empty()) return {};
  const size_t dim = c.model.config.head_dim;
  Variants all;
  const auto add = [&](const Fused& fused, std::function<size_t(size_t)> source, const char* found,
                       const std::string& text) {
    all.push_back(with_weight(
        right, [=, weight = right.weight] { return take_rows(*weight, fused, source); },
        "one part behind the other", found, text));
  };
  const auto index_of = [&](const Fused& fused) {
    return static_cast<size_t>(std::ranges::find(fused.parts, right.weight) - fused.parts.begin());
  };
  if (const auto qkv = fuse(c, {"attn.q", "attn.k", "attn.v"});
      qkv && index_of(*qkv) < 3 && dim > 0) {
    const size_t part = index_of(*qkv);
    const size_t third = qkv->rows / 3;
    if (part > 0 && part * third != qkv->begin[part] &&
        part * third + right.weight->rows <= qkv->rows)
      add(
          *qkv, [=](size_t row) { return part * third + row; }, "in equal thirds",
          "q, k and v are taken from equal thirds of one matrix");
    if (qkv->parts[0]->rows == qkv->parts[1]->rows)
      add(
          *qkv, [=](size_t row) { return (row / dim * 3 + part) * dim + row % dim; },
          "head by head", "q, k and v are taken from one matrix as if they stood head by head");
  }
  if (const auto both = fuse(c, {"ffn.gate", "ffn.up"}); both && index_of(*both) < 2) {
    const size_t part = index_of(*both);
    add(
        *both, [=](size_t row) { return 2 * row + part; }, "row by row",
        "gate and up are taken from one matrix as if their rows alternated");
  }
  return all;
}

// Rows at the end that a size rounded down leaves out.
Variants weights_last_rows(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_matrix(right)) return {};
  Variants all;
  for (const size_t count : whole_candidates(c, {1, 2, 4, 8, 16, 32, 64, 128}, 1)) {
    if (count >= right.weight->rows) continue;
    const size_t end = right.weight->rows - count;
    const auto source = [end](size_t row) { return row < end ? std::optional(row) : std::nullopt; };
    all.push_back(with_weight(
        right, [=, weight = right.weight] { return with_rows(*weight, source); }, "read", "0",
        fmt::format("the last {} rows of {} are taken for zeros", count, right.weight->name)));
  }
  return all;
}

// One element of the matrix: as it was read off the values, or the one at a third of both sides,
// moved by the parameter.
Variants weights_element(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_matrix(right) || right.op != Op::MatMul) return {};
  const auto& weight = right.weight;
  auto values = weight->values();
  FittedElement element{weight->rows / 3, weight->columns / 3, 0};
  if (c.fitted_element) element = *c.fitted_element;
  if (element.row >= weight->rows || element.column >= weight->columns) return {};
  float& at = values[element.row * weight->columns + element.column];
  const float file = at;
  if (!c.fitted_element) element.value = static_cast<double>(file) + c.parameter.value_or(1);
  at = static_cast<float>(element.value);
  if (at == file) return {};
  return {with_weight(
      right, [weight, values = std::move(values)] { return weight_of_floats(*weight, values); },
      fmt::format("{:.6g}", file), fmt::format("{:.6g}", at),
      fmt::format("one element of {} is another: row {}, column {}", weight->name, element.row,
                  element.column))};
}

}  // namespace

std::vector<Fault> weight_faults() {
  const char* heads = "attn.q attn.k attn.v attn.q_matmul attn.k_matmul attn.v_matmul";
  return {
      {"bias.skipped", "the bias is not added", "projections and norms with a bias", bias_skipped},
      {"bias.twice", "the bias is added twice", "projections and norms with a bias", bias_twice},
      {"bias.swapped", "the bias of another step", "projections and norms with a bias",
       bias_swapped},
      {"weights.swapped", "the weight of another step of the layer (gate for up, the other norm)",
       "steps with a weight", weights_swapped},
      {"weights.layer", "the weight of the layer before or behind", "steps with a weight",
       weights_layer},
      {"weights.tied", "the embedding for the output head, or another weight outside the layers",
       "embedding embedding_lookup final.norm logits logits_matmul", weights_tied},
      {"weights.rope_rows", "rows of each head in another order: permuted for RoPE twice, or not",
       "attn.q attn.k attn.q_matmul attn.k_matmul", weights_rope_rows},
      {"weights.heads", "heads in another order", heads, weights_heads},
      {"weights.fused", "a fused matrix taken apart in the wrong way",
       std::string(heads) + " ffn.gate ffn.up", weights_fused},
      {"weights.last_rows", "the last rows are zero (parameter: how many)", "projections",
       weights_last_rows},
      {"weights.transposed", "the matrix is read transposed", "projections", weights_transposed},
      {"weights.elements", "one element is another (parameter: by how much)",
       "projections but those of experts", weights_element},
  };
}

}  // namespace plumb::faults
