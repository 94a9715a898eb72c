// SPDX-License-Identifier: Apache-2.0
#include "names/map_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <span>
#include <type_traits>

#include "model/architecture.h"
#include "names/tensor_values.h"

namespace plumb {
namespace {

// What a tensor would be as rows of a step.
struct Rows {
  std::vector<double> values;
  size_t rows = 0;
  std::string changes;
};

// One piece of a step: the rows of one pass, in double only where the dump has doubles.
struct Piece {
  Piece(size_t of_pass, size_t of_tensor, Rows&& from, bool doubles)
      : pass(of_pass), tensor(of_tensor), rows(from.rows) {
    if (doubles) wide = std::move(from.values);
    else narrow.assign(from.values.begin(), from.values.end());
  }
  size_t pass;
  size_t tensor;  // in the dump
  size_t rows;
  std::vector<float> narrow;
  std::vector<double> wide;
};

void add_words(std::string& text, const std::string& more) {
  if (more.empty()) return;
  text += (text.empty() ? "" : "; ") + more;
}

// The shape without leading ones (batch axes): [1, 5, 64] is [5, 64].
std::vector<uint64_t> without_batch(std::vector<uint64_t> shape) {
  while (shape.size() > 2 && shape.front() == 1) shape.erase(shape.begin());
  return shape;
}

// Within each head of d values: value p and value p + d/2 become neighbours.
void neighbours_of_halves(std::vector<double>& values, size_t d) {
  std::vector<double> head(d);
  for (size_t at = 0; at + d <= values.size(); at += d) {
    std::copy_n(values.begin() + static_cast<ptrdiff_t>(at), d, head.begin());
    for (size_t i = 0; i < d / 2; ++i) {
      values[at + 2 * i] = head[i];
      values[at + 2 * i + 1] = head[i + d / 2];
    }
  }
}

// Values as the rows of a step, which owns them.
template <class T>
void store_rows(TraceStep& step, std::vector<T>&& values) {
  step.view.shape = {step.positions.size(), values.size() / step.positions.size()};
  step.view.dtype = std::is_same_v<T, float> ? DType::F32 : DType::F64;
  auto owned = std::make_shared<std::vector<T>>(std::move(values));
  step.view.bytes = std::as_bytes(std::span(*owned));
  step.owner = std::move(owned);
}

class Importer {
 public:
  Importer(const Dump& dump, const Model& model, const Plan& plan, const NameTable& table,
           size_t tokens)
      : dump_(dump), model_(model), table_(table), tokens_(tokens) {
    for (const auto& step : plan.steps) by_name_[step.name] = &step;
    reorders_ = reorders_rope_rows(model.config.architecture);
  }

  std::vector<MappedName> names;
  std::map<std::string, std::vector<Piece>> pieces;

  Result<void> run() {
    for (size_t i = 0; i < dump_.tensors.size(); ++i) {
      names.push_back({dump_.tensors[i].name, "", "", false, to_text(dump_.tensors[i].view.shape)});
      TRY(take(i));
    }
    return {};
  }

 private:
  const Step* find(const std::string& name) const {
    const auto it = by_name_.find(name);
    return it == by_name_.end() ? nullptr : it->second;
  }

  void leave_out(size_t i, std::string reason, bool skipped = false) {
    names[i].reason = std::move(reason);
    names[i].skipped = skipped;
  }

  std::vector<std::pair<const NameRow*, NameMatch>> claims(const DumpTensor& tensor) const {
    std::vector<std::pair<const NameRow*, NameMatch>> out;
    for (const auto& row : table_.rows) {
      if (!row.operations.empty() &&
          std::ranges::find(row.operations, tensor.operation) == row.operations.end())
        continue;
      if (row.occurrence && *row.occurrence != tensor.occurrence) continue;
      if (!row.architectures.empty() &&
          std::ranges::find(row.architectures, model_.config.architecture) ==
              row.architectures.end())
        continue;
      if (const auto match = match_name(row.pattern, tensor.name)) out.emplace_back(&row, *match);
    }
    return out;
  }

  Result<void> take(size_t i) {
    const auto& tensor = dump_.tensors[i];
    if (const auto* step = find(tensor.name); step != nullptr) return take_as(i, {step}, NameRow{});
    const auto rows = claims(tensor);
    if (rows.empty()) {
      leave_out(i, "no row of the table has this name");
      return {};
    }
    const bool no_step =
        std::ranges::all_of(rows, [](const auto& r) { return !r.first->skip.empty(); });
    if (rows.size() > 1 && !no_step) {
      leave_out(i, fmt::format("two rows of the table claim it: '{}' and '{}'",
                               rows[0].first->pattern, rows[1].first->pattern));
      return {};
    }
    const auto& [row, match] = rows.front();
    if (!row->skip.empty()) {
      leave_out(i, row->skip, true);
      return {};
    }
    std::vector<const Step*> steps;
    std::string wanted;
    for (const auto& name : row->steps) {
      add_words(wanted, with_layer(name, match.layer));
      for (const auto& choice : choices_of(name))
        if (const auto* step = find(with_layer(choice, match.layer))) {
          steps.push_back(step);
          break;
        }
    }
    if (steps.empty() || (row->split && steps.size() != row->steps.size())) {
      leave_out(i, fmt::format("this model has no step {}", wanted));
      return {};
    }
    if (!row->split) steps.resize(1);
    const auto& before = row->without_bias;
    if (steps.front()->bias && std::ranges::find(before, tensor.operation) != before.end()) {
      leave_out(i, fmt::format("{} is this and a bias", steps.front()->name), true);
      return {};
    }
    return take_as(i, steps, *row);
  }

  Result<void> take_as(size_t i, const std::vector<const Step*>& steps, const NameRow& row) {
    const auto& tensor = dump_.tensors[i];
    size_t width = 0;
    for (const auto* step : steps) width += width_of(*step);
    if (width == 0) {
      leave_out(i, "scores and weights of attention are not imported");
      return {};
    }
    TRY_ASSIGN(auto whole, to_rows(tensor, width, row));
    if (whole.rows == 0) {
      leave_out(i, whole.changes);
      return {};
    }
    auto parts =
        row.split ? split(whole, steps, row.split_by_head) : std::vector<Rows>{std::move(whole)};
    for (size_t k = 0; k < steps.size(); ++k) {
      const bool halves = row.order == RopeOrder::Halves ||
                          (row.order == RopeOrder::File && model_.rope_rows_reordered);
      if (halves && reorders_ && is_rotated(*steps[k])) to_neighbours(*steps[k], parts[k]);
      auto& list = pieces[steps[k]->name];
      const auto same =
          std::ranges::find_if(list, [&](const Piece& p) { return p.pass == tensor.pass; });
      if (same != list.end()) {
        leave_out(
            i, fmt::format("'{}' is {} already", dump_.tensors[same->tensor].name, steps[k]->name));
        return {};
      }
      if (k == 0) names[i].reason = parts[k].changes;
      names[i].step += (k > 0 ? ", " : "") + steps[k]->name;
      list.emplace_back(tensor.pass, i, std::move(parts[k]), tensor.view.dtype == DType::F64);
    }
    return {};
  }

  size_t width_of(const Step& step) const { return is_on_request(step.op) ? 0 : step.width; }

  // `rows` 0 and the reason in `changes` where the shape does not fit.
  Result<Rows> to_rows(const DumpTensor& tensor, size_t width, const NameRow& row) const {
    const auto shape = without_batch(tensor.view.shape);
    const auto count = element_count(shape).value_or(0);
    const auto refuse = [&](const std::string& wanted) {
      return Rows{{}, 0, fmt::format("its shape {} is not {}", to_text(tensor.view.shape), wanted)};
    };
    if (count == 0)
      return Rows{{}, 0, fmt::format("its shape {} holds no value", to_text(tensor.view.shape))};
    Rows out;
    if (row.layout == RowLayout::Transposed) {
      if (shape.size() != 2 || shape[0] != width)
        return refuse(fmt::format("[{}, positions]", width));
      out.rows = shape[1];
      TRY_ASSIGN(out.values, values_of(tensor.view));
      out.values = swapped(out.values, 1, shape[0], shape[1]);
      out.changes = "axes swapped";
      return out;
    }
    if (row.layout == RowLayout::HeadsFirst) {
      if (shape.size() != 3 || shape[0] * shape[2] != width)
        return refuse(
            fmt::format("[heads, positions, values] with {} in all for a position", width));
      out.rows = shape[1];
      TRY_ASSIGN(const auto values, values_of(tensor.view));
      out.values.resize(values.size());
      for (size_t h = 0; h < shape[0]; ++h)
        for (size_t t = 0; t < shape[1]; ++t)
          std::copy_n(values.begin() + static_cast<ptrdiff_t>((h * shape[1] + t) * shape[2]),
                      shape[2],
                      out.values.begin() + static_cast<ptrdiff_t>(t * width + h * shape[2]));
      out.changes = "heads first → side by side";
      return out;
    }
    // The last dimensions must make a row exactly: 64, or 4 heads of 16. A tensor of one dimension
    // holds rows behind each other.
    uint64_t tail = 1;
    size_t dims = shape.size();
    while (dims > 0 && tail < width) tail *= shape[--dims];
    if (shape.size() == 1 && shape[0] % width == 0) tail = width;
    if (tail != width) {
      auto wanted = fmt::format("[positions, {}]", width);
      if (tokens_ > 0 && count % tokens_ == 0)
        wanted +=
            fmt::format(": it has {} values for each of the {} tokens", count / tokens_, tokens_);
      return refuse(wanted);
    }
    out.rows = count / width;
    TRY_ASSIGN(out.values, values_of(tensor.view));
    if (tensor.view.shape.size() > 2 && shape.size() < tensor.view.shape.size())
      out.changes = "batch axis dropped";
    if (shape.size() - dims > 1) add_words(out.changes, "heads and their values merged");
    if (shape.size() == 1 && out.rows > 1)
      add_words(out.changes, fmt::format("cut into rows of {}", width));
    return out;
  }

  static std::vector<double> swapped(const std::vector<double>& values, size_t outer, size_t rows,
                                     size_t columns) {
    std::vector<double> out(values.size());
    for (size_t o = 0; o < outer; ++o)
      for (size_t r = 0; r < rows; ++r)
        for (size_t c = 0; c < columns; ++c)
          out[(o * columns + c) * rows + r] = values[(o * rows + r) * columns + c];
    return out;
  }

  // q, k and v of one matrix: behind each other, or for each group of heads its queries, its key
  // and its value.
  std::vector<Rows> split(const Rows& whole, const std::vector<const Step*>& steps,
                          bool by_head) const {
    size_t width = 0;
    size_t groups = 1;
    for (const auto* step : steps) width += step->width;
    if (by_head) groups = steps.back()->width / model_.config.head_dim;
    std::vector<Rows> parts(steps.size());
    for (size_t k = 0, first = 0; k < steps.size(); first += steps[k]->width / groups, ++k) {
      const size_t part = steps[k]->width / groups;
      parts[k].rows = whole.rows;
      parts[k].changes = whole.changes;
      add_words(parts[k].changes, by_head ? "split head by head" : "split");
      parts[k].values.resize(whole.rows * steps[k]->width);
      for (size_t r = 0; r < whole.rows; ++r)
        for (size_t g = 0; g < groups; ++g)
          std::copy_n(
              whole.values.begin() +
                  static_cast<ptrdiff_t>(r * width + g * (width / groups) + first),
              part,
              parts[k].values.begin() + static_cast<ptrdiff_t>(r * steps[k]->width + g * part));
    }
    return parts;
  }

  // Queries and keys, before and after RoPE.
  static bool is_rotated(const Step& step) {
    for (const char* part : {".attn.q", ".attn.k"})
      if (step.name.find(part) != std::string::npos) return true;
    return false;
  }

  // Within each head: value p and value p + d/2 become neighbours, as the GGUF has them.
  void to_neighbours(const Step& step, Rows& rows) const {
    const size_t d = model_.config.head_dim;
    if (d == 0 || step.width % d != 0) return;
    neighbours_of_halves(rows.values, d);
    add_words(rows.changes, "halves of each head → neighbours");
  }

  const Dump& dump_;
  const Model& model_;
  const NameTable& table_;
  size_t tokens_ = 0;  // that were fed; 0: not known
  std::map<std::string, const Step*> by_name_;
  bool reorders_ = false;
};

size_t known_names(const Dump& dump, const NameTable& table) {
  std::set<std::string> known;
  for (const auto& tensor : dump.tensors)
    for (const auto& row : table.rows)
      if (row.skip.empty() && !is_step_name(tensor.name) && match_name(row.pattern, tensor.name) &&
          (row.operations.empty() ||
           std::ranges::find(row.operations, tensor.operation) != row.operations.end()))
        known.insert(tensor.name);
  return known.size();
}

// The table of the engine that the dump names, as far as there is one.
std::string_view own_table(const Dump& dump) {
  static constexpr std::pair<std::string_view, std::string_view> kTables[] = {
      {"llama.cpp", "llama.cpp"},
      {"transformers", "huggingface"},
      {"msprobe", "huggingface"},
      {"SGLang", "vllm"},
      {"apr", "apr"},
  };
  const auto engine = dump.engine.find("name");
  for (const auto& [name, table] : kTables)
    if (engine != dump.engine.end() && engine->second == name) return table;
  return {};
}

// The table that knows most names, of two the engine's own; none if no table knows any.
std::optional<NameTable> choose_table(const Dump& dump, const ImportOptions& options,
                                      std::vector<std::string>& notes) {
  if (options.table) return options.table;
  const NameTable* best = nullptr;
  const NameTable* second = nullptr;
  size_t most = 0;
  for (const auto& table : name_tables()) {
    const size_t known = known_names(dump, table);
    if (known > most) {
      best = &table;
      second = nullptr;
      most = known;
    } else if (known == most && known > 0) {
      second = &table;
      if (table.name == own_table(dump)) best = &table;
    }
  }
  if (best == nullptr) return std::nullopt;
  if (second != nullptr && best->name != own_table(dump))
    notes.push_back(fmt::format("the table {} knows as many of its names as {}: --names chooses",
                                second->name, best->name));
  return *best;
}

// Which positions the rows of a pass stand for.
struct Passes {
  std::vector<size_t> first, rows;
  size_t total = 0;
};

Passes measure_passes(const Dump& dump, const std::map<std::string, std::vector<Piece>>& pieces) {
  Passes passes;
  size_t count = 0;
  for (const auto& tensor : dump.tensors) count = std::max(count, tensor.pass + 1);
  passes.rows.assign(count, 0);
  for (const auto& [step, list] : pieces)
    for (const auto& piece : list)
      passes.rows[piece.pass] = std::max(passes.rows[piece.pass], piece.rows);
  for (size_t pass = 0; pass < count; ++pass) {
    passes.first.push_back(passes.total);
    passes.total += passes.rows[pass];
  }
  return passes;
}

// An I32 tensor `positions` of the pass, if the dump has one.
std::optional<std::vector<int32_t>> given_positions(const Dump& dump, size_t pass) {
  for (const auto& tensor : dump.tensors) {
    if (tensor.name != "positions" || tensor.pass != pass || tensor.view.dtype != DType::I32)
      continue;
    std::vector<int32_t> out(tensor.view.bytes.size() / sizeof(int32_t));
    std::memcpy(out.data(), tensor.view.bytes.data(), out.size() * sizeof(int32_t));
    return out;
  }
  return std::nullopt;
}

// How many tokens were one prefill: all up to the last pass of several rows. A long prompt is fed
// in several passes, and decoding is one row at a time. A single pass that names its positions may
// hold only some of the prefill.
size_t prefill_of(const Dump& dump, const Passes& passes, size_t tokens) {
  const size_t count = passes.rows.size();
  if (count == 0 || (count == 1 && given_positions(dump, 0))) return tokens;
  size_t last = 0;
  for (size_t pass = 0; pass < count; ++pass)
    if (passes.rows[pass] > 1) last = pass;
  return passes.first[last] + passes.rows[last];
}

class TraceBuilder {
 public:
  TraceBuilder(const Dump& dump, const Passes& passes, Imported& out)
      : dump_(dump), passes_(passes), out_(out) {}

  Result<void> add(const std::string& name, std::vector<Piece>& list) {
    std::ranges::sort(list, {}, &Piece::pass);
    TraceStep step;
    std::vector<float> narrow;
    std::vector<double> wide;
    const bool single = std::ranges::all_of(list, [](const Piece& p) { return p.wide.empty(); });
    for (auto& piece : list) {
      const auto& tensor = dump_.tensors[piece.tensor];
      const auto positions = positions_of(piece);
      if (positions.empty()) {
        auto& entry = out_.names[piece.tensor];
        entry.reason =
            fmt::format("{} rows where the pass has {}", piece.rows, passes_.rows[piece.pass]);
        entry.step.clear();
        continue;
      }
      step.positions.insert(step.positions.end(), positions.begin(), positions.end());
      if (single && narrow.empty()) {
        narrow = std::move(piece.narrow);
      } else if (single) {
        narrow.insert(narrow.end(), piece.narrow.begin(), piece.narrow.end());
      } else {
        wide.insert(wide.end(), piece.narrow.begin(), piece.narrow.end());
        wide.insert(wide.end(), piece.wide.begin(), piece.wide.end());
      }
      step.precision = std::max(step.precision, tensor.precision);
      step.elided = step.elided || tensor.elided;
    }
    if (step.positions.empty()) return {};
    if (!std::ranges::is_sorted(step.positions, std::ranges::less_equal{}))
      return fail(ErrorCode::Corrupt,
                  fmt::format("{}: the positions of {} do not ascend", dump_.label, name));
    if (single) store_rows(step, std::move(narrow));
    else store_rows(step, std::move(wide));
    out_.trace.steps.emplace(name, std::move(step));
    return {};
  }

 private:
  std::vector<int32_t> positions_of(const Piece& piece) const {
    if (auto given = given_positions(dump_, piece.pass)) {
      if (given->size() != piece.rows) return {};
      return *given;
    }
    const size_t rows = passes_.rows[piece.pass];
    // llama.cpp and others drop all rows but the last where only its logits are wanted.
    if (piece.rows != rows && piece.rows != 1) return {};
    std::vector<int32_t> out;
    for (size_t i = rows - piece.rows; i < rows; ++i)
      out.push_back(static_cast<int32_t>(passes_.first[piece.pass] + i));
    return out;
  }

  const Dump& dump_;
  const Passes& passes_;
  Imported& out_;
};

Result<std::vector<int32_t>> tokens_of(const Dump& dump, const ImportOptions& options,
                                       Imported& out) {
  if (!options.tokens && !dump.tokens) {
    out.notes.emplace_back(
        "the dump does not say which tokens were fed: give --tokens, or no comparison is possible");
    return std::vector<int32_t>();
  }
  std::vector<int32_t> own;
  if (dump.tokens)
    for (const int64_t id : *dump.tokens) {
      if (id < 0 || id > INT32_MAX)
        return fail(ErrorCode::Corrupt, fmt::format("{}: {} is no token id", dump.label, id));
      own.push_back(static_cast<int32_t>(id));
    }
  if (!options.tokens) return own;
  if (dump.tokens && own != *options.tokens)
    return fail(ErrorCode::Usage,
                fmt::format("{}: --tokens gives other ids than the dump itself ({} against {})",
                            dump.label, options.tokens->size(), own.size()));
  return *options.tokens;
}

Result<void> check_rows(const Dump& dump, const Passes& passes, Imported& out) {
  const auto& tokens = out.trace.tokens;
  if (tokens.empty() || passes.total == 0) return {};
  int32_t last = 0;
  for (const auto& [name, step] : out.trace.steps) last = std::max(last, step.positions.back());
  if (static_cast<size_t>(last) >= tokens.size())
    return fail(ErrorCode::NotComparable,
                fmt::format("{}: it holds {} positions, but only {} tokens are known: {}",
                            dump.label, last + 1, tokens.size(),
                            passes.rows.size() > 1
                                ? "a warm-up pass, or tokens of decoding that were not given?"
                                : "was another BOS fed?"));
  return {};
}

void keep_others(const Dump& dump, Imported& out) {
  std::map<std::string, size_t> seen;
  for (size_t i = 0; i < out.names.size(); ++i) {
    if (!out.names[i].step.empty()) continue;
    out.trace.unknown.push_back(dump.tensors[i].name);
  }
}

}  // namespace

bool reorders_rope_rows(const std::string& architecture) {
  const auto* found = find_architecture(architecture);
  if (found == nullptr || found->tensors == nullptr) return false;
  for (const auto& module : found->tensors())
    if (module.name == "blk.{}.attn_q" && !module.hf.empty())
      return module.hf.front().form == Form::Halves;
  return false;
}

void order_rope_rows(Trace& trace, const Model& model) {
  if (!reorders_rope_rows(model.config.architecture)) return;
  auto& engine = trace.provenance.engine;
  const auto said = engine.find("rope_rows");
  const bool own = engine.contains("name") && engine["name"] == "plumb";
  const bool halves =
      said != engine.end() ? said->second == "hf" : model.rope_rows_reordered && !own;
  if (!halves) return;
  const auto is_turned = [](const std::string& name) {
    return name.find(".attn.q") != std::string::npos || name.find(".attn.k") != std::string::npos;
  };
  for (auto& [name, step] : trace.statistics) step.turned_rows = is_turned(name);
  for (auto& [name, step] : trace.steps) {
    const bool turned = is_turned(name);
    const size_t width = step.width();
    const size_t d = model.config.head_dim;
    if (!turned || width % d != 0) continue;
    std::vector<double> values(step.positions.size() * width);
    for (size_t r = 0; r < step.positions.size(); ++r)
      read_row(step, r, std::span(values).subspan(r * width, width));
    neighbours_of_halves(values, d);
    if (step.view.dtype == DType::F64) store_rows(step, std::move(values));
    else store_rows(step, std::vector<float>(values.begin(), values.end()));
  }
  engine["rope_rows"] = "gguf (was hf)";
}

Result<Imported> import_dump(const Dump& dump, const Model* model, const Plan* plan,
                             const ImportOptions& options) {
  Imported out;
  out.notes = dump.notes;
  out.trace.label = dump.label;
  out.trace.provenance.engine = dump.engine;
  out.trace.provenance.model = dump.model;
  TRY_ASSIGN(out.trace.tokens, tokens_of(dump, options, out));
  if (model == nullptr) {
    for (const auto& tensor : dump.tensors)
      out.names.push_back({tensor.name, "", "no model was given: the name is kept", false,
                           to_text(tensor.view.shape)});
    out.notes.emplace_back("without --model no name becomes a step; all are kept as they are");
    keep_others(dump, out);
    return out;
  }
  const auto table = choose_table(dump, options, out.notes);
  const NameTable none;
  Importer importer(dump, *model, *plan, table ? *table : none, out.trace.tokens.size());
  TRY(importer.run());
  out.names = std::move(importer.names);
  if (table) out.table = table->name;
  const auto passes = measure_passes(dump, importer.pieces);
  TraceBuilder builder(dump, passes, out);
  for (auto& [name, list] : importer.pieces) {
    TRY(builder.add(name, list));
    list = {};  // the values are in the trace now
  }
  TRY(check_rows(dump, passes, out));
  out.trace.prompt = options.prompt.value_or(
      std::min(prefill_of(dump, passes, out.trace.tokens.size()), out.trace.tokens.size()));
  if (out.trace.prompt == 0) out.trace.prompt = out.trace.tokens.size();
  keep_others(dump, out);
  return out;
}

}  // namespace plumb
