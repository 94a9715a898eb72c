// SPDX-License-Identifier: Apache-2.0
#include "inspect/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>

#include "inspect/packed_weights.h"
#include "inspect/tokenizer_facts.h"
#include "model/tensor_table.h"

namespace plumb {
namespace {

std::string place(const TensorView& view, uint64_t index) {
  std::vector<uint64_t> at(view.shape.size());
  for (size_t d = view.shape.size(); d-- > 0;) {
    at[d] = index % view.shape[d];
    index /= view.shape[d];
  }
  return to_text(at);
}

bool is_embedding(const std::string& name) {
  return name.find("embed") != std::string::npos || name.find("embd") != std::string::npos ||
         name.ends_with("wte.weight") || name.ends_with("wpe.weight");
}

// Chance makes a run of `length` zeros somewhere among `count` values with this probability at
// most, if each value is zero by itself as often as in the rest of the tensor.
double chance_of_run(const TensorStatistics& s) {
  const double others = static_cast<double>(s.count - s.zero_run);
  if (others <= 0) return 1;
  const double share = (static_cast<double>(s.zeros - s.zero_run) + 1) / (others + 1);
  return static_cast<double>(s.count) * std::pow(share, static_cast<double>(s.zero_run));
}

// A run that chance makes less often than once in a million tensors was made by something else.
constexpr double kChance = 1e-6;

void check_zeros(const TensorEntry& tensor, const TensorStatistics& s, uint64_t vocabulary,
                 std::vector<Issue>& issues) {
  if (s.count > 0 && s.zeros == s.count) {
    issues.push_back({Severity::Suspect, "values.zero", tensor.name,
                      fmt::format("all {} values are zero", s.count)});
    return;
  }
  if (s.zero_run == 0 || chance_of_run(s) > kChance) return;
  const uint64_t columns = tensor.view.shape.back();
  const uint64_t row = s.zero_run_begin / columns;
  // Rows behind the tokenizer's last token pad a vocabulary to a round size.
  if (is_embedding(tensor.name) && vocabulary > 0 && row >= vocabulary) return;
  const auto what =
      s.zero_run >= columns
          ? fmt::format("rows {} to {} are zero", row + (s.zero_run_begin % columns != 0),
                        (s.zero_run_begin + s.zero_run) / columns - 1)
          : fmt::format("{} zeros in a row from {} on", s.zero_run,
                        place(tensor.view, s.zero_run_begin));
  issues.push_back(
      {Severity::Suspect, "values.zero_run", tensor.name,
       fmt::format("{}; by chance, with as many zeros as elsewhere in it, that happens "
                   "once in {:.0e} tensors",
                   what, 1 / std::max(chance_of_run(s), 1e-300))});
}

void check_values(const TensorEntry& tensor, const TensorStatistics& s, uint64_t vocabulary,
                  std::vector<Issue>& issues) {
  if (s.count == 0)
    issues.push_back({Severity::Suspect, "values.none", tensor.name,
                      fmt::format("it is empty: shape {}", to_text(tensor.view.shape))});
  if (s.nans > 0)
    issues.push_back({Severity::Unsound, "values.nan", tensor.name,
                      fmt::format("{} NaN value{}, the first at {}", s.nans, s.nans == 1 ? "" : "s",
                                  place(tensor.view, s.first_nan))});
  if (s.infinities > 0)
    issues.push_back(
        {Severity::Unsound, "values.infinite", tensor.name,
         fmt::format("{} infinite value{}, the first at {}", s.infinities,
                     s.infinities == 1 ? "" : "s", place(tensor.view, s.first_infinity))});
  if (tensor.view.shape.empty()) return;
  check_zeros(tensor, s, vocabulary, issues);
  if (s.constant && s.zeros != s.count && tensor.view.shape.size() > 1)
    issues.push_back({Severity::Suspect, "values.constant", tensor.name,
                      fmt::format("all {} values are {:g}", s.count, static_cast<double>(s.min))});
}

// "blk.3.attn_q.weight" → "blk.*.attn_q.weight": what has the same role in every layer.
std::string role_of(const std::string& name) {
  std::string role;
  for (size_t i = 0; i < name.size();) {
    const bool part_begins = i == 0 || name[i - 1] == '.';
    size_t end = i;
    while (end < name.size() && name[end] >= '0' && name[end] <= '9') ++end;
    if (part_begins && end > i && end < name.size() && name[end] == '.') {
      role += '*';
      i = end;
    } else {
      role += name[i++];
    }
  }
  return role;
}

// The rms of one role stays within a factor of 14 of its median over the layers of the models that
// were looked at (docs/inspect.md); a scale that was lost or applied twice, or a broken block
// scale, moves it by orders of magnitude.
constexpr double kScaleOfRole = 100;
// In the same models the largest value of a matrix is at most 51 times its rms.
constexpr double kOutlier = 1000;

void check_scales(const ModelFile& file, const std::vector<TensorStatistics>& statistics,
                  std::vector<Issue>& issues) {
  std::map<std::string, std::vector<size_t>> roles;
  for (size_t i = 0; i < file.tensors.size(); ++i)
    if (statistics[i].rms > 0) roles[role_of(file.tensors[i].name)].push_back(i);
  for (const auto& [role, members] : roles) {
    if (members.size() < 3) continue;
    std::vector<double> sizes;
    for (const size_t i : members) sizes.push_back(statistics[i].rms);
    std::ranges::nth_element(sizes, sizes.begin() + static_cast<ptrdiff_t>(sizes.size() / 2));
    const double median = sizes[sizes.size() / 2];
    for (const size_t i : members) {
      const double ratio = statistics[i].rms / median;
      if (ratio < kScaleOfRole && ratio > 1 / kScaleOfRole) continue;
      issues.push_back({Severity::Suspect, "values.scale", file.tensors[i].name,
                        fmt::format("its size (rms {:.3g}) is {:.3g} times that of the same tensor "
                                    "in other layers (median {:.3g})",
                                    statistics[i].rms, ratio, median)});
    }
  }
  for (size_t i = 0; i < file.tensors.size(); ++i) {
    const auto& s = statistics[i];
    if (file.tensors[i].view.shape.size() < 2 || !(s.rms > 0)) continue;
    const double largest =
        std::max(std::fabs(static_cast<double>(s.min)), std::fabs(static_cast<double>(s.max)));
    // n values of which one is `largest` have an rms of at least largest/sqrt(n).
    const double possible = std::sqrt(static_cast<double>(s.count));
    if (largest > s.rms * std::min(kOutlier, possible * 0.9) && s.count > 16)
      issues.push_back({Severity::Suspect, "values.outlier", file.tensors[i].name,
                        fmt::format("its largest value {:.3g} is {:.3g} times its rms", largest,
                                    largest / s.rms)});
  }
}

void check_layout(const ModelFile& file, std::vector<Issue>& issues) {
  if (file.format != FileFormat::Gguf) return;
  for (size_t part = 0; part < file.parts.size(); ++part) {
    uint64_t end = 0;
    for (const auto& tensor : file.tensors)
      if (tensor.part == part) end = std::max(end, tensor.file_offset + tensor.view.bytes.size());
    const uint64_t size = file.parts[part].file.bytes().size();
    constexpr uint64_t kLargestPadding = 4096;
    if (end > 0 && size > end + kLargestPadding)
      issues.push_back({Severity::Note, "layout.trailing", "",
                        fmt::format("{} bytes after the last tensor of {} belong to nothing",
                                    size - end, file.parts[part].path.filename().string())});
  }
}

// Packed matrices, row by row: their parts may each be sound and give values that are not.
void check_packed(const ModelFile& file, Threads& threads, std::vector<Issue>& issues) {
  const auto packed = packed_weights(file);
  std::vector<uint64_t> bad(packed.weights.size());
  threads.run(packed.weights.size(), 1, [&](size_t begin, size_t end) {
    std::vector<float> row;
    for (size_t i = begin; i < end; ++i) {
      row.resize(packed.weights[i].in);
      for (size_t r = 0; r < packed.weights[i].out; ++r) {
        read_packed_row(packed.weights[i], r, row.data());
        bad[i] += static_cast<uint64_t>(
            std::ranges::count_if(row, [](float v) { return !std::isfinite(v); }));
      }
    }
  });
  for (size_t i = 0; i < bad.size(); ++i)
    if (bad[i] > 0)
      issues.push_back({Severity::Unsound, "values.nan", packed.weights[i].name,
                        fmt::format("{} of its unpacked values are NaN or infinite ({})", bad[i],
                                    packed_name(packed.weights[i].scheme))});
}

// The most severe first, each kind in the order in which it was found.
void sort_issues(std::vector<Issue>& issues) {
  std::vector<Issue> sorted;
  for (const auto severity : {Severity::Unsound, Severity::Suspect, Severity::Note})
    for (auto& issue : issues)
      if (issue.severity == severity) sorted.push_back(std::move(issue));
  issues = std::move(sorted);
}

}  // namespace

Severity Verification::worst() const {
  Severity worst = Severity::Note;
  for (const auto& issue : issues) worst = std::max(worst, issue.severity);
  return worst;
}

std::vector<Issue> check_structure(const ModelFile& file, const Hyperparameters& hyperparameters) {
  std::vector<Issue> issues;
  for (const auto& problem : hyperparameters.problems)
    issues.push_back({Severity::Unsound, "metadata", "", problem});
  const auto packed = packed_weights(file);
  if (!packed.problem.empty())
    issues.push_back({Severity::Unsound, "tensors.packed", "", packed.problem});
  for (const auto& weight : packed.weights)
    for (const auto& warning : weight.warnings)
      issues.push_back({Severity::Note, "tensors.packed", weight.name, warning});
  for (const auto& issue : check_tensors(logical_file(file, packed), hyperparameters)) {
    const char* codes[] = {"tensors.missing", "tensors.extra", "tensors.shape",
                           "tensors.inconsistent"};
    issues.push_back({issue.serious ? Severity::Unsound : Severity::Note,
                      codes[static_cast<size_t>(issue.kind)], issue.tensor, issue.text});
  }
  for (const auto& problem : tokenizer_facts(file).problems)
    issues.push_back({Severity::Unsound, "tokenizer", "", problem});
  for (const auto& warning : file.warnings) issues.push_back({Severity::Note, "file", "", warning});
  if (file.tensors.empty())
    issues.push_back({Severity::Unsound, "tensors.none", "", "the file holds no tensor"});
  check_layout(file, issues);
  sort_issues(issues);
  return issues;
}

Verification verify(const ModelFile& file, const Hyperparameters& hyperparameters, Threads& threads,
                    VerifyOptions options, const std::function<void(size_t, size_t)>& progress) {
  const auto start = std::chrono::steady_clock::now();
  Verification result;
  result.statistics.resize(file.tensors.size());
  // The largest first, so that no thread is left with one at the end.
  std::vector<size_t> order(file.tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, std::greater{},
                    [&](size_t i) { return file.tensors[i].view.bytes.size(); });
  std::mutex mutex;
  size_t done = 0;
  threads.run(order.size(), 1, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      result.statistics[order[i]] =
          measure(file.tensors[order[i]].view, {.sha256 = options.sha256});
      const std::scoped_lock lock(mutex);
      if (progress) progress(++done, order.size());
    }
  });
  const uint64_t vocabulary = tokenizer_facts(file).tokens;
  for (size_t i = 0; i < file.tensors.size(); ++i) {
    check_values(file.tensors[i], result.statistics[i], vocabulary, result.issues);
    result.bytes += file.tensors[i].view.bytes.size();
  }
  check_scales(file, result.statistics, result.issues);
  check_packed(file, threads, result.issues);
  const auto structure = check_structure(file, hyperparameters);
  result.issues.insert(result.issues.begin(), structure.begin(), structure.end());
  sort_issues(result.issues);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace plumb
