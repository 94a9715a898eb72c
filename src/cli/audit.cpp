// SPDX-License-Identifier: Apache-2.0
#include "cli/foreign.h"
#include "cli/sides.h"

namespace plumb::cli {
namespace {

struct AuditOptions {
  std::string trace, model;
  size_t threads = 0;
  NamesOptions names;
  ReportOptions report;
};

Result<int> run_audit(const AuditOptions& options) {
  TRY_ASSIGN(auto model, load_model(options.model));
  TRY_ASSIGN(auto trace, open_run(options.trace, &model, options.names));
  Threads threads(options.threads == 0 ? available_processors() : options.threads);
  auto shared = std::make_shared<const Model>(std::move(model));
  Plan plan = make_plan(*shared, trace.tokens.size());
  Side side{"baseline", side_label(options.trace), shared, std::move(plan), std::move(trace)};
  auto result = audit(std::move(side), threads,
                      [](size_t done, size_t all) { show_progress("replaying step", done, all); });
  if (!options.report.no_confirm) confirm_findings(result, threads);
  return report(result, options.report);
}

}  // namespace

void add_audit(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<AuditOptions>();
  auto* app = program.add_subcommand("audit",
                                     "Judge one run: replay each of its steps in double precision");
  app->add_option("TRACE", options->trace, "Trace, or another engine's dump")->required();
  app->add_option("--model", options->model, "Model that the run belongs to")->required();
  app->add_option("--threads", options->threads, "Threads; 0: all processors")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  options->names.add_to(*app, true);
  options->report.add_to(*app);
  app->callback([options, &chosen] {
    chosen = [options] {
      const auto code = run_audit(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
