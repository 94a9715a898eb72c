// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/report.h"
#include "report/screen_report.h"
#include "report/text_parts.h"

namespace plumb {
namespace {

constexpr size_t kShortTable = 12;  // rows, without --all
constexpr double kConfidence = 0.95;

std::string field(const std::map<std::string, std::string>& fields, const char* key) {
  const auto found = fields.find(key);
  return found == fields.end() ? std::string() : found->second;
}

std::string describe(const Side& side) {
  const auto& engine = side.trace.provenance.engine;
  std::string text = side.label;
  if (side.model)
    text += fmt::format("  {} · {} layers · {}", side.model->config.architecture,
                        side.model->config.layers, side.model->weight_types);
  const auto name = field(engine, "name");
  text += fmt::format(" · {} {} {}", name.empty() ? "unknown engine" : name,
                      field(engine, "backend"), field(engine, "level"));
  while (text.ends_with(' ')) text.pop_back();
  if (const auto injected = field(engine, "injected"); !injected.empty())
    text += fmt::format(" · injected: {}", injected);
  return text;
}

std::string layers_text(const std::vector<int>& layers) {
  if (layers.size() < 2) return {};
  if (static_cast<size_t>(layers.back() - layers.front()) + 1 == layers.size())
    return fmt::format("layers {} to {}", layers.front(), layers.back());
  std::string text = "layers ";
  for (size_t i = 0; i < layers.size(); ++i) text += fmt::format("{}{}", i ? ", " : "", layers[i]);
  return text;
}

std::string seen_text(const Finding& f, const Comparison& c) {
  if (!f.first_position) return {};
  std::string text = fmt::format("at {} of {} positions, first at {}", f.position_count,
                                 c.positions, *f.first_position);
  if (f.phase == "decode") text += ", in decode only";
  if (f.phase == "prefill" && c.positions > c.sides[0].trace.prompt)
    text += ", in the prefill only";
  if (*f.first_position > 0 && f.reason.starts_with("rope."))
    text += "; position 0 cannot show it (the rotation there is the identity)";
  return text;
}

void line(std::string& out, const char* label, const std::string& text) {
  if (!text.empty()) out += fmt::format("  {:<9} {}\n", label, text);
}

std::string effect_text(const Price& p, const Comparison& c) {
  std::string text;
  if (p.first_token_changed) {
    text = fmt::format("token {} after the prompt: {} → {} (margin {:.3g} logits",
                       *p.first_token_changed + 1, token_text(c, p.first_from),
                       token_text(c, p.first_to), p.first_margin);
    if (p.first_tie) text += fmt::format(", tie floor {:.2g}", *p.first_tie);
    text += "); ";
  }
  text += fmt::format("{} of {} argmax changed", p.argmax_changes, p.positions);
  if (p.ties > 0) text += fmt::format(" ({} of them ties)", p.ties);
  if (p.argmax_changes == 0)  // "None" has a size too.
    text += fmt::format(" (up to {:.2g} % could go unseen)",
                        100 * zero_event_bound(p.positions, kConfidence));
  if (p.not_finite > 0)
    text += fmt::format("; at {} positions a side has logits that are no numbers", p.not_finite);
  return text + fmt::format("; KL mean {}, median {}, p99 {}", number(p.kl_mean),
                            number(p.kl_median), number(p.kl_p99));
}

// What runs of the model with this fault and without it show.
std::string confirmation_text(const Confirmation& f, const Comparison& c) {
  std::string text =
      f.alone == 0
          ? std::string("put into a right run, this fault alone does not change the outcome")
          : fmt::format("put into a right run, this fault alone gives: {}",
                        effect_text(f.price, c));
  const bool others = f.all != f.alone || f.healed != 0;
  if (others)
    text += fmt::format("; all findings of this side give KL mean {}, without this one {}",
                        number(f.all), number(f.healed));
  if (f.account)
    text += fmt::format("; with {} plumb's own run comes within KL {} of the recorded outcome",
                        others ? "all of them" : "it", number(*f.account));
  if (!f.control) text += "; WARNING: two runs without a fault gave different bits";
  return text;
}

void write_finding(std::string& out, const Finding& f, const Comparison& c) {
  std::string head = f.step;
  if (!f.tensor.empty()) head = f.tensor + (f.step.empty() ? "" : " (first step: " + f.step + ")");
  else if (!f.key.empty()) head = f.key + (f.step.empty() ? "" : " (first step: " + f.step + ")");
  if (f.kind == "fault" || f.kind == "unexplained")
    head += " is wrong" + (c.audit ? "" : finding_side_text(f.side));
  out += fmt::format("  • {}{}\n", head.empty() ? f.reason : head,
                     head.empty() ? "" : fmt::format("  [{}]", f.reason));
  std::string why = f.text;
  if (f.reproduced_to)
    why += fmt::format(". Replaying the step that way reproduces the recorded values to {}",
                       number(*f.reproduced_to));
  line(out, "why", why);
  line(out, "where", layers_text(f.layers));
  if (!f.segment.empty())
    line(out, "segment",
         fmt::format("{} steps were replayed together, since their values were not recorded: {}",
                     f.segment.size(), fmt::join(f.segment, ", ")));
  line(out, "seen", seen_text(f, c));
  if (f.local)
    line(out, "size",
         fmt::format("local difference {}, {} times its bound", number(*f.local),
                     number(*f.times_bound)));
  if (f.confirmation) line(out, "confirmed", confirmation_text(*f.confirmation, c));
  line(out, "channels", channels_text(f));
  if (f.kind == "unexplained" || f.reason == "capture.values")
    for (const auto& [name, clue] : f.clues) line(out, "clue", fmt::format("{}: {}", name, clue));
}

// Each tensor that was rounded is a finding; a reader wants the first, and how many there are.
void write_findings(std::string& out, const Comparison& c, bool all) {
  size_t rounded = 0;
  size_t layers = 0;
  for (const auto& finding : c.findings) {
    if (finding.reason == "steps.statistics_only") continue;  // the screen says it
    const bool repeats = finding.reason == "weights.rounding" && rounded++ > 0;
    if (!repeats || all) write_finding(out, finding, c);
    else layers += std::max<size_t>(finding.layers.size(), 1);
  }
  if (rounded > 1 && !all)
    out += fmt::format("    … and {} more tensors are the same values up to rounding (--all)\n",
                       layers);
}

bool is_interesting(const StepRow& row) {
  return row.verdict.starts_with("WRONG") || row.verdict.starts_with("unmeasured");
}

double local_of(const StepRow& row) {
  return std::max(row.baseline && row.baseline->measured() ? row.baseline->local : 0,
                  row.candidate && row.candidate->measured() ? row.candidate->local : 0);
}

std::string local_text(const StepRow& row) {
  const bool measured =
      (row.baseline && row.baseline->measured()) || (row.candidate && row.candidate->measured());
  return measured ? number(local_of(row)) : "–";
}

std::string optional_number(const std::optional<double>& x) { return x ? number(*x) : "–"; }

void write_table(std::string& out, const Comparison& c, bool all) {
  std::vector<const StepRow*> rows;
  for (const auto& row : c.steps) {
    if (row.verdict == "judged inside a segment") continue;
    if (all || (is_interesting(row) && rows.size() < kShortTable)) rows.push_back(&row);
  }
  if (!all && rows.empty()) {  // Nothing is wrong: the rows that come closest to their bound.
    for (const auto& row : c.steps)
      if (row.verdict != "judged inside a segment") rows.push_back(&row);
    // Rows lie in the order of the steps: equal ones keep it.
    std::ranges::sort(rows, [](const auto* a, const auto* b) {
      return std::pair(-local_of(*a), a) < std::pair(-local_of(*b), b);
    });
    if (rows.size() > 4) rows.resize(4);
  }
  if (rows.empty()) return;
  size_t width = 4;
  for (const auto* row : rows) width = std::max(width, row->name.size());
  if (c.audit) {
    out +=
        fmt::format("\n  {:<{}}  {:<10}  {:<13}  verdict\n", "step", width, "local", "times bound");
    for (const auto* row : rows)
      out += fmt::format(
          "  {:<{}}  {:<10}  {:<13}  {}\n", row->name, width, local_text(*row),
          row->baseline && row->baseline->measured() ? number(row->baseline->times_bound) : "–",
          row->verdict);
  } else {
    out += fmt::format("\n  {:<{}}  {:<10}  {:<10}  {:<10}  verdict\n", "step", width, "local",
                       "inherited", "total");
    for (const auto* row : rows)
      out +=
          fmt::format("  {:<{}}  {:<10}  {:<10}  {:<10}  {}\n", row->name, width, local_text(*row),
                      optional_number(row->inherited), optional_number(row->total), row->verdict);
  }
  if (!all) out += fmt::format("  …  (all {} steps: --all, or --html FILE)\n", c.of);
}

std::string colour_of(Verdict verdict) {
  if (verdict == Verdict::Same || verdict == Verdict::Explained) return "\x1b[1;32m";
  if (verdict == Verdict::Different) return "\x1b[1;31m";
  return "\x1b[1;33m";
}

}  // namespace

std::string to_text(const Comparison& c, const TextOptions& options) {
  std::string out;
  for (const auto& side : c.sides)
    out += fmt::format("{:<11} {}\n", c.audit ? "run" : side.role, describe(side));
  const auto& trace = c.sides[0].trace;
  if (c.verdict != Verdict::NotComparable)
    out +=
        fmt::format("{:<11} {} prompt + {} decoded{}\n", "tokens", trace.prompt,
                    trace.tokens.size() - trace.prompt, c.audit ? "" : ", the same on both sides");
  std::string name = to_text(c.verdict);
  std::ranges::replace(name, '_', ' ');
  out += fmt::format("\n{}{}{}   {}\n", options.colour ? colour_of(c.verdict) : "", name,
                     options.colour ? "\x1b[0m" : "", c.why);
  write_findings(out, c, options.all_steps);
  if (c.screen) out += screen_text(c, options.all_steps);
  if (c.price) line(out, "effect", effect_text(*c.price, c));
  const auto inherits = std::ranges::count(c.steps, "ok, inherits", &StepRow::verdict);
  if (inherits > 0)
    line(out, "also",
         fmt::format("{} steps inherit a difference; none of them is wrong by itself", inherits));
  out += strata_text(c);
  for (const auto& note : c.notes) line(out, "note", note);
  write_table(out, c, options.all_steps);
  if (c.of > 0) {
    out += fmt::format("measured {} of {} steps × {} positions.", c.measured, c.of, c.positions);
    if (c.floor)
      out += fmt::format(" Noise floor {} of the logits, from {} equivalent runs.",
                         number(c.floor->logits), c.floor->runs);
    out += "\n";
  }
  return out + set_text(c, options.all_steps);
}

}  // namespace plumb
