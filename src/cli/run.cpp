// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "model/sampler.h"
#include "record/record.h"

namespace plumb::cli {
namespace {

struct RunOptions {
  std::string model;
  InputOptions input;
  MachineOptions machine;
  SamplingOptions sampling;
  bool json = false, ignore_end = false;
};

struct Generated {
  std::vector<Token> prompt, tokens;
  std::vector<float> logits;  // of each generated token
  std::string text, stop = "length";
  double prefill_seconds = 0, decode_seconds = 0;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Result<Generated> generate(const RunOptions& options, const Model& model, const Backend& backend,
                           Threads& threads) {
  Generated run;
  TRY_ASSIGN(run.prompt, read_tokens(options.input, model));
  const Plan plan = make_plan(model);
  const size_t wanted = options.input.decode;
  if (run.prompt.size() + wanted > model.config.context)
    return fail(
        ErrorCode::Usage,
        fmt::format(
            "{} prompt tokens and {} to decode do not fit: the model's context is {} tokens",
            run.prompt.size(), wanted, model.config.context));
  TRY_ASSIGN(auto session, backend.open(model, plan, run.prompt.size() + wanted, threads));
  Sampler sampler(options.sampling);
  std::optional<StreamDecoder> stream;
  if (model.tokenizer) stream.emplace(*model.tokenizer);
  const auto say = [&](const std::string& bytes) {
    run.text += bytes;
    if (options.json) return;
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    std::fflush(stdout);
  };
  auto start = std::chrono::steady_clock::now();
  TRY_ASSIGN(auto logits, session->forward(run.prompt, Outputs::LastPosition, nullptr));
  run.prefill_seconds = seconds_since(start);
  start = std::chrono::steady_clock::now();
  while (run.tokens.size() < wanted) {
    const Token next = sampler.sample(logits);
    if (next < 0)
      return fail(ErrorCode::Corrupt, fmt::format("no logit is a number at position {}",
                                                  run.prompt.size() + run.tokens.size()));
    run.tokens.push_back(next);
    run.logits.push_back(logits[static_cast<size_t>(next)]);
    if (!options.ignore_end && model.tokenizer && model.tokenizer->is_end(next)) {
      run.stop = "end token";
      break;
    }
    if (stream) say(stream->feed(next));
    if (run.tokens.size() == wanted) break;
    TRY_ASSIGN(logits, session->forward({&next, 1}, Outputs::LastPosition, nullptr));
  }
  if (stream) say(stream->flush());
  run.decode_seconds = seconds_since(start);
  return run;
}

void print_json(const Generated& run, const Model& model, const Backend& backend,
                const Threads& threads) {
  nlohmann::ordered_json out;
  out["plumb"] = "run";
  out["version"] = 1;
  out["model"] = {{"file", model.path}, {"sha256", model.sha256}};
  out["backend"] = backend.name();
  out["level"] = backend.level();
  out["threads"] = threads.count();
  out["prompt"] = run.prompt;
  out["tokens"] = run.tokens;
  out["logits"] = run.logits;
  out["text"] = run.text;
  out["stop"] = run.stop;
  out["prefill_tokens_per_second"] = static_cast<double>(run.prompt.size()) / run.prefill_seconds;
  if (run.tokens.size() > 1)
    out["decode_tokens_per_second"] =
        static_cast<double>(run.tokens.size() - 1) / run.decode_seconds;
  fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

Result<int> run(const RunOptions& options) {
  TRY(check(options.sampling));
  TRY_ASSIGN(const auto model, load_model(options.model));
  TRY_ASSIGN(const auto backend, options.machine.make_backend());
  Threads threads(options.machine.thread_count());
  if (!model.tokenizer && !options.json)
    fmt::print(stderr, "plumb: {}; ids are printed\n", model.tokenizer_missing);
  TRY_ASSIGN(const auto result, generate(options, model, *backend, threads));
  if (options.json) {
    print_json(result, model, *backend, threads);
  } else {
    if (!model.tokenizer) fmt::print("{}", fmt::join(result.tokens, ","));
    fmt::print("\n");
    std::fflush(stdout);
    fmt::print(stderr, "\n{} · {} {} · {} threads · prompt {} tokens {:.0f} t/s", model.config.name,
               backend->name(), backend->level(), threads.count(), result.prompt.size(),
               static_cast<double>(result.prompt.size()) / result.prefill_seconds);
    if (result.tokens.size() > 1)
      fmt::print(stderr, " · decode {} tokens {:.1f} t/s", result.tokens.size(),
                 static_cast<double>(result.tokens.size() - 1) / result.decode_seconds);
    fmt::print(stderr, " · stopped by {}\n", result.stop);
  }
  return kPass;
}

}  // namespace

void add_run(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<RunOptions>();
  auto* app = program.add_subcommand("run", "Generate text");
  app->add_option("MODEL", options->model, "Model file (GGUF)")->required();
  options->input.add_to(*app, 64);
  options->machine.add_to(*app);
  app->add_option("--temperature", options->sampling.temperature, "0: greedy")
      ->capture_default_str();
  app->add_option("--top-k", options->sampling.top_k, "Keep the k best tokens; 0: all")
      ->capture_default_str();
  app->add_option("--top-p", options->sampling.top_p, "Keep the best tokens up to this probability")
      ->capture_default_str();
  app->add_option("--min-p", options->sampling.min_p,
                  "Drop tokens below this share of the best one")
      ->capture_default_str();
  app->add_option("--seed", options->sampling.seed, "The same seed gives the same tokens")
      ->capture_default_str();
  app->add_flag("--ignore-end", options->ignore_end, "Go on after an end token");
  app->add_flag("--json", options->json, "Print JSON");
  app->callback([options, &chosen] {
    chosen = [options] {
      const auto code = run(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
