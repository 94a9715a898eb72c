// SPDX-License-Identifier: Apache-2.0
#include "cli/sides.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "report/report.h"

namespace plumb::cli {

std::string side_label(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

void ReportOptions::add_to(CLI::App& app) {
  app.add_flag("--json", json, "Print JSON (docs/report.md)");
  app.add_option("--html", html, "Write a report for a browser to this file");
  app.add_flag("--all", all, "Show every step in the text");
}

Result<int> report(const Comparison& comparison, const ReportOptions& options) {
  end_progress();
  if (!options.html.empty()) TRY(write_file(options.html, to_html(comparison)));
  if (options.json) {
    fmt::print("{}", to_json(comparison));
  } else {
    const bool colour = isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
    fmt::print("{}", to_text(comparison, {.all_steps = options.all, .colour = colour}));
  }
  switch (comparison.verdict) {
    case Verdict::Same:
    case Verdict::Explained: return kPass;
    case Verdict::Different: return kFail;
    default: return kUnmeasured;
  }
}

}  // namespace plumb::cli
