// SPDX-License-Identifier: Apache-2.0
#include "replay/replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "backends/referee/rounding.h"
#include "core/check.h"
#include "quant/dequantize.h"

namespace plumb {
namespace {

// A segment whose bound is larger than this share of its values can hide almost anything: it is not
// measured.
constexpr double kWidestBound = 0.1;
// Bounds grow with each step by absolute sums: behind two layers they are wider than the values.
constexpr size_t kLongestSegment = 40;

std::vector<int32_t> intersect(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  std::vector<int32_t> both;
  std::ranges::set_intersection(a, b, std::back_inserter(both));
  return both;
}

// Scores and Mix read their second input at every earlier position, all others at their own.
bool reads_history(const Step& step, size_t input) {
  return (step.op == Op::Scores || step.op == Op::Mix) && input == 1;
}

size_t row_width(const Step& step, size_t keys) {
  return is_on_request(step.op) ? step.attention.heads * keys : step.width;
}

// The positions from 0 on without a gap.
std::vector<int32_t> unbroken(std::vector<int32_t> positions) {
  size_t whole = 0;
  while (whole < positions.size() && positions[whole] == static_cast<int32_t>(whole)) ++whole;
  positions.resize(whole);
  return positions;
}

// A result that lies its bound away from the referee's is rounded at the size that it has there.
void round_moved(const Arithmetic& arithmetic, std::vector<double>& bounds) {
  const double unit = units_of(arithmetic).output;
  for (double& bound : bounds) bound *= 1 + unit;
}

double l2(std::span<const double> values) {
  return std::sqrt(std::transform_reduce(values.begin(), values.end(), 0.0, std::plus{},
                                         [](double x) { return x * x; }));
}

// Who works in a short type throughout has all weights of it; a norm may be computed in that of its
// input alone, and its result be of the weight's type (torch's autocast).
std::string made_inside(const Arithmetic& arithmetic) {
  return arithmetic.output == arithmetic.inside ? arithmetic.inside : "f32";
}

// What the weights of a step of the plan are made before it is computed: of a product, a scaled
// kind, or a float of fewer bits that is not the file's. Empty: nothing.
std::string made_weights(const Step& step, const Arithmetic& arithmetic,
                         const std::string& inside) {
  const auto& kind = arithmetic.weights;
  if (!is_product(step.op)) return {};
  if (is_scaled(kind)) return kind;
  const bool shorter = inside == "f32" && referee::is_short_float(kind) &&
                       kind != info(step.weight->dtype).short_name;
  return shorter ? kind : "";
}

}  // namespace

// How one evaluation is made, and what it computed on the way. Values are kept: in a segment,
// several steps read the same one.
struct Replayer::Evaluation {
  Attempt attempt;
  std::optional<std::pair<size_t, Step>> variant;
  bool want_bounds = true;
  std::vector<size_t> computed;
  std::map<std::pair<size_t, std::vector<int32_t>>, BoundedValue> kept;
};

Replayer::Replayer(const Model& model, const Plan& plan, const Trace& trace, Threads& threads)
    : model_(model),
      plan_(plan),
      trace_(trace),
      threads_(threads),
      weights_(model.config.architecture) {
  for (const auto& step : plan.steps) recorded_.push_back(trace.find(step.name));
  // ggml's names of its blocks.
  kv_cache_ = trace.provenance.kv_cache == "q8_0" ? "int8/32/f16scale" : trace.provenance.kv_cache;
  for (size_t i = 0; i < plan.steps.size(); ++i)
    supported_.push_back(is_input(i) ? recorded_[i]->positions
                                     : supported_from_inputs(plan_.steps[i]));
}

// Whether the recorded values can be what later steps are computed from: all of them are there.
bool Replayer::is_input(size_t index) const {
  return recorded_[index] != nullptr && !recorded_[index]->elided;
}

// The positions at which a step can be computed from what its inputs have.
std::vector<int32_t> Replayer::supported_from_inputs(const Step& step) const {
  std::vector<int32_t> positions(trace_.tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  for (size_t i = 0; i < step.inputs.size(); ++i) {
    const auto& have = supported_[step.inputs[i]];
    positions = intersect(positions, reads_history(step, i) ? unbroken(have) : have);
  }
  return positions;
}

std::vector<int32_t> Replayer::judged_positions(size_t index) const {
  return intersect(recorded_[index]->positions, supported_from_inputs(plan_.steps[index]));
}

// The step and what has to be computed before it, since it was not recorded; in the plan's order.
std::vector<size_t> Replayer::segment_of(size_t index) const {
  std::set<size_t> segment = {index};
  for (auto at = segment.rbegin(); at != segment.rend(); ++at)
    for (const size_t input : plan_.steps[*at].inputs)
      if (!is_input(input)) segment.insert(input);
  return {segment.begin(), segment.end()};
}

BoundedValue Replayer::read(size_t index, const std::vector<int32_t>& positions) const {
  const auto& recorded = *recorded_[index];
  BoundedValue value{.value = {}, .bound = {}, .rows = positions.size(), .width = recorded.width()};
  value.value.resize(value.rows * value.width);
  for (size_t r = 0; r < positions.size(); ++r) {
    const auto at =
        std::ranges::lower_bound(recorded.positions, positions[r]) - recorded.positions.begin();
    read_row(recorded, static_cast<size_t>(at),
             std::span(value.value).subspan(r * value.width, value.width));
  }
  if (recorded.precision > 0 && !recorded.elided)
    value.bound.assign(value.value.size(), recorded.precision);
  if (plan_.steps[index].op == Op::Softmax)
    ignore_unseen(plan_.steps[index].attention, positions, value);
  return value;
}

// What a trace holds for keys that a query may not see means nothing, unless the run did attend to
// them: then it is with them that the weights sum to 1. One row that shows it, and none that speaks
// against it, decide for all: in most rows a key beyond the window weighs next to nothing.
void Replayer::ignore_unseen(const Attention& attention, const std::vector<int32_t>& positions,
                             BoundedValue& weights) const {
  constexpr double kClear = 1e-3;
  const size_t keys = trace_.tokens.size();
  const size_t lines = positions.size() * attention.heads;
  std::vector<double> seen(lines);
  std::vector<double> all(lines);
  bool attends = false;
  bool garbage = false;
  for (size_t line = 0; line < lines; ++line) {
    for (size_t key = 0; key < keys; ++key) {
      const double weight = weights.value[line * keys + key];
      all[line] += weight;
      if (referee::sees(attention, positions[line / attention.heads], 0, key)) seen[line] += weight;
    }
    const bool whole = std::fabs(all[line] - 1) <= kClear;
    const bool part = std::fabs(seen[line] - 1) <= kClear;
    attends = attends || (whole && !part);
    garbage = garbage || (part && !whole);
  }
  if (attends && !garbage) return;
  for (size_t line = 0; line < lines; ++line) {
    if (std::fabs(all[line] - 1) < std::fabs(seen[line] - 1)) continue;
    for (size_t key = 0; key < keys; ++key)
      if (!referee::sees(attention, positions[line / attention.heads], 0, key))
        weights.value[line * keys + key] = 0;
  }
}

// Its own declared arithmetic; where nothing is declared, that of the attempt.
Arithmetic Replayer::arithmetic_for(size_t index, const Evaluation& how, size_t target) const {
  if (index == target) return how.attempt.arithmetic;
  if (const auto declared = trace_.arithmetic_of(plan_.steps[index].name)) return *declared;
  return how.attempt.arithmetic;
}

// Inputs of a step; a value that history steps read is had at every position.
std::vector<BoundedValue> Replayer::inputs_of(const Step& step,
                                              const std::vector<int32_t>& positions,
                                              Evaluation& how, size_t target) const {
  std::vector<BoundedValue> inputs;
  for (size_t i = 0; i < step.inputs.size(); ++i) {
    const size_t from = step.inputs[i];
    const auto at = reads_history(step, i) ? unbroken(supported_[from]) : positions;
    if (is_input(from)) inputs.push_back(read(from, at));
    else if (const auto kept = how.kept.find({from, at}); kept != how.kept.end())
      inputs.push_back(kept->second);
    else inputs.push_back(how.kept[{from, at}] = evaluate(from, at, how, target));
    const size_t keys = trace_.tokens.size();
    if (reads_history(step, i) &&
        inputs[i].rows < keys) {  // not recorded: no judged query sees them
      inputs[i].value.resize(keys * inputs[i].width, 0.0);
      if (!inputs[i].bound.empty()) inputs[i].bound.resize(keys * inputs[i].width, 0.0);
      inputs[i].rows = keys;
    }
  }
  return inputs;
}

// The largest magnitude of what was multiplied together with the row: the whole prompt, or one
// token.
float Replayer::largest_input(size_t index, int32_t position) const {
  const auto& recorded = *recorded_[index];
  const auto together = [&](int32_t p) {
    return static_cast<size_t>(position) < trace_.prompt ? static_cast<size_t>(p) < trace_.prompt
                                                         : p == position;
  };
  std::vector<double> row(recorded.width());
  float largest = 0;
  for (size_t r = 0; r < recorded.positions.size(); ++r) {
    if (!together(recorded.positions[r])) continue;
    read_row(recorded, r, row);
    largest = std::max(largest, referee::largest_magnitude(row));
  }
  return largest;
}

std::vector<referee::Undecided> Replayer::round_inputs(const Step& step, const std::string& kind,
                                                       const std::vector<int32_t>& positions,
                                                       BoundedValue& input) const {
  const size_t n = step.weight->columns;  // the inputs of an expert are a part of the row
  std::optional<float> of_prompt;
  std::vector<referee::Undecided> all;
  for (size_t r = 0; r < input.rows; ++r) {
    std::optional<float> largest;
    if (referee::is_per_tensor(kind)) {
      const bool in_prompt = static_cast<size_t>(positions[r]) < trace_.prompt;
      largest = in_prompt && of_prompt ? of_prompt : largest_input(step.inputs[0], positions[r]);
      if (in_prompt) of_prompt = largest;
    }
    for (size_t begin = 0; begin + n <= input.width; begin += n) {
      const auto part = std::span(input.value).subspan(r * input.width + begin, n);
      for (const auto& value : referee::undecided_values(kind, part, largest))
        all.push_back({r, begin + value.column, value.step});
      referee::round_row(kind, part, largest);
    }
  }
  return all;
}

BoundedValue Replayer::evaluate(size_t index, const std::vector<int32_t>& positions,
                                Evaluation& how, size_t target) const {
  const bool replaced = how.variant && how.variant->first == index;
  const Step& step = replaced ? how.variant->second : plan_.steps[index];
  if (!step.quirk) return evaluate_plain(index, step, positions, how, target);
  // The rows that the fault shows are computed, then put where it shows them.
  std::set<int32_t> sources;
  for (const int32_t p : positions)
    if (const auto from = step.quirk->row ? step.quirk->row(p) : std::optional(p))
      sources.insert(*from);
  const auto supported = supported_from_inputs(step);
  std::erase_if(sources, [&](int32_t p) { return !std::ranges::binary_search(supported, p); });
  const std::vector<int32_t> at(sources.begin(), sources.end());
  const auto plain = evaluate_plain(index, step, at, how, target);
  const auto rearranged = [&](const std::vector<double>& values, bool with_values) {
    std::vector<double> out(positions.size() * plain.width);
    const auto row_at = [&](int32_t position) -> const double* {
      const auto found = std::ranges::lower_bound(at, position);
      if (found == at.end() || *found != position) return nullptr;
      return &values[static_cast<size_t>(found - at.begin()) * plain.width];
    };
    referee::rearrange(*step.quirk, positions, plain.width, row_at, with_values, out);
    return out;
  };
  BoundedValue out{.value = rearranged(plain.value, true),
                   .bound = {},
                   .rows = positions.size(),
                   .width = plain.width};
  if (how.want_bounds) out.bound = rearranged(plain.bound, false);
  return out;
}

BoundedValue Replayer::evaluate_plain(size_t index, const Step& as,
                                      const std::vector<int32_t>& positions, Evaluation& how,
                                      size_t target) const {
  const auto arithmetic = arithmetic_for(index, how, target);
  const auto inside = made_inside(how.attempt.arithmetic);
  // Weights that a fault is replayed with are as they are: the file's tell what is made of them.
  const auto made =
      weights_.of(as, inside, made_weights(plan_.steps[index], arithmetic, inside), threads_);
  const Step& step = made.step;
  auto inputs = inputs_of(step, positions, how, target);
  const bool inexact = !inputs.empty() && !inputs[0].bound.empty();
  // Where only the size of the rounding is known, the unrounded product is the centre. Inputs that
  // are known within a bound are rounded, and the deviation covers those that fall to the next
  // step.
  bool unrounded = !is_product(step.op) || (how.attempt.deviation && !inexact);
  if (!unrounded && !inexact && is_scaled(arithmetic.activations)) {
    const auto undecided = round_inputs(step, arithmetic.activations, positions, inputs[0]);
    if (!undecided.empty()) inputs[0].bound.assign(inputs[0].value.size(), 0.0);
    for (const auto& value : undecided)
      inputs[0].bound[value.row * inputs[0].width + value.column] = value.step;
    unrounded = true;  // nothing is left to round
  }
  std::vector<referee::Matrix> matrices;
  for (const auto& input : inputs) matrices.push_back(input.matrix());
  std::vector<Token> tokens;
  std::vector<size_t> visible;
  for (const int32_t p : positions) {
    const auto at = static_cast<size_t>(p);
    tokens.push_back(trace_.tokens[at]);
    visible.push_back(at < trace_.prompt ? trace_.prompt : at + 1);
  }
  // Rows of Scores and Softmax are as long as the trace's, so that recorded and computed ones fit.
  const referee::Rows rows{positions, tokens, visible, trace_.tokens.size()};
  BoundedValue out{
      .value = {}, .bound = {}, .rows = positions.size(), .width = row_width(step, rows.keys)};
  out.value.resize(out.rows * out.width);
  const referee::Rounding rounding{.activations = unrounded ? "f32" : arithmetic.activations,
                                   .kv_cache = cache_of(how.attempt.arithmetic),
                                   .attention = arithmetic.attention,
                                   .functions = arithmetic.functions};
  referee::evaluate(step, matrices, rows, rounding, threads_, out.value);
  how.computed.push_back(index);
  if (how.want_bounds)
    out.bound = error_bound(step, inputs, rows, out.value, arithmetic,
                            how.attempt.deviation || inexact, threads_);
  if (how.want_bounds && made.undecided)
    made.allow_undecided(inputs[0], step.op == Op::ExpertMatMul ? &inputs[1] : nullptr, out.bound);
  round_moved(arithmetic, out.bound);
  if (how.want_bounds && step.op == Op::Add)
    allow_other_orders(step, positions, inputs, units_of(arithmetic).output, how, target, out);
  return out;
}

// Where attention and feed-forward stand side by side, x + attention + feed-forward can be added in
// any order, and engines do. A sum that nobody recorded or read may be one of the other two then,
// rounded at its own size.
void Replayer::allow_other_orders(const Step& step, const std::vector<int32_t>& positions,
                                  const std::vector<BoundedValue>& inputs, double unit,
                                  Evaluation& how, size_t target, BoundedValue& out) const {
  for (size_t i = 0; i < step.inputs.size(); ++i) {
    const size_t from = step.inputs[i];
    const auto& inner = plan_.steps[from];
    const auto reads = [&](const Step& other) {
      return std::ranges::count(other.inputs, from) > 0;
    };
    if (inner.op != Op::Add || recorded_[from] != nullptr || inner.inputs.size() != 2 ||
        std::ranges::count_if(plan_.steps, reads) != 1)
      continue;
    const auto terms = inputs_of(inner, positions, how, target);
    const auto& rest = inputs[1 - i];
    for (size_t at = 0; at < out.bound.size(); ++at) {
      const double largest = std::max(std::fabs(terms[0].value[at] + rest.value[at]),
                                      std::fabs(terms[1].value[at] + rest.value[at]));
      out.bound[at] += unit * std::max(0.0, largest - std::fabs(inputs[i].value[at]));
    }
  }
}

// Whether every recorded value of a step is a number of the type: only then was it rounded to it.
bool Replayer::is_made_of(size_t index, const std::string& type) const {
  const auto& recorded = *recorded_[index];
  if (recorded.precision > 0) return true;  // printed decimals do not tell
  const auto round = referee::short_float(type);
  std::vector<double> row(recorded.width());
  for (size_t r = 0; r < recorded.positions.size(); ++r) {
    read_row(recorded, r, row);
    for (const double x : row)
      if (std::isfinite(x) && x != round(x)) return false;
  }
  return true;
}

// What keys and values were stored in: as the trace says, or as the attention needs it.
std::string Replayer::cache_of(const Arithmetic& arithmetic) const {
  if (referee::turns_first(arithmetic.attention)) return arithmetic.attention;
  if (kv_cache_ != "f32" || arithmetic.attention == "f32") return kv_cache_;
  return arithmetic.attention == "f16/flash" ? "f16" : arithmetic.attention;
}

// Where an engine does not say how it computes attention and functions, the ways that are in use:
// after each arithmetic of the list, the same with them.
void Replayer::add_attention(size_t index, std::vector<Attempt>& list) const {
  const auto segment = segment_of(index);
  const auto holds = [&](auto op) {
    return std::ranges::any_of(segment, [&](size_t i) { return op(plan_.steps[i].op); });
  };
  const bool attention = holds([](Op op) { return op == Op::Scores || op == Op::Mix; });
  std::vector<std::pair<std::string, std::string>> ways;  // attention, functions
  if (attention)
    for (const char* kind : {"f16", "bf16", "f16/flash", "int8/32/f16scale/even",
                             "int8/32/f16scale", "int8/32/f16scale/even/hadamard", "q4_0",
                             "q4_0/hadamard", "fp8e4m3", "fp8e5m2", "tf32", "tf32/cut"}) {
      const bool turned = referee::turns_first(kind);
      if (turned && plan_.steps[index].attention.head_dim % referee::kValueTurn != 0) continue;
      const bool fits =
          kv_cache_ == "f32" || std::string_view(kind).substr(0, 3) == kv_cache_.substr(0, 3);
      if (fits) ways.emplace_back(kind, "f32");
    }
  if (holds(referee::is_fast_function)) ways.emplace_back("f32", "fast");
  if (holds(referee::has_table)) ways.emplace_back("f32", "f16/table");
  const size_t plain = list.size();
  for (const auto& [kind, functions] : ways)
    for (size_t i = 0; i < plain; ++i) {
      if (list[i].arithmetic.inside != "f32") continue;  // it says how attention is computed
      list.push_back(Attempt(list[i]));
      list.back().arithmetic.attention = kind;
      list.back().arithmetic.functions = functions;
    }
}

// An engine that works in a short type throughout, as torch does.
Replayer::Attempt Replayer::inside_of(const std::string& type) {
  Attempt attempt{{type, type, "f32", type}, false, false};
  attempt.arithmetic.attention = attempt.arithmetic.inside = type;
  return attempt;
}

// A declared arithmetic is the one to judge by. Others than we may have their own form of int8/32:
// the scale in half precision, or only its size is known.
std::vector<Replayer::Attempt> Replayer::declared_attempts(size_t index,
                                                           const Arithmetic& declared) const {
  std::vector<Attempt> list = {{declared, false, true}};
  const auto engine = trace_.provenance.engine.find("name");
  const bool own = engine != trace_.provenance.engine.end() && engine->second == "plumb";
  if (!own && declared.accumulate != "f64" && declared.attention == "f32" &&
      declared.functions == "f32")
    add_attention(index, list);
  if (!own && declared.output == declared.activations &&
      (declared.output == "f16" || declared.output == "bf16")) {
    list.push_back(inside_of(declared.output));
    list.back().declared = true;
  }
  if (own || !is_product(plan_.steps[index].op) || !declared.activations.starts_with("int8"))
    return list;
  if (declared.activations == "int8/32") {
    list.push_back(list[0]);
    list.back().arithmetic.activations = "int8/32/f16scale";
    list.push_back(list[0]);
    list.back().arithmetic.activations = "int8/32/f16scale/even";
  }
  list.push_back({declared, true, true});
  return list;
}

// Products of values and weights that were scaled to 8 bits for the tensor, the row or blocks of
// 128. An engine multiplies so throughout: what explained a step before comes first.
std::vector<Replayer::Attempt> Replayer::coarse_attempts(size_t index) const {
  // Products whose inputs were recorded, and what is added to them. The last product of a model
  // stays as it is in such engines.
  const Step* product = nullptr;
  for (const size_t at : segment_of(index)) {
    const auto& step = plan_.steps[at];
    if (!is_product(step.op)) continue;
    if (!is_input(step.inputs[0]) || step.name == "logits") return {};
    product = &step;
  }
  if (product == nullptr) return {};
  const DType dtype = product->weight->dtype;
  std::string output = "f32";
  for (const char* type : {"f16", "bf16"})
    if (is_made_of(index, type)) output = type;
  // Weights of another type than the values were made theirs first.
  const std::string file(info(dtype).short_name);
  const std::string inside = is_quantized(dtype) || file == output ? "f32" : output;
  std::vector<Attempt> list;
  std::vector<Attempt> others;
  for (const std::string type : {"int8", "fp8e4m3", "fp8e5m2"}) {
    std::vector<std::string> kinds = {type + "/row", type + "/tensor", type + "/128"};
    kinds.insert(kinds.begin(), "f32");
    for (const auto& weights : kinds)
      for (const auto& activations : kinds) {
        if (weights == "f32" && activations == "f32") continue;
        // Weights of blocks are not made 8 bits once more.
        if (weights != "f32" && is_quantized(dtype)) continue;
        Arithmetic arithmetic{weights == "f32" ? file : weights, activations, "f32", output};
        arithmetic.inside = inside;
        (has_explained(arithmetic) ? list : others).push_back({arithmetic, false, false});
      }
  }
  list.insert(list.end(), others.begin(), others.end());
  return list;
}

// The type that the products of a segment have their weights in; f32, which is what the file says,
// where they have several.
std::string Replayer::weights_in_file(size_t index) const {
  std::set<std::string> types;
  const auto segment = segment_of(index);
  for (const size_t at : segment)
    if (segment.size() == 1 || is_product(plan_.steps[at].op))
      if (const auto& weight = plan_.steps[at].weight)
        types.emplace(info(weight->dtype).short_name);
  return types.size() == 1 ? *types.begin() : "f32";
}

// Products of floats of fewer bits whose result stays a float, as torch has them on request
// (set_float32_matmul_precision); weights that were kept in half precision.
void Replayer::add_short_products(const std::string& weights, std::vector<Attempt>& list) {
  for (const char* kind : {"f16", "bf16", "tf32", "tf32/cut"})
    if (kind != weights) list.push_back({{kind, kind, "f32", "f32"}, false, false});
  for (const char* kind : {"f16", "bf16"})
    if (kind != weights) list.push_back({{kind, "f32", "f32", "f32"}, false, false});
}

// Undeclared: what engines do, the tightest first. A short output type is only tried where the
// values are numbers of that type. `rare`: also what few engines do, if no other step of the run
// needed it.
std::vector<Replayer::Attempt> Replayer::attempts(size_t index, bool rare) const {
  const auto& step = plan_.steps[index];
  if (const auto declared = trace_.arithmetic_of(step.name))
    return declared_attempts(index, *declared);
  const auto weights = weights_in_file(index);
  std::vector<Attempt> list = {{{weights, "f32", "f32", "f32"}, false, false}};
  const auto segment = segment_of(index);
  const bool product =
      std::ranges::any_of(segment, [&](size_t i) { return is_product(plan_.steps[i].op); });
  const bool blocks = std::ranges::any_of(segment, [&](size_t i) {
    return is_product(plan_.steps[i].op) && is_quantized(plan_.steps[i].weight->dtype);
  });
  if (blocks)
    for (const char* kind : {"int8/32", "int8/32/f16scale/even", "int8/32/f16scale", "int8/256"})
      list.push_back({{weights, kind, "f32", "f32"}, false, false});
  for (const char* type : {"f16", "bf16"}) {
    if (product) list.push_back({{weights, type, "f32", "f32"}, false, false});
    if (is_norm(step.op) && is_input(step.inputs[0]) && is_made_of(step.inputs[0], type)) {
      list.push_back({{weights, "f32", "f32", "f32"}, false, false});
      list.back().arithmetic.inside = type;
    }
    if (!is_made_of(index, type)) continue;
    // Numbers of bf16 are numbers of f16 too, where they are not very large or small.
    if (std::string_view(type) == "f16" && is_made_of(index, "bf16")) continue;
    list.push_back({{weights, "f32", "f32", type}, false, false});
    list.push_back({{weights, type, "f32", type}, false, false});
    list.push_back(inside_of(type));
  }
  add_attention(index, list);
  if (product) add_short_products(weights, list);
  std::ranges::move(coarse_attempts(index), std::back_inserter(list));
  if (!rare)
    std::erase_if(list, [&](const Attempt& attempt) {
      return is_rare(index, attempt.arithmetic) && !has_explained(attempt.arithmetic);
    });
  if (blocks && segment.size() == 1)
    for (const char* kind : {"int8/32", "int8/256"})
      list.push_back({{weights, kind, "f32", "f32"}, true, false});
  return list;
}

// Words of a declaration that are not known here: judging by a guess could call a right step wrong.
std::string Replayer::unknown_arithmetic(size_t index) const {
  const auto declared = trace_.arithmetic_of(plan_.steps[index].name);
  if (!declared) return {};
  if (!referee::is_known_rounding(declared->activations)) return declared->activations;
  const std::set<std::string> outputs = {"f64", "f32", "f16", "bf16"};
  const std::set<std::string> sums = {"f64", "f32", "f16", "bf16", "int32"};
  if (!outputs.contains(declared->output)) return declared->output;
  if (!sums.contains(declared->accumulate)) return declared->accumulate;
  if (declared->attention != "f16/flash" &&
      !referee::is_known_rounding(referee::without_turn(declared->attention)))
    return declared->attention;
  const std::set<std::string> functions = {"f32", "f16/table", "fast"};
  if (!functions.contains(declared->functions)) return declared->functions;
  return {};
}

std::string Replayer::cannot_judge(size_t index) const {
  const size_t keys = trace_.tokens.size();
  if (recorded_[index] == nullptr) return "not recorded";
  const auto segment = segment_of(index);
  if (segment.size() > kLongestSegment)
    return fmt::format("{} steps lie between it and what was recorded before it: too many to judge",
                       segment.size());
  for (const size_t at : segment) {
    const auto& step = plan_.steps[at];
    if (const auto word = unknown_arithmetic(at); !word.empty())
      return fmt::format("the declared arithmetic '{}' of {} is not known here", word, step.name);
    if (step.attention.heads > 0 && !referee::is_known_rounding(kv_cache_))
      return fmt::format("the declared KV cache type '{}' is not known here", kv_cache_);
    for (const size_t input : step.inputs)
      if (recorded_[input] != nullptr &&
          recorded_[input]->width() != row_width(plan_.steps[input], keys))
        return fmt::format("{} was recorded with {} values a row, the model has {}",
                           plan_.steps[input].name, recorded_[input]->width(),
                           row_width(plan_.steps[input], keys));
  }
  const size_t width = row_width(plan_.steps[index], keys);
  if (recorded_[index]->width() != width)
    return fmt::format("recorded with {} values a row, the model has {}", recorded_[index]->width(),
                       width);
  if (judged_positions(index).empty())
    return "its inputs were not recorded at any of its positions";
  return {};
}

bool Replayer::is_seen(const Step& step, int32_t position, size_t channel) const {
  if (!is_on_request(step.op)) return true;
  const size_t visible = static_cast<size_t>(position) < trace_.prompt
                             ? trace_.prompt
                             : static_cast<size_t>(position) + 1;
  return referee::sees(step.attention, position, visible, channel % trace_.tokens.size());
}

// The bounds of those values of a MatMul that its cheap lower limit does not clear, in the order of
// the values.
std::vector<double> Replayer::lazy_matmul_bounds(const RoundedStep& made,
                                                 const ReplayedStep& result,
                                                 const BoundedValue& input,
                                                 const Attempt& attempt) const {
  const Step& step = made.step;
  const size_t rows = result.check.positions.size();
  const size_t width = result.width;
  const size_t n = step.weight->columns;
  BoundedValue rounded = input;
  const auto undecided =
      round_inputs(step, attempt.arithmetic.activations, result.check.positions, rounded);
  std::vector<double> bounds(rows * width);
  threads_.run(width, 1, [&](size_t begin, size_t end) {
    std::vector<float> weight(n);
    for (size_t j = begin; j < end; ++j) {
      bool unpacked = false;
      for (size_t r = 0; r < rows; ++r) {
        const size_t at = r * width + j;
        const double y = result.referee[at];
        bounds[at] = cheap_matmul_bound(step, y, attempt.arithmetic);
        if (std::fabs(result.recorded[at] - y) <= bounds[at]) continue;
        if (!unpacked) dequantize(step.weight->dtype, step.weight->row(j), n, weight.data());
        unpacked = true;
        // The unrounded inputs give the size of the rounding, the rounded ones the size of the sum.
        const auto x = std::span<const double>(attempt.deviation ? input.value : rounded.value)
                           .subspan(r * n, n);
        bounds[at] = matmul_bound(step, weight, x, y, attempt.arithmetic, attempt.deviation);
        for (const auto& value : undecided)
          if (value.row == r)
            bounds[at] +=
                std::fabs(step.gain * static_cast<double>(weight[value.column])) * value.step;
      }
    }
  });
  made.allow_undecided(rounded, nullptr, bounds);
  round_moved(attempt.arithmetic, bounds);
  return bounds;
}

void Replayer::judge_values(ReplayedStep& result, const RoundedStep& made,
                            const BoundedValue& value, const BoundedValue* input,
                            const Attempt& attempt) const {
  auto& check = result.check;
  const auto bounds =
      value.bound.empty() ? lazy_matmul_bounds(made, result, *input, attempt) : value.bound;
  const auto& recorded = *recorded_[check.step];
  if (recorded.elided) result.left_out.assign(result.recorded.size(), false);
  result.outside.assign(result.recorded.size(), false);
  check.local_by_position.assign(check.positions.size(), 0.0);
  for (size_t r = 0; r < check.positions.size(); ++r) {
    double error = 0;
    double size = 0;
    double worst = 0;
    size_t worst_at = 0;
    bool wrong = false;
    for (size_t i = 0; i < result.width; ++i) {
      const size_t at = r * result.width + i;
      const bool left_out = recorded.elided && std::isnan(result.recorded[at]);
      if (left_out || !is_seen(made.step, check.positions[r],
                               i)) {  // Means nothing; nobody after this may look at it.
        if (left_out) result.left_out[at] = true;
        result.recorded[at] = result.referee[at] = 0;
        continue;
      }
      const double a = result.recorded[at];
      const double b = result.referee[at];
      ++check.values;
      double ratio = 0;
      if (!std::isfinite(a)) {
        ++check.non_finite;
        ratio = std::isfinite(b) ? INFINITY : 0;  // Non-finite on both: it came with the inputs.
      } else {
        ratio = a == b ? 0 : std::fabs(a - b) / (bounds[at] + recorded.precision);
        if (std::isnan(ratio)) ratio = INFINITY;
        error += (a - b) * (a - b);
      }
      if (std::isfinite(b)) size += b * b;
      if (ratio > 1) {
        ++check.wrong_values;
        result.outside[at] = true;
        wrong = true;
      }
      if (ratio > worst) {
        worst = ratio;
        worst_at = i;
      }
      if (std::isinf(ratio)) error = INFINITY;
    }
    check.local_by_position[r] = error == 0 ? 0
                                 : size > 0 ? std::sqrt(error / size)
                                            : std::sqrt(error);
    check.local = std::max(check.local, check.local_by_position[r]);
    if (wrong) check.wrong_positions.push_back(check.positions[r]);
    if (worst > check.times_bound) {
      check.times_bound = worst;
      check.worst_position = check.positions[r];
      check.worst_channel = worst_at;
      const double rms = std::sqrt(size / static_cast<double>(result.width));
      check.bound =
          rms > 0 ? bounds[r * result.width + worst_at] / rms : bounds[r * result.width + worst_at];
    }
  }
}

ReplayedStep Replayer::judge(size_t index, const Attempt& attempt, std::vector<int32_t> positions,
                             std::optional<std::pair<size_t, Step>> variant) const {
  ReplayedStep result;
  auto& check = result.check;
  check.step = index;
  check.name = plan_.steps[index].name;
  check.arithmetic = attempt.arithmetic;
  check.declared = attempt.declared;
  check.activations_by = attempt.deviation ? "deviation" : "exact";
  check.positions = std::move(positions);
  const auto inside = made_inside(attempt.arithmetic);
  for (const size_t at : segment_of(index)) {
    check.segment.push_back(plan_.steps[at].name);
    if (const auto made = made_weights(plan_.steps[at], attempt.arithmetic, inside); !made.empty())
      check.made_weights = made;
  }
  const auto& plain = plan_.steps[index];
  // A variant that reads another step may need a segment of its own; then its bounds are made.
  const bool same_inputs =
      !variant || (!variant->second.quirk && variant->second.inputs == plain.inputs);
  const bool lazy = plain.op == Op::MatMul && check.segment.size() == 1 && !attempt.deviation &&
                    same_inputs && recorded_[plain.inputs[0]]->precision == 0;
  Evaluation how{attempt, std::move(variant), !lazy, {}, {}};
  const auto value = evaluate(index, check.positions, how, index);
  result.width = value.width;
  result.referee = value.value;
  result.recorded = read(index, check.positions).value;
  const bool replaced = how.variant && how.variant->first == index;
  const auto judged = weights_.of(replaced ? how.variant->second : plain, inside,
                                  made_weights(plain, attempt.arithmetic, inside), threads_);
  std::optional<BoundedValue> input;
  if (lazy) input = read(plain.inputs[0], check.positions);
  judge_values(result, judged, value, input ? &*input : nullptr, attempt);
  if (check.values == 0) check.unmeasured = "none of its values was written down";
  else if (check.values == check.non_finite) check.unmeasured = "none of its values is a number";
  if (!lazy && check.times_bound <= 1) refuse_wide_bounds(value, check);
  return result;
}

// A bound that is as large as the values could hide almost anything.
void Replayer::refuse_wide_bounds(const BoundedValue& value, StepCheck& check) const {
  if (check.segment.size() == 1 && check.activations_by == "exact") return;
  for (size_t r = 0; r < value.rows; ++r) {
    const double size = l2(std::span(value.value).subspan(r * value.width, value.width));
    const double bound = l2(std::span(value.bound).subspan(r * value.width, value.width));
    if (!(bound > kWidestBound * size)) continue;
    check.unmeasured = fmt::format(
        "at position {} a right result may lie {:.0f} % of its size away ({} steps from what was "
        "recorded, activations {}): too wide to judge",
        check.positions[r], 100 * bound / size, check.segment.size(), check.arithmetic.activations);
    return;
  }
}

// Weights in 8 bits move a result by a few hundredths of its size, or by a tenth, shorter floats by
// less: for a step that is far from its values no such weights need be made.
bool Replayer::is_hopeless(const ReplayedStep& tightest, const Arithmetic& arithmetic) const {
  constexpr double kFar = 0.5;
  const bool made =
      arithmetic.inside == "f32" && arithmetic.weights != weights_in_file(tightest.check.step);
  return made && tightest.check.local > kFar;
}

bool Replayer::is_rare(size_t index, const Arithmetic& a) const {
  const bool made = a.inside == "f32" && a.weights != weights_in_file(index);
  return made || is_scaled(a.weights) || is_scaled(a.activations) ||
         a.attention.starts_with("q4_0") || a.attention.starts_with("fp8") ||
         a.attention.starts_with("tf32") || a.functions == "fast";
}

bool Replayer::has_explained(const Arithmetic& arithmetic) const {
  const std::scoped_lock lock(rare_mutex_);
  return std::ranges::find(rare_found_, arithmetic) != rare_found_.end();
}

void Replayer::remember(size_t index, const Arithmetic& arithmetic) const {
  if (!is_rare(index, arithmetic) || has_explained(arithmetic)) return;
  const std::scoped_lock lock(rare_mutex_);
  rare_found_.push_back(arithmetic);
}

ReplayedStep Replayer::check(size_t index) const {
  if (const auto reason = cannot_judge(index); !reason.empty()) {
    ReplayedStep result;
    result.check.step = index;
    result.check.name = plan_.steps[index].name;
    result.check.unmeasured = reason;
    return result;
  }
  std::optional<ReplayedStep> tightest;
  for (const auto& attempt : attempts(index, true)) {
    if (tightest && is_hopeless(*tightest, attempt.arithmetic)) continue;
    auto positions = judged_positions(index);
    // Most attempts fail everywhere: one position tells.
    if (tightest && positions.size() > 2 &&
        judge(index, attempt, {tightest->check.worst_position}, {}).check.wrong())
      continue;
    auto result = judge(index, attempt, std::move(positions), {});
    if (!result.check.wrong()) {
      remember(index, attempt.arithmetic);
      return result;
    }
    if (!tightest) tightest = std::move(result);
  }
  return std::move(*tightest);
}

std::vector<StepCheck> Replayer::ways_to_judge(const StepCheck& wrong) const {
  std::vector<StepCheck> ways;
  for (const auto& attempt : attempts(wrong.step, false)) {
    ways.push_back(wrong);
    ways.back().arithmetic = attempt.arithmetic;
    ways.back().activations_by = attempt.deviation ? "deviation" : "exact";
  }
  return ways;
}

ReplayedStep Replayer::check_as(const StepCheck& wrong, size_t replaced, const Step& variant,
                                const std::vector<int32_t>& positions) const {
  const Attempt attempt{wrong.arithmetic, wrong.activations_by == "deviation", wrong.declared};
  if (variant.inputs != plan_.steps[replaced].inputs &&
      !std::ranges::includes(supported_from_inputs(variant), supported_[replaced])) {
    ReplayedStep unknown;  // what the variant reads was not recorded: it reproduces nothing
    unknown.check = wrong;
    unknown.check.times_bound = INFINITY;
    return unknown;
  }
  return judge(wrong.step, attempt, positions.empty() ? wrong.positions : positions,
               std::pair(replaced, variant));
}

}  // namespace plumb
