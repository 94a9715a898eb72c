// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "backends/referee/referee_backend.h"
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

// The referee's run on the tokens of a trace: its statistics, which a long run has room for.
Result<Trace> run_referee(const Model& model, const Plan& plan, const Trace& trace,
                          Threads& threads) {
  const auto backend = make_referee_backend();
  const RunSetup setup{model, plan, *backend, threads,
                       find_kv_type(trace.provenance.kv_cache).value_or(KvType::F32)};
  const size_t prompt = std::max<size_t>(trace.prompt, 1);
  const StepChoice all{.patterns = {}, .depth = Depth::Statistics};
  TRY_ASSIGN(auto layout, plan_trace(setup, trace.tokens, prompt, all, {}));
  TRY_ASSIGN(auto writer, TraceWriter::to_memory("the referee", std::move(layout)));
  show_progress("running the referee", 0, 1);
  TRY(record(setup, trace.tokens, prompt, *writer));
  return writer->finish_in_memory();
}

Result<int> run_audit(const AuditOptions& options) {
  TRY_ASSIGN(auto model, load_model(options.model));
  TRY_ASSIGN(auto trace, open_run(options.trace, &model, options.names));
  Threads threads(options.threads == 0 ? available_processors() : options.threads);
  auto shared = std::make_shared<const Model>(std::move(model));
  Plan plan = make_plan(*shared, trace.tokens.size());
  const auto referee = [shared, plan, trace, &threads] {
    return run_referee(*shared, plan, trace, threads);
  };
  const bool screening = trace.has_only_statistics();
  Side side{"baseline", side_label(options.trace), shared, std::move(plan), std::move(trace)};
  if (screening) {
    TRY_ASSIGN(const auto screened, screen_audit(std::move(side), referee));
    return report(screened, options.report);
  }
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
