// SPDX-License-Identifier: Apache-2.0
#include "parity/screen.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>
#include <tuple>

namespace plumb {
namespace {

constexpr size_t kGroupsToRecord = 3;

// Statistics of one step of one side, recorded or made from its values.
struct Summary {
  std::vector<int32_t> positions;
  std::vector<RowStatistics> figures;
  std::vector<Sketch> sketches;  // empty: there is none
  bool turned_rows = false;
  std::string missing;  // why there is nothing
};

Summary summary_of_values(const TraceStep& step) {
  Summary out;
  if (step.elided) {
    out.missing = "values were left out of its dump";
    return out;
  }
  const size_t rows = step.positions.size();
  const size_t width = step.width();
  out.positions = step.positions;
  out.figures.resize(rows);
  out.sketches.resize(rows);
  // Floats are summed as the observer of a run sums them: the same values give the same bits.
  const bool wide = step.view.dtype == DType::F64;
  std::vector<double> values(width);
  std::vector<float> narrow(wide ? 0 : width);
  for (size_t r = 0; r < rows; ++r) {
    const auto figures = std::span(out.figures).subspan(r, 1);
    const auto sketch = std::span(out.sketches).subspan(r, 1);
    read_row(step, r, values);
    if (wide) {
      summarize(std::span<const double>(values), width, figures, sketch);
      continue;
    }
    std::ranges::transform(values, narrow.begin(), [](double x) { return static_cast<float>(x); });
    summarize(std::span<const float>(narrow), width, figures, sketch);
  }
  return out;
}

Summary summary_of(const Trace& trace, const std::string& name) {
  if (const auto* values = trace.find(name); values != nullptr) return summary_of_values(*values);
  Summary out;
  const auto found = trace.statistics.find(name);
  if (found == trace.statistics.end()) {
    out.missing = "not recorded";
    return out;
  }
  const auto& entry = found->second;
  out.positions = entry.positions;
  out.turned_rows = entry.turned_rows;
  for (size_t r = 0; r < entry.positions.size(); ++r) {
    out.figures.push_back(entry.row(r));
    if (entry.sketch) out.sketches.push_back(entry.sketch_row(r));
  }
  return out;
}

std::string times_text(double ratio) {
  return ratio < 10 ? fmt::format("{:.1f}", ratio) : fmt::format("{:.0f}", ratio);
}

template <class T>
bool same_bits(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

bool is_attention_inside(const std::string& step) {
  return step.ends_with(".attn.scores") || step.ends_with(".attn.weights");
}

// One channel that is much larger than the others: the rest of the row is hardly in its length, so
// a distance says little about it.
bool has_one_channel(const RowStatistics& s) {
  const double largest = std::max(std::fabs(s.minimum), std::fabs(s.maximum));
  return s.count >= static_cast<double>(kSketchSize) && 2 * largest * largest > s.norm * s.norm;
}

ScreenCell cell_of(int32_t position, const Summary& a, size_t row_a, const Summary& b, size_t row_b,
                   bool same_order) {
  ScreenCell cell;
  cell.position = position;
  cell.baseline = a.figures[row_a];
  cell.candidate = b.figures[row_b];
  const double norm = cell.baseline.norm;
  const double scale = norm > 0 ? norm : 1;
  const bool sketches = same_order && !a.sketches.empty() && !b.sketches.empty();
  cell.equal = same_bits(cell.baseline, cell.candidate) &&
               (!sketches || same_bits(a.sketches[row_a], b.sketches[row_b]));
  const double difference = std::fabs(norm - cell.candidate.norm);
  cell.at_least = std::isfinite(difference) ? difference / scale : 0;
  cell.resolution = sketch_resolution(cell.baseline.count) * (norm + cell.candidate.norm) / scale;
  cell.one_channel = has_one_channel(cell.baseline);
  if (!sketches) return cell;
  const double distance = sketch_distance(a.sketches[row_a], b.sketches[row_b]) / scale;
  if (std::isfinite(distance)) cell.distance = distance;
  return cell;
}

class Screener {
 public:
  Screener(const Trace& baseline, const Trace& candidate, const Plan* plan, ScreenRoles roles)
      : baseline_(baseline), candidate_(candidate), plan_(plan), roles_(roles) {}

  Screen run() {
    for (const auto& name : names()) add_row(name);
    for (size_t i = 0; i < result_.rows.size(); ++i) find_inputs(i);
    count();
    note_non_finite(baseline_, &ScreenCell::baseline, roles_.baseline);
    note_non_finite(candidate_, &ScreenCell::candidate, roles_.candidate);
    rank();
    choose_record();
    summarize_all();
    return std::move(result_);
  }

 private:
  // Steps that a side has, in the order of the plan or, without one, in that of their names.
  std::vector<std::string> names() const {
    std::set<std::string> known;
    for (const auto* trace : {&baseline_, &candidate_}) {
      for (const auto& [name, step] : trace->steps) known.insert(name);
      for (const auto& [name, step] : trace->statistics) known.insert(name);
    }
    std::erase_if(known, is_attention_inside);
    std::vector<std::string> order(known.begin(), known.end());
    std::ranges::sort(order, {}, [&](const std::string& name) {
      const auto at = plan_ == nullptr ? std::nullopt : plan_->find(name);
      return std::pair(at.value_or(std::numeric_limits<size_t>::max()), step_order(name));
    });
    return order;
  }

  void add_row(const std::string& name) {
    ScreenRow row;
    row.step = name;
    const auto a = summary_of(baseline_, name);
    const auto b = summary_of(candidate_, name);
    row.positions_baseline = a.positions.size();
    row.positions_candidate = b.positions.size();
    if (!a.missing.empty() || !b.missing.empty()) {
      row.not_screened =
          !a.missing.empty() ? a.missing + " of the baseline" : b.missing + " of the candidate";
    } else if (a.figures.front().count != b.figures.front().count) {
      row.not_screened = fmt::format("rows of {} values against rows of {}",
                                     a.figures.front().count, b.figures.front().count);
    } else {
      add_cells(row, a, b);
    }
    index_[name] = result_.rows.size();
    result_.rows.push_back(std::move(row));
  }

  void add_cells(ScreenRow& row, const Summary& a, const Summary& b) {
    const bool same_order = a.turned_rows == b.turned_rows;
    turned_ = turned_ || !same_order;
    for (size_t r = 0; r < a.positions.size(); ++r) {
      const auto other = std::ranges::lower_bound(b.positions, a.positions[r]);
      if (other == b.positions.end() || *other != a.positions[r]) continue;
      row.cells.push_back(cell_of(a.positions[r], a, r, b,
                                  static_cast<size_t>(other - b.positions.begin()), same_order));
    }
    if (row.cells.empty()) row.not_screened = "no position was recorded on both sides";
    partly_ =
        partly_ || row.cells.size() != a.positions.size() || row.cells.size() != b.positions.size();
  }

  // Rows that a step is computed from. What was not recorded stands for its own inputs; true if
  // something did.
  bool collect_inputs(size_t step, std::set<size_t>& rows) const {
    bool gaps = false;
    for (const size_t input : plan_->steps[step].inputs) {
      const auto& from = plan_->steps[input];
      const auto found = index_.find(from.name);
      if (found != index_.end() && !result_.rows[found->second].cells.empty()) {
        rows.insert(found->second);
        continue;
      }
      const bool deeper = collect_inputs(input, rows);
      gaps = gaps || deeper || !is_on_request(from.op);
    }
    return gaps;
  }

  std::set<size_t> inputs_of(size_t row) const {
    std::set<size_t> rows;
    const auto& name = result_.rows[row].step;
    if (const auto at = plan_ == nullptr ? std::nullopt : plan_->find(name)) {
      collect_inputs(*at, rows);
      return rows;
    }
    // The steps before it in its layer, and what enters that.
    const auto order = step_order(name);
    for (size_t i = row; i-- > 0;) {
      if (result_.rows[i].cells.empty()) continue;
      rows.insert(i);
      const auto other = step_order(result_.rows[i].step);
      if (other.part != order.part || other.layer != order.layer || order.part != 1) break;
    }
    return rows;
  }

  // Whether steps between a row and its inputs were not recorded.
  bool has_gaps(size_t row) const {
    const auto at = plan_ == nullptr ? std::nullopt : plan_->find(result_.rows[row].step);
    std::set<size_t> rows;
    return at && collect_inputs(*at, rows);
  }

  // What the inputs of a step have at its positions. Attention reads all positions up to its own.
  void find_inputs(size_t row) {
    auto& cells = result_.rows[row].cells;
    const auto inputs = inputs_of(row);
    const bool earlier = result_.rows[row].step.ends_with(".attn.mix");
    for (auto& cell : cells) {
      cell.equal_inputs = true;
      if (inputs.empty()) cell.before = 0;  // the tokens, which are the same
    }
    for (const size_t input : inputs) join(cells, result_.rows[input].cells, earlier);
  }

  // Both ascend: one walk over each.
  static void join(std::vector<ScreenCell>& cells, const std::vector<ScreenCell>& inputs,
                   bool earlier) {
    size_t next = 0;
    double largest = 0;
    bool equal = true;
    bool one_channel = false;
    for (auto& cell : cells) {
      bool here = false;
      for (; next < inputs.size() && inputs[next].position <= cell.position; ++next) {
        here = inputs[next].position == cell.position;
        if (!here && !earlier) continue;
        largest = std::max(earlier ? largest : 0, inputs[next].after());
        equal = (equal || !earlier) && inputs[next].equal;
        one_channel = (one_channel && earlier) || inputs[next].one_channel;
      }
      cell.equal_inputs = cell.equal_inputs && here && equal;
      if (!here) continue;
      cell.before = std::max(cell.before.value_or(0), largest);
      cell.one_channel_input = cell.one_channel_input || one_channel;
    }
  }

  void count() {
    for (const auto& row : result_.rows) {
      if (row.cells.empty()) continue;
      ++result_.screened;
      result_.equal += row.equal_positions() == row.cells.size() ? 1 : 0;
      result_.positions = std::max(result_.positions, row.cells.size());
    }
    if (partly_)
      result_.notes.push_back(
          "the sides recorded other positions of some steps: only common ones are compared, each "
          "step says how many");
    if (turned_)
      result_.notes.push_back(
          "rows of q and k lie in another order on one side: their sketches are not compared");
  }

  // The first step of a side that has values which are not finite.
  void note_non_finite(const Trace& trace, RowStatistics ScreenCell::* side, const char* role) {
    for (const auto& row : result_.rows)
      for (const auto& cell : row.cells)
        if ((cell.*side).non_finite > 0) {
          result_.notes.push_back(
              fmt::format("{} ({}): the first values that are not finite are in {} at position {}: "
                          "{} of {}",
                          role, trace.label, row.step, cell.position, (cell.*side).non_finite,
                          (cell.*side).count));
          return;
        }
  }

  // Values that are not finite on one side only, at a step whose inputs are finite on that side.
  std::optional<Suspect> non_finite_suspect(size_t row) const {
    for (const auto& cell : result_.rows[row].cells) {
      if (cell.baseline.non_finite == cell.candidate.non_finite) continue;
      const bool second = cell.candidate.non_finite > cell.baseline.non_finite;
      const auto side = second ? &ScreenCell::candidate : &ScreenCell::baseline;
      const bool new_here = std::ranges::none_of(inputs_of(row), [&](size_t input) {
        return std::ranges::any_of(result_.rows[input].cells, [&](const ScreenCell& other) {
          return other.position <= cell.position && (other.*side).non_finite > 0;
        });
      });
      if (!new_here) continue;
      const bool unknown = has_gaps(row) || inputs_of(row).empty();
      auto why = fmt::format(
          "{} of its {} values are not finite on the {}'s side{}", (cell.*side).non_finite,
          cell.baseline.count, second ? roles_.candidate : roles_.baseline,
          unknown ? "; steps before it were not recorded" : ", where all of its inputs are");
      return Suspect{result_.rows[row].step,
                     cell.position,
                     cell.before,
                     cell.after(),
                     std::numeric_limits<double>::infinity(),
                     std::move(why)};
    }
    return {};
  }

  // The position at which a step's difference rises most above that of its inputs, if it does.
  const ScreenCell* rising_cell(size_t row) const {
    const ScreenCell* best = nullptr;
    for (const auto& cell : result_.rows[row].cells) {
      const bool rises = cell.before && cell.after() > 0 &&
                         cell.after() >= kScreenRise * *cell.before &&
                         (!cell.one_channel_input || *cell.before == 0);
      if (rises && (best == nullptr || cell.rise() > best->rise())) best = &cell;
    }
    return best;
  }

  // Runs of one engine that computes in one way, with statistics that one program made: every bit
  // in which they differ has a reason.
  bool is_one_engine() const {
    const auto& a = baseline_.provenance;
    const auto& b = candidate_.provenance;
    const auto name = a.engine.find("name");
    const bool own = name != a.engine.end() && name->second == "plumb";
    if (!own && baseline_.has_only_statistics() != candidate_.has_only_statistics()) return false;
    return a.arithmetic == b.arithmetic && a.kv_cache == b.kv_cache &&
           std::ranges::all_of(
               std::array{"name", "version", "backend", "level"}, [&](const char* key) {
                 const auto x = a.engine.find(key);
                 const auto y = b.engine.find(key);
                 return x != a.engine.end() && y != b.engine.end() && x->second == y->second;
               });
  }

  // The first step that differs where nothing that it is computed from does: in the order of the
  // plan it cannot have the difference from another step that was recorded.
  std::optional<Suspect> parting() const {
    const bool every_bit = is_one_engine();
    for (size_t i = 0; i < result_.rows.size(); ++i) {
      const ScreenCell* worst = nullptr;
      for (const auto& cell : result_.rows[i].cells)
        if (cell.equal_inputs && !cell.equal && (every_bit || cell.after() > 0) &&
            (worst == nullptr || cell.after() > worst->after()))
          worst = &cell;
      if (worst == nullptr) continue;
      std::string why = "the runs part here";
      if (has_gaps(i)) why += ", or in steps before it that were not recorded";
      if (worst->after() == 0) why += ", by less than sketches resolve";
      why += inputs_of(i).empty() ? "" : ": its inputs have the same statistics";
      return Suspect{result_.rows[i].step, worst->position, 0.0,
                     worst->after(),       worst->rise(),   std::move(why)};
    }
    return {};
  }

  Suspect suspect_of(size_t row, const ScreenCell& cell) const {
    return {result_.rows[row].step,
            cell.position,
            cell.before,
            cell.after(),
            cell.rise(),
            *cell.before == 0 ? "its inputs do not differ, as far as sketches show"
                              : fmt::format("its difference is {} times that of its inputs",
                                            times_text(cell.after() / *cell.before))};
  }

  // First values that are not finite. Then the step at which the runs part, if they were the same
  // up to there. Then by the size of what a step adds: two arithmetics part at the first product,
  // which is no reason to look there first.
  void rank() {
    const auto first = parting();
    std::vector<Suspect> rising;
    for (size_t i = 0; i < result_.rows.size(); ++i) {
      if (auto suspect = non_finite_suspect(i)) {
        result_.ranked.push_back(std::move(*suspect));
        continue;
      }
      const auto* cell = rising_cell(i);
      if (cell != nullptr && !(first && first->step == result_.rows[i].step))
        rising.push_back(suspect_of(i, *cell));
    }
    const bool known = first && std::ranges::find(result_.ranked, first->step, &Suspect::step) !=
                                    result_.ranked.end();
    if (first && !known) result_.ranked.push_back(*first);
    std::ranges::sort(rising, {},
                      [](const Suspect& s) { return std::pair(-s.rise, step_order(s.step)); });
    result_.ranked.insert(result_.ranked.end(), rising.begin(), rising.end());
  }

  // A pattern is offered only if it fits a step of the plan, or of the traces.
  void offer(const std::string& pattern) {
    const auto is_step = [&](const std::string& name) { return fits(pattern, name); };
    const bool known = plan_ != nullptr
                           ? std::ranges::any_of(plan_->steps, is_step, &Step::name)
                           : std::ranges::any_of(result_.rows, is_step, &ScreenRow::step);
    if (known && std::ranges::find(result_.record, pattern) == result_.record.end())
      result_.record.push_back(pattern);
  }

  // The half layer of a suspect, with what enters it: then each step in it is judged by itself.
  void offer_group(const std::string& step) {
    const auto order = step_order(step);
    if (order.part == 0) return offer("embedding*");
    if (order.part == 2) {
      offer(last_residual());
      offer("final.norm");
      return offer("logits*");
    }
    const auto layer = fmt::format("layer.{}.", order.layer);
    offer(order.layer == 0 ? "embedding" : fmt::format("layer.{}.residual", order.layer - 1));
    if (step.starts_with(layer + "attn.")) return offer(layer + "attn.*");
    offer(layer + "attn.residual");
    // Where attention and feed-forward stand side by side, engines add all three at once.
    if (!index_.contains(layer + "attn.residual")) offer(layer + "attn.out*");
    offer(layer + "ffn.*");
    offer(layer + "residual");
  }

  // What the last layer gives.
  std::string last_residual() const {
    std::string last;
    for (const auto& row : result_.rows)
      if (row.step.ends_with(".residual") && !row.step.ends_with(".attn.residual")) last = row.step;
    return last;
  }

  void choose_record() {
    std::set<std::tuple<int, int, bool>> groups;
    for (const auto& suspect : result_.ranked) {
      const auto order = step_order(suspect.step);
      groups.insert({order.part, order.layer, suspect.step.find(".attn.") != std::string::npos});
      if (groups.size() > kGroupsToRecord) break;
      offer_group(suspect.step);
    }
  }

  void summarize_all() {
    if (result_.screened == 0) {
      result_.summary = "no step was recorded on both sides";
    } else if (result_.equal == result_.screened) {
      result_.summary = fmt::format(
          "all figures and sketches of {} steps have the same bits on both sides, which does not "
          "prove that their values have",
          result_.screened);
    } else if (result_.ranked.empty()) {
      const bool resolved = std::ranges::any_of(result_.rows, [](const ScreenRow& row) {
        return row.worst() != nullptr && row.worst()->after() > 0;
      });
      result_.summary =
          resolved
              ? "the statistics differ, and at no step is the difference twice that of its inputs"
              : "the statistics differ by rounding only: no distance is above what sketches "
                "resolve";
    } else {
      const auto& first = result_.ranked.front();
      result_.summary = fmt::format("record {} next: {}", first.step, first.why);
    }
  }

  const Trace& baseline_;
  const Trace& candidate_;
  const Plan* plan_;
  ScreenRoles roles_;
  Screen result_;
  std::map<std::string, size_t> index_;
  bool partly_ = false, turned_ = false;
};

}  // namespace

double ScreenCell::after() const {
  if (equal) return 0;
  const double size = std::max(distance.value_or(0), at_least);
  return size > resolution ? size : 0;
}

double ScreenCell::rise() const {
  const double from = before.value_or(0);
  return after() > from ? std::sqrt(after() * after() - from * from) : 0;
}

size_t ScreenRow::equal_positions() const {
  return static_cast<size_t>(std::ranges::count(cells, true, &ScreenCell::equal));
}

const ScreenCell* ScreenRow::worst() const {
  if (cells.empty()) return nullptr;
  return &*std::ranges::max_element(cells, {}, &ScreenCell::after);
}

const ScreenCell* ScreenRow::last(size_t tokens) const {
  if (cells.empty() || static_cast<size_t>(cells.back().position) + 1 != tokens) return nullptr;
  return &cells.back();
}

Screen screen(const Trace& baseline, const Trace& candidate, const Plan* plan, ScreenRoles roles) {
  return Screener(baseline, candidate, plan, roles).run();
}

}  // namespace plumb
