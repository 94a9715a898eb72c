// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "cli/commands.h"
#include "quant/values.h"
#include "report/inspect_report.h"

namespace plumb::cli {
namespace {

struct InspectOptions {
  std::vector<std::string> files;
  std::string filter, sort = "file", tensor, slice, metadata;
  size_t context = 0, threads = 0;
  bool tensors = false, statistics = false, verify = false, no_hash = false, hashes = false,
       json = false, all = false;
};

InspectStyle style() {
  return {.colour = isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr};
}

bool matches(const std::string& pattern, const std::string& name) {
  return pattern.empty() || fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

// --- --tensor NAME --slice 0:4,0:8
// ------------------------------------------------------------------------------------

struct Range {
  uint64_t begin = 0, end = 0;
};

std::unexpected<Error> bad_slice(const std::string& text, const std::vector<uint64_t>& shape) {
  return fail(ErrorCode::Usage,
              fmt::format("--slice '{}': expected one index or BEGIN:END for each dimension of {}, "
                          "such as 0:4,0:8",
                          text, to_text(shape)));
}

// "3", "0:4", ":4", "4:" or ":" within [0, size).
std::optional<Range> parse_range(std::string_view text, uint64_t size) {
  const auto number = [](std::string_view digits, uint64_t fallback) -> std::optional<uint64_t> {
    if (digits.empty()) return fallback;
    uint64_t value = 0;
    const auto [stop, error] = std::from_chars(digits.begin(), digits.end(), value);
    if (error != std::errc() || stop != digits.end()) return std::nullopt;
    return value;
  };
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    const auto index = number(text, size);
    if (!index || *index >= size) return std::nullopt;
    return Range{*index, *index + 1};
  }
  const auto begin = number(text.substr(0, colon), 0);
  const auto end = number(text.substr(colon + 1), size);
  if (!begin || !end || *begin > *end || *end > size) return std::nullopt;
  return Range{*begin, *end};
}

Result<std::vector<Range>> parse_slice(const std::string& text,
                                       const std::vector<uint64_t>& shape) {
  std::vector<Range> ranges;
  if (text.empty()) {  // the corner
    for (size_t d = 0; d < shape.size(); ++d)
      ranges.push_back({0, std::min<uint64_t>(shape[d], d + 1 == shape.size()   ? 8
                                                        : d + 2 == shape.size() ? 4
                                                                                : 1)});
    return ranges;
  }
  size_t begin = 0;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (begin > text.size()) return bad_slice(text, shape);
    const size_t end = std::min(text.find(',', begin), text.size());
    const auto range = parse_range(std::string_view(text).substr(begin, end - begin), shape[d]);
    if (!range) return bad_slice(text, shape);
    ranges.push_back(*range);
    begin = end + 1;
  }
  if (begin <= text.size()) return bad_slice(text, shape);
  return ranges;
}

constexpr uint64_t kMostValues = 65536;

Result<std::string> slice_text(const TensorView& view, const std::string& slice) {
  TRY_ASSIGN(const auto ranges, parse_slice(slice, view.shape));
  uint64_t count = 1;
  for (const auto& range : ranges) count *= range.end - range.begin;
  if (count > kMostValues)
    return fail(ErrorCode::Usage, fmt::format("--slice '{}' has {} values, at most {} are printed",
                                              slice, count, kMostValues));
  std::string out;
  if (count == 0 || ranges.empty()) return out;
  std::vector<uint64_t> at;
  for (const auto& range : ranges) at.push_back(range.begin);
  const auto& last = ranges.back();
  std::vector<float> values(last.end - last.begin);
  while (true) {
    uint64_t first = 0;
    for (size_t d = 0; d < at.size(); ++d) first = first * view.shape[d] + at[d];
    read_values(view, first, values.size(), values.data());
    std::string place;
    for (size_t d = 0; d + 1 < at.size(); ++d) place += fmt::format("{},", at[d]);
    out += fmt::format("  [{}{}:{}]", place, last.begin, last.end);
    for (const float v : values) out += fmt::format(" {:.7g}", static_cast<double>(v));
    out += "\n";
    size_t d = at.size() - 1;
    while (d > 0 && ++at[d - 1] == ranges[d - 1].end) {
      at[d - 1] = ranges[d - 1].begin;
      --d;
    }
    if (d == 0) return out;
  }
}

Result<int> show_tensor(const ModelFile& file, const InspectOptions& options) {
  const auto* tensor = file.find(options.tensor);
  if (tensor == nullptr) {
    std::string like;
    for (const auto& other : file.tensors)
      if (other.name.find(options.tensor) != std::string::npos && like.size() < 200)
        like += (like.empty() ? "; names that hold it: " : ", ") + plumb::printable(other.name, 80);
    return fail(ErrorCode::Usage,
                fmt::format("{}: there is no tensor '{}' among {}{}; --tensors lists them",
                            file.path.string(), options.tensor, file.tensors.size(), like));
  }
  const auto statistics = measure(tensor->view, {.sha256 = true});
  const auto bins = histogram(tensor->view, statistics);
  if (options.json) {
    fmt::print("{}", tensor_json(*tensor, statistics, bins));
    return kPass;
  }
  TRY_ASSIGN(const auto values, slice_text(tensor->view, options.slice));
  fmt::print("{}\n{}", tensor_text(*tensor, statistics, bins, style()), values);
  return kPass;
}

// --- --tensors
// --------------------------------------------------------------------------------------------------------

Result<int> show_tensors(const ModelFile& file, const InspectOptions& options) {
  std::vector<TensorStatistics> statistics(file.tensors.size());
  std::vector<TensorRowFacts> rows;
  const bool measured = options.statistics || options.sort == "rms";
  Threads threads(options.threads == 0 ? available_processors() : options.threads);
  threads.run(measured ? file.tensors.size() : 0, 1, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      if (matches(options.filter, file.tensors[i].name))
        statistics[i] = measure(file.tensors[i].view);
  });
  for (size_t i = 0; i < file.tensors.size(); ++i)
    if (matches(options.filter, file.tensors[i].name))
      rows.push_back({&file.tensors[i], measured ? &statistics[i] : nullptr});
  if (rows.empty())
    return fail(ErrorCode::Usage, fmt::format("{}: no tensor's name matches '{}'",
                                              file.path.string(), options.filter));
  // Equal ones stay in the order of the file.
  const auto sort_by = [&](auto key) {
    std::sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) {
      return std::pair(key(a), a.tensor) < std::pair(key(b), b.tensor);
    });
  };
  if (options.sort == "name") sort_by([](const auto& r) { return r.tensor->name; });
  if (options.sort == "size")
    sort_by([](const auto& r) { return -static_cast<int64_t>(r.tensor->view.bytes.size()); });
  if (options.sort == "type")
    sort_by([](const auto& r) { return info(r.tensor->view.dtype).name; });
  if (options.sort == "rms") sort_by([](const auto& r) { return -r.statistics->rms; });
  fmt::print("{}", tensors_text(rows, style()));
  return kPass;
}

Result<int> show_metadata(const ModelFile& file, const InspectOptions& options) {
  if (const auto found = file.metadata.find(options.metadata); found != file.metadata.end()) {
    fmt::print("{}", metadata_value_text(found->second));
    return kPass;
  }
  ModelFile shown;
  for (const auto& [key, value] : file.metadata)
    if (matches(options.metadata, key)) shown.metadata.emplace(key, value);
  if (shown.metadata.empty())
    return fail(ErrorCode::Usage,
                fmt::format("{}: there is no metadata key '{}'; --metadata '*' lists all {}",
                            file.path.string(), options.metadata, file.metadata.size()));
  fmt::print("{}", metadata_text(shown, style()));
  return kPass;
}

// --- The whole file
// ---------------------------------------------------------------------------------------------------

Verification verify_file(const ModelFile& file, const Summary& summary,
                         const InspectOptions& options) {
  Threads threads(options.threads == 0 ? available_processors() : options.threads);
  auto verification =
      verify(file, summary.sizes, threads, {.sha256 = !options.no_hash},
             [](size_t done, size_t all) { show_progress("reading tensors", done, all); });
  end_progress();
  // The file was opened without its checksum over everything, so that a wrong one is one finding
  // among others.
  if (const auto again = open_model_file(file.path, {.verify_checksums = true}); !again)
    verification.issues.insert(verification.issues.begin(),
                               {Severity::Unsound, "checksum", "", again.error().message});
  return verification;
}

Result<int> show_file(const ModelFile& file, const InspectOptions& options) {
  const auto summary = summarize(file, options.context);
  if (!options.verify) {
    const Verification structure{check_structure(file, summary.sizes), {}, 0, 0};
    if (options.json) {
      fmt::print("{}",
                 inspect_json(
                     file, summary,
                     {.tensors = options.tensors, .metadata = true, .issues = &structure.issues}));
    } else {
      fmt::print("{}{}", summary_text(file, summary, style()),
                 issues_text(structure.issues, style()));
    }
    return structure.worst() == Severity::Unsound ? kFail : kPass;
  }
  const auto verification = verify_file(file, summary, options);
  if (options.json)
    fmt::print("{}",
               inspect_json(file, summary,
                            {.tensors = true, .metadata = false, .verification = &verification}));
  else
    fmt::print("{}{}", summary_text(file, summary, style()),
               verification_text(file, verification, options.hashes, style()));
  return verification.worst() == Severity::Note ? kPass : kFail;
}

Result<int> compare_two(const InspectOptions& options) {
  TRY_ASSIGN(const auto a, open_model_file(options.files[0]));
  TRY_ASSIGN(const auto b, open_model_file(options.files[1]));
  const auto comparison = compare_files(
      a, b, [](size_t done, size_t all) { show_progress("comparing tensors", done, all); });
  end_progress();
  if (options.json) fmt::print("{}", comparison_json(a, b, comparison));
  else fmt::print("{}", comparison_text(a, b, comparison, options.all, style()));
  return comparison.verdict() == "DIFFERENT" ? kFail : kPass;
}

Result<int> inspect(const InspectOptions& options) {
  if (options.files.size() == 2) return compare_two(options);
  const auto& path = options.files.front();
  if (is_plumb_trace(path)) {
    TRY_ASSIGN(const auto trace, open_trace(path));
    fmt::print("{}",
               options.json ? trace_json(trace) : trace_text(trace, options.tensors, style()));
    return kPass;
  }
  TRY_ASSIGN(const auto file, open_model_file(path, {.verify_checksums = false}));
  if (!options.tensor.empty()) return show_tensor(file, options);
  if (!options.metadata.empty()) return show_metadata(file, options);
  if (!options.json && (options.tensors || options.statistics || !options.filter.empty()))
    return show_tensors(file, options);
  return show_file(file, options);
}

}  // namespace

void add_inspect(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<InspectOptions>();
  auto* app = program.add_subcommand(
      "inspect",
      "What a model file or a trace holds, and whether it is sound; two files: what differs");
  app->add_option("FILE", options->files,
                  "Model: GGUF, APR, safetensors, index.json or a Hugging Face folder; or a trace")
      ->required()
      ->expected(1, 2);
  app->add_flag(
      "--verify", options->verify,
      "Read every weight: NaN, infinite, zero, out of scale; checksums; sha256 of values");
  app->add_flag("--no-hash", options->no_hash,
                "With --verify: no sha256, which is most of the time");
  app->add_flag("--hashes", options->hashes,
                "With --verify: print the sha256 of each tensor's values");
  app->add_flag("--tensors", options->tensors, "List the tensors");
  app->add_option("--filter", options->filter,
                  "List the tensors whose name matches, such as '*attn_q*'");
  app->add_option("--sort", options->sort, "Order of the list")
      ->check(CLI::IsMember({"file", "name", "size", "type", "rms"}))
      ->capture_default_str();
  app->add_flag("--stats", options->statistics,
                "With the list: smallest, largest, mean, rms, zeros");
  app->add_option("--tensor", options->tensor, "One tensor: statistics, histogram, values, sha256");
  app->add_option("--slice", options->slice, "With --tensor: the values to print, such as 0:4,0:8");
  app->add_option("--metadata", options->metadata,
                  "The value of a key; a pattern such as '*rope*' lists keys");
  app->add_option("--context", options->context,
                  "Tokens to count memory for; the model's own if not given");
  app->add_option("--threads", options->threads, "Threads; 0: all processors")
      ->check(CLI::Range(0, 1024));
  app->add_flag("--all", options->all, "With two files: every difference, not merged over layers");
  app->add_flag("--json", options->json, "Print JSON");
  app->callback([options, &chosen] {
    chosen = [options]() -> int {
      const auto code = inspect(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
