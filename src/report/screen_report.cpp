// SPDX-License-Identifier: Apache-2.0
#include "report/screen_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShownSuspects = 6;  // without --all
constexpr size_t kMostTokens = 256;   // that a command line has in full

Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }
Json number(const std::optional<double>& x) { return x ? number(*x) : Json(nullptr); }

std::string figure(double x) {
  if (x == 0) return "0";
  return std::isfinite(x) ? fmt::format("{:.2g}", x) : "not finite";
}

std::string field(const std::map<std::string, std::string>& fields, const char* key) {
  const auto found = fields.find(key);
  return found == fields.end() ? std::string() : found->second;
}

// In single quotes, as a shell takes it.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text)
    if (c == '\'') out += "'\\''";
    else out += c;
  return out + "'";
}

// A word that a shell leaves alone stays as it is.
std::string argument(const std::string& text) {
  const bool plain = !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("_-./,:=@%+").contains(static_cast<char>(c));
  });
  return plain ? text : quoted(text);
}

std::string steps_option(const Screen& screen) {
  std::string out = "--steps";
  for (const auto& pattern : screen.record) out += " " + quoted(pattern);
  return out;
}

// The faults of a run, as --inject took them.
std::string inject_options(const std::string& injected) {
  std::string out;
  for (size_t at = 0; at < injected.size();) {
    const size_t end = std::min(injected.find("; ", at), injected.size());
    out += " --inject " + argument(injected.substr(at, end - at));
    at = end + 2;
  }
  return out;
}

std::string tokens_option(const Trace& trace) {
  if (trace.prompt > kMostTokens)
    return fmt::format("-p … (the {} tokens of the prompt)", trace.prompt);
  return fmt::format("--tokens {}",
                     fmt::join(trace.tokens.begin(),
                               trace.tokens.begin() + static_cast<ptrdiff_t>(trace.prompt), ","));
}

// How plumb makes this run again, with values.
std::string trace_command(const Side& side, const Screen& screen, const std::string& output) {
  const auto& trace = side.trace;
  std::string out =
      fmt::format("plumb trace {} {} -n {}", side.model ? argument(side.model->path) : "MODEL",
                  tokens_option(trace), trace.tokens.size() - trace.prompt);
  if (field(trace.provenance.engine, "backend") == "referee") out += " --backend referee";
  if (trace.provenance.kv_cache != "f32") out += " --kv " + argument(trace.provenance.kv_cache);
  out += inject_options(field(trace.provenance.engine, "injected"));
  return fmt::format("{} {} -o {}", out, steps_option(screen), output);
}

std::string cell_text(const ScreenCell* cell) {
  if (cell == nullptr) return "–";
  if (cell->equal) return "same bits";
  const double after = cell->after();
  if (after == 0) return fmt::format("<{}", figure(cell->resolution));
  // Without a sketch only a lower limit is known.
  return (cell->distance ? "" : "≥") + figure(after);
}

std::string rise_text(double rise) { return std::isfinite(rise) ? figure(rise) : "–"; }

size_t name_width(const Screen& screen, bool all) {
  size_t width = 4;
  for (const auto& suspect : screen.ranked) width = std::max(width, suspect.step.size());
  if (all)
    for (const auto& row : screen.rows) width = std::max(width, row.step.size());
  return width;
}

void write_suspects(std::string& out, const Screen& screen, size_t count) {
  if (screen.ranked.empty()) return;
  const size_t width = name_width(screen, false);
  out += fmt::format("\n  {:<{}}  {:<8}  {:<7}  {:<7}  {:<7}  why\n", "where it rises", width,
                     "position", "inputs", "step", "rise");
  for (size_t i = 0; i < std::min(count, screen.ranked.size()); ++i) {
    const auto& s = screen.ranked[i];
    out +=
        fmt::format("  {:<{}}  {:<8}  {:<7}  {:<7}  {:<7}  {}\n", s.step, width, s.position,
                    s.before ? figure(*s.before) : "–", figure(s.after), rise_text(s.rise), s.why);
  }
  if (count < screen.ranked.size())
    out += fmt::format("  …  ({} more: --all)\n", screen.ranked.size() - count);
}

void write_all_steps(std::string& out, const Screen& screen, size_t tokens) {
  const size_t width = name_width(screen, true);
  out += fmt::format("\n  {:<{}}  {:<9}  {:<10}  {:<10}  {:<10}  {}\n", "step", width, "positions",
                     "all tokens", "last token", "same bits", "norms, at the largest");
  for (const auto& row : screen.rows) {
    if (row.cells.empty()) {
      out += fmt::format("  {:<{}}  not screened: {}\n", row.step, width, row.not_screened);
      continue;
    }
    const auto* worst = row.worst();
    out += fmt::format("  {:<{}}  {:<9}  {:<10}  {:<10}  {:<10}  {:.6g} → {:.6g}\n", row.step,
                       width, row.cells.size(), cell_text(worst), cell_text(row.last(tokens)),
                       fmt::format("{}", row.equal_positions()), worst->baseline.norm,
                       worst->candidate.norm);
  }
}

Json cell_json(const ScreenCell* cell) {
  if (cell == nullptr) return nullptr;
  return {
      {"position", cell->position},
      {"same_bits", cell->equal},
      {"distance", number(cell->distance)},
      {"standard_error", cell->distance ? number(*cell->distance * kSketchError) : Json(nullptr)},
      {"at_least", number(cell->at_least)},
      {"resolution", number(cell->resolution)},
      {"inputs", number(cell->before)},
      {"norm", {number(cell->baseline.norm), number(cell->candidate.norm)}},
      {"mean", {number(cell->baseline.mean), number(cell->candidate.mean)}},
      {"deviation", {number(cell->baseline.deviation), number(cell->candidate.deviation)}},
      {"non_finite", {number(cell->baseline.non_finite), number(cell->candidate.non_finite)}}};
}

Json row_json(const ScreenRow& row, size_t tokens) {
  Json out = {{"step", row.step},
              {"positions",
               {{"baseline", row.positions_baseline},
                {"candidate", row.positions_candidate},
                {"common", row.cells.size()}}}};
  if (row.cells.empty()) {
    out["not_screened"] = row.not_screened;
    return out;
  }
  out["same_bits"] = row.equal_positions();
  out["all_tokens_largest"] = cell_json(row.worst());
  out["last_token"] = cell_json(row.last(tokens));
  Json distances = Json::array();
  Json positions = Json::array();
  for (const auto& cell : row.cells) {
    positions.push_back(cell.position);
    distances.push_back(number(cell.after()));
  }
  out["position"] = positions;
  out["distance_by_position"] = distances;
  return out;
}

}  // namespace

std::vector<std::string> next_commands(const Comparison& c) {
  if (!c.screen || c.screen->record.empty()) return {};
  std::vector<std::string> out;
  for (const auto& side : c.sides) {
    const auto output =
        c.audit ? "next.safetensors" : fmt::format("next-{}.safetensors", side.role);
    const auto name = field(side.trace.provenance.engine, "name");
    if (name == "plumb") out.push_back(trace_command(side, *c.screen, output));
    else
      out.push_back(fmt::format("{} -o {}    (the capture tool of {}, the same tokens)",
                                steps_option(*c.screen), output,
                                name.empty() ? "that engine" : name));
  }
  const auto model = c.sides[0].model ? argument(c.sides[0].model->path) : "MODEL";
  out.push_back(c.audit ? fmt::format("plumb audit next.safetensors --model {}", model)
                        : fmt::format("plumb compare next-baseline.safetensors "
                                      "next-candidate.safetensors --model {}",
                                      model));
  return out;
}

std::string screen_text(const Comparison& c, bool all_steps) {
  const auto& screen = *c.screen;
  std::string out = fmt::format(
      "  screened  {} of {} steps, at up to {} positions, by figures and sketches of 64 values; {} "
      "of "
      "them have the same bits everywhere\n"
      "  distances are estimated, relative to the {}; one standard error is {:.0f} % of the "
      "figure\n",
      screen.screened, c.of, screen.positions, screen.equal, c.audit ? "referee" : "baseline",
      100 * kSketchError);
  for (const auto& note : screen.notes) out += fmt::format("  note      {}\n", note);
  write_suspects(out, screen, all_steps ? screen.ranked.size() : kShownSuspects);
  if (all_steps) write_all_steps(out, screen, c.positions);
  const auto commands = next_commands(c);
  if (!commands.empty()) out += "\n  record these values next, and judge them:\n";
  for (const auto& command : commands) out += "    " + command + "\n";
  return out;
}

Json screen_json(const Comparison& c) {
  const auto& screen = *c.screen;
  Json out = {{"steps", screen.screened},       {"of", c.of},
              {"same_bits", screen.equal},      {"positions", screen.positions},
              {"standard_error", kSketchError}, {"summary", screen.summary},
              {"notes", screen.notes},          {"ranked", Json::array()},
              {"record", screen.record},        {"commands", next_commands(c)},
              {"rows", Json::array()}};
  for (const auto& s : screen.ranked)
    out["ranked"].push_back({{"step", s.step},
                             {"position", s.position},
                             {"inputs", number(s.before)},
                             {"distance", number(s.after)},
                             {"rise", number(s.rise)},
                             {"why", s.why}});
  for (const auto& row : screen.rows) out["rows"].push_back(row_json(row, c.positions));
  return out;
}

}  // namespace plumb
