// SPDX-License-Identifier: Apache-2.0
#include "cli/sides.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "backends/cpu/cpu_backend.h"
#include "report/report.h"

namespace plumb::cli {

std::string side_label(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

void ReportOptions::add_to(CLI::App& app) {
  app.add_flag("--json", json, "Print JSON (docs/report.md)");
  app.add_option("--html", html, "Write a report for a browser to this file");
  app.add_flag("--no-confirm", no_confirm,
               "Skip the runs that confirm each finding and give it a price of its own");
  app.add_flag("--all", all, "Show every step in the text");
}

void confirm_findings(Comparison& comparison, Threads& threads) {
  if (comparison.sides.empty()) return;
  const auto& trace = comparison.sides[0].trace;
  // Four sets of logits are held at a time.
  constexpr uint64_t kMostBytes = uint64_t{1} << 30;
  for (const auto& side : comparison.sides)
    if (side.model &&
        trace.tokens.size() * side.model->config.vocabulary * sizeof(float) * 4 > kMostBytes) {
      comparison.notes.push_back(fmt::format(
          "findings were not confirmed by runs: the logits of {} positions are too large",
          trace.tokens.size()));
      return;
    }
  auto backend = make_cpu_backend("best");
  if (!backend)
    return comparison.notes.push_back("findings were not confirmed by runs: " +
                                      backend.error().message);
  size_t runs = 0;
  const auto run = [&](const Model& model, const Plan& plan) {
    ++runs;
    show_progress("confirming, run", runs, runs);
    return run_logits({model, plan, **backend, threads}, trace.tokens, trace.prompt, 0);
  };
  if (const auto done = confirm(comparison, run); !done)
    comparison.notes.push_back("findings were not confirmed by runs: " + done.error().message);
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
