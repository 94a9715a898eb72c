// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "model/tensor_table.h"
#include "report/inspect_report.h"

namespace plumb {
namespace {

constexpr size_t kShown = 12;  // rows of a list before it is cut

std::string paint(const std::string& text, const char* code, InspectStyle style) {
  return style.colour ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : text;
}
std::string heading(const std::string& text, InspectStyle style) {
  return "\n" + paint(text, "1", style) + "\n";
}
std::string line(const std::string& label, const std::string& value) {
  return fmt::format("  {:<18}{}\n", label, value);
}

std::string unit_text(double value, double base, const char* const* units, size_t count) {
  size_t unit = 0;
  while (value >= base && unit + 1 < count) {
    value /= base;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f}{}", value, units[0]);
  return fmt::format("{:.{}f}{}", value, value < 10 ? 2 : value < 100 ? 1 : 0, units[unit]);
}

template <class T>
void add_size(std::string& out, const char* label, const std::optional<T>& value) {
  if (value) out += line(label, fmt::format("{}", *value));
}

std::string heads_text(const Hyperparameters& h) {
  std::string text;
  if (h.heads) text += fmt::format("{}", *h.heads);
  if (h.kv_heads && h.kv_heads != h.heads)
    text += fmt::format(" for queries, {} for keys and values", *h.kv_heads);
  if (h.head_dim) text += fmt::format(", {} wide", *h.head_dim);
  if (h.value_dim && h.value_dim != h.head_dim) text += fmt::format(" (values {})", *h.value_dim);
  return text;
}

std::string experts_text(const Hyperparameters& h) {
  return fmt::format("{}{}{}", *h.experts,
                     h.experts_used ? fmt::format(", {} used for a token", *h.experts_used) : "",
                     h.expert_ffn ? fmt::format(", {} wide", *h.expert_ffn) : "");
}

std::string rope_text(const Hyperparameters& h) {
  std::string text;
  if (h.rope_base) text += fmt::format("base {:g}", *h.rope_base);
  if (h.rope_base_local) text += fmt::format(" (layers with a window: {:g})", *h.rope_base_local);
  if (h.rope_dimensions) text += fmt::format(", {} dimensions", *h.rope_dimensions);
  if (h.rope_scaling != "none") text += fmt::format(", scaling {}", h.rope_scaling);
  return text;
}

std::string model_part(const ModelFile& file, const Summary& summary, InspectStyle style) {
  const auto& h = summary.sizes;
  std::string out = heading("Model", style);
  if (!summary.name.empty()) out += line("name", printable(summary.name));
  if (!h.architecture.empty())
    out += line("architecture",
                h.declared == h.architecture || h.declared.empty()
                    ? h.architecture
                    : fmt::format("{} (the file says {})", h.architecture, printable(h.declared)));
  else if (!h.declared.empty())
    out += line("architecture", printable(h.declared) +
                                    " (not known here: names and shapes are not "
                                    "checked)");
  else out += line("architecture", "not given");
  std::string parameters = count_text(summary.parameters);
  if (summary.embedding_parameters > 0)
    parameters +=
        fmt::format(", {} of them the embedding{}", count_text(summary.embedding_parameters),
                    h.tied ? " (also the output matrix)" : "");
  out += line("parameters", parameters);
  out += line("tensors", fmt::format("{}", file.tensors.size()));
  add_size(out, "layers", h.layers);
  add_size(out, "width", h.width);
  if (h.heads) out += line("heads", heads_text(h));
  add_size(out, "feed-forward", h.ffn);
  if (h.experts && *h.experts > 0) out += line("experts", experts_text(h));
  add_size(out, "vocabulary", h.vocabulary);
  if (h.context) out += line("context", fmt::format("{} tokens", *h.context));
  if (h.window && *h.window > 0) out += line("window", fmt::format("{} tokens", *h.window));
  if (h.epsilon) out += line("norm epsilon", fmt::format("{:g}", *h.epsilon));
  if (const auto rope = rope_text(h); !rope.empty()) out += line("RoPE", rope);
  return out;
}

std::string weights_part(const Summary& summary, InspectStyle style) {
  std::string out = heading("Weights", style);
  uint64_t all = 0;
  for (const auto& type : summary.types) all += type.bytes;
  for (const auto& type : summary.types)
    out += fmt::format(
        "  {:<18}{:>5} tensors {:>9} values {:>9} {:>6.1f} %{:>7.2f} bits each\n",
        info(type.dtype).name, type.tensors, count_text(type.elements), bytes_text(type.bytes),
        all == 0 ? 0.0 : 100.0 * static_cast<double>(type.bytes) / static_cast<double>(all),
        type.elements == 0
            ? 0.0
            : 8.0 * static_cast<double>(type.bytes) / static_cast<double>(type.elements));
  for (const auto& [key, value] : summary.quantization) out += line(key, printable(value));
  return out;
}

std::string memory_part(const Summary& summary, InspectStyle style) {
  if (!summary.memory) return {};
  const auto& need = *summary.memory;
  return heading(fmt::format("Memory to run, {} tokens of context", need.context), style) +
         line("weights", bytes_text(need.weights)) +
         line("keys and values", fmt::format("{} as float, {} as half", bytes_text(need.kv_f32),
                                             bytes_text(need.kv_f16))) +
         line("together", fmt::format("{} or {}", bytes_text(need.weights + need.kv_f32),
                                      bytes_text(need.weights + need.kv_f16)));
}

std::string tokenizer_part(const TokenizerFacts& facts, InspectStyle style) {
  std::string out = heading("Tokenizer", style);
  if (!facts.present) return out + "  none in this file: text cannot be turned into tokens\n";
  out += line("kind", printable(facts.kind));
  if (facts.tokens > 0)
    out +=
        line("tokens", fmt::format("{}{}{}", facts.tokens,
                                   facts.merges > 0 ? fmt::format(", {} merges", facts.merges) : "",
                                   facts.control_tokens > 0
                                       ? fmt::format(", {} control tokens", facts.control_tokens)
                                       : ""));
  for (const auto& token : facts.special)
    out += line(token.role, fmt::format("{}{}", token.id < 0 ? "" : fmt::format("{} ", token.id),
                                        printable(token.text, 60)));
  if (facts.add_bos) out += line("adds BOS", *facts.add_bos ? "yes" : "no");
  if (facts.add_eos) out += line("adds EOS", *facts.add_eos ? "yes" : "no");
  if (facts.chat_template.empty()) out += line("chat template", "none");
  else
    out += line("chat template",
                fmt::format("{} ({} characters)",
                            facts.chat_family.empty() ? "of no known family" : facts.chat_family,
                            facts.chat_template.size()));
  return out;
}

const char* colour_of(Severity severity) {
  return severity == Severity::Unsound ? "31" : severity == Severity::Suspect ? "33" : "36";
}

std::string issue_line(const Issue& issue, InspectStyle style) {
  const char* words[] = {"note", "suspect", "unsound"};
  const auto word = fmt::format("{:<8}", words[static_cast<size_t>(issue.severity)]);
  // A text that names the tensor by itself needs no name before it.
  const bool named = issue.tensor.empty() || issue.text.starts_with(issue.tensor);
  return fmt::format("  {} {}{}\n", paint(word, colour_of(issue.severity), style),
                     named ? "" : printable(issue.tensor, 300) + ": ", issue.text);
}

size_t widest(const std::vector<TensorRowFacts>& rows) {
  size_t width = 4;
  for (const auto& row : rows) width = std::max(width, row.tensor->name.size());
  return std::min<size_t>(width, 60);
}

// One line for the same difference in several layers.
std::string differences_text(const std::vector<TensorDifference>& all, bool whole,
                             InspectStyle style) {
  std::map<std::string, std::vector<const TensorDifference*>> groups;
  std::vector<std::string> order;
  for (const auto& difference : all) {
    auto role = difference.name;
    if (const auto layer = layer_of(role)) {
      const auto digits = fmt::format(".{}.", *layer);
      if (const auto at = role.find(digits); at != std::string::npos)
        role.replace(at, digits.size(), ".*.");
    }
    const auto key = whole ? difference.name : role + " " + difference.weight_class.reason;
    if (groups[key].empty()) order.push_back(key);
    groups[key].push_back(&difference);
  }
  std::string out;
  for (const auto& key : order) {
    const auto& group = groups[key];
    const auto& first = *group.front();
    out += fmt::format(
        "  {} {}{}: {}\n", paint(fmt::format("{:<22}", first.weight_class.reason), "33", style),
        printable(first.name, 120),
        group.size() > 1 ? fmt::format(" and the same in {} more layers", group.size() - 1) : "",
        first.weight_class.text);
  }
  return out;
}

std::string key_lines(const std::vector<KeyDifference>& keys, bool all) {
  std::string out;
  size_t shown = 0;
  for (const auto& key : keys) {
    // One key for each tensor, and the index says the same.
    if (!all && key.key.starts_with("tensor_shapes.")) continue;
    if (!all && shown++ == 3 * kShown) {
      out += fmt::format("  … {} more (--all shows all)\n", keys.size() - 3 * kShown);
      break;
    }
    out += fmt::format("  {:<36} {}  |  {}\n", printable(key.key), key.a, key.b);
  }
  return out;
}

}  // namespace

std::string bytes_text(uint64_t bytes) {
  static const char* const kUnits[] = {" B", " kB", " MB", " GB", " TB", " PB", " EB"};
  return unit_text(static_cast<double>(bytes), 1000, kUnits, std::size(kUnits));
}

std::string count_text(uint64_t count) {
  static const char* const kUnits[] = {"", " k", " M", " G", " T"};
  return unit_text(static_cast<double>(count), 1000, kUnits, std::size(kUnits));
}

std::string verdict_of(const Verification& verification) {
  const char* words[] = {"SOUND", "SUSPECT", "UNSOUND"};
  return words[static_cast<size_t>(verification.worst())];
}

std::string summary_text(const ModelFile& file, const Summary& summary, InspectStyle style) {
  std::string out = fmt::format("{}  {} · {}\n", paint(file.path.string(), "1", style),
                                file.format_text, bytes_text(summary.file_bytes));
  out += model_part(file, summary, style);
  out += weights_part(summary, style);
  out += memory_part(summary, style);
  out += tokenizer_part(summary.tokenizer, style);
  if (!summary.provenance.empty()) {
    out += heading("Provenance", style);
    for (const auto& [key, value] : summary.provenance) out += line(key, printable(value, 200));
  }
  return out;
}

std::string tensors_text(const std::vector<TensorRowFacts>& rows, InspectStyle style) {
  const size_t width = widest(rows);
  const bool statistics = !rows.empty() && rows.front().statistics != nullptr;
  std::string out = paint(fmt::format("{:<{}}  {:<8}{:>16}{:>11}{:>14}", "name", width, "type",
                                      "shape", "bytes", "offset"),
                          "1", style);
  if (statistics)
    out += paint(fmt::format("{:>11}{:>11}{:>11}{:>11}{:>9}", "min", "max", "mean", "rms", "zeros"),
                 "1", style);
  out += "\n";
  for (const auto& row : rows) {
    const auto& t = *row.tensor;
    out += fmt::format("{:<{}}  {:<8}{:>16}{:>11}{:>14}", printable(t.name, 120), width,
                       info(t.view.dtype).name, to_text(t.view.shape),
                       bytes_text(t.view.bytes.size()), t.file_offset);
    if (row.statistics != nullptr) {
      const auto& s = *row.statistics;
      out += fmt::format("{:>11.4g}{:>11.4g}{:>11.3g}{:>11.4g}{:>9}", static_cast<double>(s.min),
                         static_cast<double>(s.max), s.mean, s.rms, s.zeros);
      if (s.nans + s.infinities > 0)
        out += paint(fmt::format("  {} NaN, {} infinite", s.nans, s.infinities), "31", style);
    }
    out += "\n";
  }
  return out;
}

std::string tensor_text(const TensorEntry& tensor, const TensorStatistics& s,
                        const Histogram& histogram, InspectStyle style) {
  std::string out =
      fmt::format("{}  {} {} · {} · at byte {}\n", paint(printable(tensor.name, 300), "1", style),
                  info(tensor.view.dtype).name, to_text(tensor.view.shape),
                  bytes_text(tensor.view.bytes.size()), tensor.file_offset);
  out += line("values", fmt::format("{}", s.count));
  out += line("range", fmt::format("{:.6g} to {:.6g}", static_cast<double>(s.min),
                                   static_cast<double>(s.max)));
  out += line("mean, deviation", fmt::format("{:.4g}, {:.4g}", s.mean, s.deviation()));
  out += line("rms", fmt::format("{:.4g}", s.rms));
  out += line("zeros", fmt::format("{}", s.zeros));
  if (s.nans > 0) out += line("NaN", fmt::format("{}, the first at value {}", s.nans, s.first_nan));
  if (s.infinities > 0)
    out +=
        line("infinite", fmt::format("{}, the first at value {}", s.infinities, s.first_infinity));
  if (!s.sha256.empty()) out += line("sha256 as float32", s.sha256);
  const uint64_t most = *std::ranges::max_element(histogram.bins);
  if (most == 0) return out;
  out += "\n";
  const double step = (histogram.high - histogram.low) / static_cast<double>(histogram.bins.size());
  for (size_t i = 0; i < histogram.bins.size(); ++i) {
    const auto length = static_cast<size_t>(
        std::ceil(50.0 * static_cast<double>(histogram.bins[i]) / static_cast<double>(most)));
    std::string bar;
    for (size_t k = 0; k < length; ++k) bar += "█";
    out += fmt::format("  {:>11.4g} {}{}\n", histogram.low + step * static_cast<double>(i),
                       paint(bar, "34", style),
                       histogram.bins[i] == 0 ? "" : fmt::format(" {}", histogram.bins[i]));
    if (step == 0) break;
  }
  return out;
}

std::string metadata_text(const ModelFile& file, InspectStyle style) {
  std::string out;
  size_t width = 0;
  for (const auto& [key, value] : file.metadata) width = std::max(width, key.size());
  for (const auto& [key, value] : file.metadata)
    out += fmt::format(
        "{}{}  {}\n", paint(printable(key, 300), "1", style),
        std::string(std::min<size_t>(width, 60) - std::min({key.size(), width, size_t{60}}), ' '),
        to_text(value));
  return out;
}

std::string metadata_value_text(const MetadataValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text + "\n";
  if (const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(&value)) {
    std::string out;
    (*array)->for_each([&](const MetadataValue& item) {
      out += metadata_value_text(item);
      return true;
    });
    return out;
  }
  return to_text(value) + "\n";
}

std::string verification_text(const ModelFile& file, const Verification& verification,
                              bool all_hashes, InspectStyle style) {
  const auto verdict = verdict_of(verification);
  std::string out = heading("Verification", style);
  for (const auto& issue : verification.issues) out += issue_line(issue, style);
  if (verification.issues.empty()) out += "  nothing odd was found\n";
  if (all_hashes)
    for (size_t i = 0; i < file.tensors.size(); ++i)
      out += fmt::format("  {}  {}\n", verification.statistics[i].sha256,
                         printable(file.tensors[i].name, 300));
  uint64_t values = 0;
  for (const auto& s : verification.statistics) values += s.count;
  const char* colour = verdict == "SOUND" ? "32" : verdict == "SUSPECT" ? "33" : "31";
  out +=
      fmt::format("\n{}  {} values of {} tensors read, {:.2f} s\n", paint(verdict, colour, style),
                  count_text(values), verification.statistics.size(), verification.seconds);
  return out;
}

std::string comparison_text(const ModelFile& a, const ModelFile& b,
                            const FileComparison& comparison, bool all, InspectStyle style) {
  std::string out = fmt::format("first   {}  {} · {}\nsecond  {}  {} · {}\n", a.path.string(),
                                a.format_text, bytes_text(a.size_bytes()), b.path.string(),
                                b.format_text, bytes_text(b.size_bytes()));
  if (!comparison.sizes.empty())
    out += heading("Sizes and constants that differ (first | second)", style) +
           key_lines(comparison.sizes, all);
  if (!comparison.metadata.empty())
    out += heading(fmt::format("Metadata keys that differ: {}; {} are the same",
                               comparison.metadata.size(), comparison.metadata_same),
                   style) +
           key_lines(comparison.metadata, all);
  if (!comparison.tensors.empty())
    out += heading(fmt::format("Tensors that differ: {}", comparison.tensors.size()), style) +
           differences_text(comparison.tensors, all, style);
  out += "\n";
  for (const auto& note : comparison.notes) out += fmt::format("  note  {}\n", note);
  const auto verdict = comparison.verdict();
  const char* text = verdict == "SAME"       ? "every size and every value is the same"
                     : verdict == "ROUNDING" ? "the same model, its weights rounded differently"
                                             : "the files hold different models";
  out += fmt::format(
      "{}  {}: {} tensors hold the same values ({} the same bytes{}), {} do not\n",
      paint(verdict, verdict == "DIFFERENT" ? "31" : "32", style), text, comparison.tensors_same,
      comparison.tensors_same_bytes,
      comparison.converted > 0
          ? fmt::format(", {} after the change that the formats ask for", comparison.converted)
          : "",
      comparison.tensors.size());
  return out;
}

std::string issues_text(const std::vector<Issue>& issues, InspectStyle style) {
  if (issues.empty()) return {};
  std::string out = heading("What is wrong or odd", style);
  for (const auto& issue : issues) out += issue_line(issue, style);
  return out;
}

namespace {

// Statistics of a step at its last position, and how many positions there are.
std::string statistics_row(const std::string& name, const StepStatistics& entry) {
  const auto last = entry.row(entry.positions.size() - 1);
  return fmt::format("  {:<34}{:>6} ×{:>5}  {:>11.4g} {:>11.4g} {:>11.4g} {:>11.4g}  {}{}\n",
                     printable(name, 120), last.count, entry.positions.size(), last.norm, last.mean,
                     last.minimum, last.maximum, last.non_finite,
                     entry.sketch ? "" : "  (no sketch)");
}

std::string statistics_text(const Trace& trace, bool all_steps, InspectStyle style) {
  std::string out = heading("Statistics in place of values", style);
  uint64_t bytes = 0;
  for (const auto& [name, entry] : trace.statistics)
    bytes += entry.statistics.bytes.size() + (entry.sketch ? entry.sketch->bytes.size() : 0);
  out += line("recorded", fmt::format("{} steps, {}", trace.statistics.size(), bytes_text(bytes)));
  out +=
      fmt::format("  {:<34}{:>6} ×{:>5}  {:>11} {:>11} {:>11} {:>11}  {}\n", "of the last position",
                  "values", "rows", "norm", "mean", "minimum", "maximum", "not finite");
  size_t shown = 0;
  for (const auto& [name, entry] : trace.statistics) {
    if (!all_steps && shown++ == kShown) {
      out += fmt::format("  … {} more (--tensors shows them)\n", trace.statistics.size() - kShown);
      break;
    }
    out += statistics_row(name, entry);
  }
  return out;
}

}  // namespace

std::string trace_text(const Trace& trace, bool all_steps, InspectStyle style) {
  std::string out =
      fmt::format("{}  a trace: what each step of a run gave\n", paint(trace.label, "1", style));
  out += heading("Run", style);
  for (const auto& [key, value] : trace.provenance.engine) out += line(key, printable(value, 200));
  for (const auto& [key, value] : trace.provenance.model)
    out += line("model " + key, printable(value, 200));
  out += line("KV cache", trace.provenance.kv_cache);
  if (!trace.provenance.created.empty()) out += line("created", trace.provenance.created);
  out += line("arithmetic", trace.provenance.arithmetic.empty()
                                ? "not declared"
                                : fmt::format("declared for {} patterns of steps",
                                              trace.provenance.arithmetic.size()));
  out += heading("Tokens", style);
  out += line("prompt", fmt::format("{}", trace.prompt));
  out += line("decoded", fmt::format("{}", trace.tokens.size() - trace.prompt));
  out += heading("Steps", style);
  uint64_t bytes = 0;
  for (const auto& [name, step] : trace.steps) bytes += step.view.bytes.size();
  out += line("recorded", fmt::format("{} steps, {}", trace.steps.size(), bytes_text(bytes)));
  size_t shown = 0;
  for (const auto& [name, step] : trace.steps) {
    if (!all_steps && shown++ == kShown) {
      out += fmt::format("  … {} more (--tensors shows them)\n", trace.steps.size() - kShown);
      break;
    }
    out += fmt::format("  {:<34}{:<6}{:>16}  positions {} to {}\n", printable(name, 120),
                       info(step.view.dtype).name, to_text(step.view.shape),
                       step.positions.empty() ? 0 : step.positions.front(),
                       step.positions.empty() ? 0 : step.positions.back());
  }
  if (!trace.statistics.empty()) out += statistics_text(trace, all_steps, style);
  if (!trace.unknown.empty())
    out += line("other tensors", fmt::format("{} names that are no step", trace.unknown.size()));
  return out;
}

}  // namespace plumb
