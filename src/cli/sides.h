// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "cli/commands.h"
#include "parity/parity.h"
#include "record/record.h"

namespace plumb::cli {

std::string side_label(const std::string& path);
// Exit code, text or JSON on stdout, the HTML file.
struct ReportOptions {
  bool json = false, all = false, no_confirm = false;
  std::string html;
  void add_to(CLI::App& app);
};
// Runs of the models with and without each fault that was found (plumb's fast path, a cache of
// floats). What cannot be run is said in a note.
void confirm_findings(Comparison& comparison, Threads& threads);
Result<int> report(const Comparison& comparison, const ReportOptions& options);

}  // namespace plumb::cli
