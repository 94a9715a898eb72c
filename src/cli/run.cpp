// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "backends/session_memory.h"
#include "chat/chat_template.h"
#include "cli/commands.h"
#include "generate/generator.h"

namespace plumb::cli {
namespace {

constexpr int kInterrupted = 130;  // what a shell says of a program that SIGINT ended
constexpr size_t kDecode = 64;
constexpr size_t kChatDecode = 512;  // an answer ends by itself

struct RunOptions {
  std::string model;
  InputOptions input;
  MachineOptions machine;
  GenerateOptions generate;
  KvType kv = SessionOptions{}.kv_cache;
  size_t context = 0, logprobs = 0;
  bool json = false, ids = false, chat = false, show_prompt = false;
  std::string system, chat_template;
  const CLI::App* app = nullptr;  // outlives the run of the command
  bool given(const std::string& option) const { return app->count(option) > 0; }
};

struct Prompt {
  std::string text;  // what became tokens; empty if ids were given
  std::vector<Token> tokens;
};

// All that one run has and gives, for the reports.
struct Done {
  const RunOptions& options;
  const Model& model;
  const Backend& backend;
  const Threads& threads;
  Prompt prompt;
  SessionOptions session;
  MemoryUse memory;
  double load_seconds = 0;
  Generated run;
};

volatile std::sig_atomic_t interrupts = 0;

// The first SIGINT ends the run after the current token; the next one is the system's own, and
// kills.
void listen_to_interrupts() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupts = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Options that would do nothing are errors: who gives them believes that they do something.
Result<void> check_conflicts(const RunOptions& options) {
  const auto refuse = [&](const std::string& option, const char* why) -> Result<void> {
    return fail(ErrorCode::Usage, fmt::format("{} {}", option, why));
  };
  if (options.generate.sampling.temperature == 0)
    for (const char* option : {"--top-k", "--top-p", "--min-p", "--seed"})
      if (options.given(option))
        return refuse(option, "has no effect at temperature 0 (greedy): give --temperature too");
  const auto& penalties = options.generate.penalties;
  if (options.given("--repeat-last-n") && penalties.repeat == 1 && penalties.presence == 0 &&
      penalties.frequency == 0)
    return refuse("--repeat-last-n",
                  "has no effect without --repeat-penalty, --presence-penalty or "
                  "--frequency-penalty");
  if (!options.chat)
    for (const char* option : {"--system", "--chat-template"})
      if (options.given(option)) return refuse(option, "needs --chat");
  if (options.input.has_tokens)
    for (const char* option : {"--chat", "--show-prompt"})
      if (options.given(option))
        return refuse(option, "needs a text: --tokens are run as they are given");
  if (options.ids && options.json)
    return refuse("--ids", "has no effect with --json, which has the ids anyway");
  if (options.given("--ignore-end") && options.given("--decode") && options.input.decode == 0)
    return refuse("--ignore-end", "has no effect with -n 0");
  return {};
}

// Whether somebody pipes a text in. A terminal and /dev/null bring none.
bool standard_input_is_piped() {
  struct stat status = {};
  if (fstat(STDIN_FILENO, &status) != 0) return false;
  return S_ISFIFO(status.st_mode) || S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode);
}

// The prompt text in `input`, which then is as if -p had brought it.
Result<void> take_text(InputOptions& input) {
  if (input.has_tokens || input.has_prompt) return {};
  const bool piped = !input.given() && standard_input_is_piped();
  if (!input.has_file && !piped) return {};
  TRY_ASSIGN(input.prompt, read_text_file(piped ? "-" : input.prompt_file));
  // An empty pipe is what programs without a terminal have: nothing was given.
  input.has_prompt = !piped || !input.prompt.empty();
  input.has_file = false;
  return {};
}

Result<ChatTemplate> choose_template(const RunOptions& options, const Model& model) {
  const auto& choice = options.chat_template;
  if (choice.empty()) {
    TRY_ASSIGN(auto source, find_chat_template(*model.file));
    return ChatTemplate::parse(std::move(source));
  }
  if (auto named = named_chat_template(choice)) return named;
  std::error_code error;
  if (!std::filesystem::exists(choice, error))
    return fail(ErrorCode::NotFound,
                fmt::format("--chat-template: there is no file '{}', and no template of that name "
                            "({})",
                            choice, named_chat_template_list()));
  TRY_ASSIGN(auto source, read_text_file(choice));
  auto parsed = ChatTemplate::parse(std::move(source));
  if (!parsed) return std::unexpected(std::move(parsed).error().within(choice));
  return parsed;
}

Result<std::string> render_chat(const RunOptions& options, const Model& model,
                                const std::string& message) {
  TRY_ASSIGN(const auto chat, choose_template(options, model));
  std::vector<ChatMessage> messages;
  if (options.given("--system")) messages.push_back({"system", options.system});
  messages.push_back({"user", message});
  RenderOptions render;
  const auto& tokenizer = *model.tokenizer;
  if (const auto bos = tokenizer.bos()) render.bos_token = tokenizer.text(*bos);
  if (const auto eos = tokenizer.eos()) render.eos_token = tokenizer.text(*eos);
  const std::time_t clock = std::time(nullptr);
  std::tm local = {};
  localtime_r(&clock, &local);
  render.now = std::chrono::sys_seconds(std::chrono::seconds(timegm(&local)));
  return chat.render(messages, render);
}

Result<Prompt> read_prompt(const RunOptions& options, const Model& model) {
  InputOptions input = options.input;
  TRY(take_text(input));
  Prompt prompt;
  if (!options.chat) {
    TRY_ASSIGN(prompt.tokens, read_tokens(input, model));
    prompt.text = input.prompt;
  } else {
    if (!input.given())
      return fail(ErrorCode::Usage, "no message: give -p TEXT or --prompt-file FILE");
    if (!model.tokenizer)
      return fail(ErrorCode::Unsupported, fmt::format("{}: cannot turn text into tokens: {}",
                                                      model.path, model.tokenizer_missing));
    TRY_ASSIGN(prompt.text, render_chat(options, model, input.prompt));
    TRY_ASSIGN(prompt.tokens, model.tokenizer->encode(prompt.text, false, true));
    // A template says where BOS stands; one that does not gets it as a plain text would.
    const auto bos = model.tokenizer->bos();
    if (model.tokenizer->adds_bos() && bos && !prompt.text.empty() &&
        (prompt.tokens.empty() || prompt.tokens[0] != *bos))
      prompt.tokens.insert(prompt.tokens.begin(), *bos);
  }
  if (prompt.tokens.empty()) return fail(ErrorCode::Usage, "no tokens to run: the prompt is empty");
  return prompt;
}

// How many tokens to decode and room for how many to make.
struct Room {
  size_t decode, capacity;
};
Result<Room> make_room(const RunOptions& options, const Model& model, size_t prompt) {
  const size_t own = model.config.context == 0 ? SIZE_MAX : model.config.context;
  if (options.context > own)
    return fail(ErrorCode::Usage,
                fmt::format("--context {} is more than the model's context of {} tokens",
                            options.context, own));
  const size_t limit = options.context == 0 ? own : options.context;
  const auto context = fmt::format(
      "{} {} tokens", options.context == 0 ? "the model's context is" : "--context gives", limit);
  const bool given = options.given("--decode");
  if (prompt > limit || (prompt == limit && !given))
    return fail(ErrorCode::Usage, fmt::format("the prompt has {} tokens: that leaves none to "
                                              "decode, {}",
                                              prompt, context));
  const size_t usual = options.chat ? kChatDecode : kDecode;
  const size_t decode = given ? options.input.decode : std::min(usual, limit - prompt);
  if (decode > limit - prompt)
    return fail(ErrorCode::Usage, fmt::format("{} prompt tokens and {} to decode do not fit: {}",
                                              prompt, decode, context));
  return Room{decode, options.context == 0 ? prompt + decode : options.context};
}

void write_text(std::string_view bytes) {
  std::fwrite(bytes.data(), 1, bytes.size(), stdout);
  std::fflush(stdout);
}

GenerateEvents events_of(const RunOptions& options) {
  GenerateEvents events;
  events.interrupted = [] { return interrupts != 0; };
  events.on_prefill = [](size_t done, size_t all) {
    if (done < all) show_progress("prompt", done, all);
    else end_progress();
  };
  if (options.json) return events;
  if (!options.ids) {
    events.on_text = write_text;
    return events;
  }
  events.on_token = [first = true](Token id) mutable {
    write_text(fmt::format("{}{}", first ? "" : ",", id));
    first = false;
  };
  return events;
}

std::string quoted(const Model& model, Token id) {
  return model.tokenizer ? fmt::format("\"{}\"", printable(model.tokenizer->piece(id), 40)) : "";
}

void print_logprobs(const Done& done) {
  fmt::print("\n{:>8} {:>7} {:>9}  token\n", "position", "id", "ln p");
  size_t position = done.prompt.tokens.size();
  for (const auto& token : done.run.tokens) {
    fmt::print("{:>8} {:>7} {:>9.4f}  {}", position++, token.id, token.logprob,
               quoted(done.model, token.id));
    const char* before = "  of ";
    for (const auto& best : token.best) {
      fmt::print("{}{} {}{}{:.4f}", before, best.id, quoted(done.model, best.id),
                 done.model.tokenizer ? " " : "", best.logprob);
      before = ", ";
    }
    fmt::print("\n");
  }
}

void print_summary(const Done& done) {
  const auto& config = done.model.config;
  const auto& run = done.run;
  fmt::print(stderr,
             "\n{} ({}, {}) · {} {} · {} threads · KV {} · {} model, {} session · loaded in "
             "{:.2f} s\n",
             config.name.empty() ? done.model.path : config.name, config.architecture,
             done.model.weight_types, done.backend.name(), done.backend.level(),
             done.threads.count(), to_text(done.session.kv_cache), format_bytes(done.memory.model),
             format_bytes(done.memory.session), done.load_seconds);
  fmt::print(stderr, "prompt {} tokens {:.0f} t/s", run.prefilled,
             static_cast<double>(run.prefilled) / run.prefill_seconds);
  if (run.tokens.size() > 1)
    fmt::print(stderr, " · decode {} tokens {:.1f} t/s", run.tokens.size(),
               static_cast<double>(run.tokens.size() - 1) / run.decode_seconds);
  fmt::print(stderr, " · stopped by {}\n", to_text(run.stop));
}

nlohmann::ordered_json logprobs_of(const Done& done) {
  const auto piece = [&](Token id) {
    return done.model.tokenizer ? done.model.tokenizer->piece(id) : std::string();
  };
  auto all = nlohmann::ordered_json::array();
  for (const auto& token : done.run.tokens) {
    nlohmann::ordered_json one = {
        {"id", token.id}, {"text", piece(token.id)}, {"logprob", token.logprob}};
    one["best"] = nlohmann::ordered_json::array();
    for (const auto& best : token.best)
      one["best"].push_back({{"id", best.id}, {"text", piece(best.id)}, {"logprob", best.logprob}});
    all.push_back(std::move(one));
  }
  return all;
}

nlohmann::ordered_json sampling_of(const GenerateOptions& options) {
  nlohmann::ordered_json out = {{"temperature", options.sampling.temperature}};
  if (options.sampling.temperature != 0) {
    out["top_k"] = options.sampling.top_k;
    out["top_p"] = options.sampling.top_p;
    out["min_p"] = options.sampling.min_p;
    out["seed"] = options.sampling.seed;
  }
  if (options.penalties.active()) {
    out["repeat_penalty"] = options.penalties.repeat;
    out["presence_penalty"] = options.penalties.presence;
    out["frequency_penalty"] = options.penalties.frequency;
    out["repeat_last_n"] = options.penalties.last;
  }
  return out;
}

void print_json(const Done& done) {
  const auto& run = done.run;
  nlohmann::ordered_json out = {{"plumb", "run"}, {"version", 1}};
  out["model"] = {{"file", done.model.path},
                  {"sha256", done.model.sha256},
                  {"name", done.model.config.name},
                  {"architecture", done.model.config.architecture}};
  out["backend"] = done.backend.name();
  out["level"] = done.backend.level();
  out["threads"] = done.threads.count();
  out["kv"] = to_text(done.session.kv_cache);
  out["context"] = done.session.capacity;
  out["memory"] = {{"session_bytes", done.memory.session}, {"model_bytes", done.memory.model}};
  out["sampling"] = sampling_of(done.options.generate);
  if (!done.options.input.has_tokens) out["prompt_text"] = done.prompt.text;
  out["prompt"] = done.prompt.tokens;
  std::vector<Token> tokens;
  std::vector<float> logits;
  for (const auto& token : run.tokens) {
    tokens.push_back(token.id);
    logits.push_back(token.logit);
  }
  out["tokens"] = tokens;
  out["logits"] = logits;
  if (done.options.generate.logprobs) out["logprobs"] = logprobs_of(done);
  out["text"] = run.text;
  out["stop"] = to_text(run.stop);
  if (run.stop == StopReason::StopString) out["stop_string"] = run.stop_string;
  out["load_seconds"] = done.load_seconds;
  out["prefill_tokens_per_second"] = static_cast<double>(run.prefilled) / run.prefill_seconds;
  if (run.tokens.size() > 1)
    out["decode_tokens_per_second"] =
        static_cast<double>(run.tokens.size() - 1) / run.decode_seconds;
  fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

Result<int> run(RunOptions options) {
  TRY(check_conflicts(options));
  if (options.given("--logprobs")) options.generate.logprobs = options.logprobs;
  const auto start = std::chrono::steady_clock::now();
  TRY_ASSIGN(const auto model, load_model(options.model));
  TRY_ASSIGN(const auto backend, options.machine.make_backend());
  Threads threads(options.machine.thread_count());
  Done done{options, model, *backend, threads, {}, {}, {}, seconds_since(start), {}};
  if (!model.tokenizer && !options.json && !options.ids) {
    fmt::print(stderr, "plumb: {}; ids are printed\n", model.tokenizer_missing);
    options.ids = true;
  }
  TRY_ASSIGN(done.prompt, read_prompt(options, model));
  TRY_ASSIGN(const auto room, make_room(options, model, done.prompt.tokens.size()));
  options.generate.tokens = room.decode;
  TRY_ASSIGN(const auto generator, Generator::create(options.generate, model.tokenizer.get()));
  done.session = {room.capacity, options.kv};
  const Plan plan = make_plan(model, done.prompt.tokens.size() + room.decode);
  TRY_ASSIGN(done.memory, check_memory(*backend, model, plan, done.session));
  TRY_ASSIGN(const auto session, backend->open(model, plan, done.session, threads));
  if (options.show_prompt) fmt::print(stderr, "{}\n", done.prompt.text);
  listen_to_interrupts();
  TRY_ASSIGN(done.run, generator.run(*session, done.prompt.tokens, events_of(options)));
  if (options.json) {
    print_json(done);
  } else {
    fmt::print("\n");
    if (options.generate.logprobs) print_logprobs(done);
    std::fflush(stdout);
    print_summary(done);
  }
  return done.run.stop == StopReason::Interrupt ? kInterrupted : kPass;
}

void add_sampling_options(CLI::App& app, GenerateOptions& options) {
  auto& sampling = options.sampling;
  auto& penalties = options.penalties;
  app.add_option("--temperature", sampling.temperature, "0: greedy")->capture_default_str();
  app.add_option("--top-k", sampling.top_k, "Keep the k best tokens; 0: all")
      ->capture_default_str();
  app.add_option("--top-p", sampling.top_p, "Keep the best tokens up to this probability")
      ->capture_default_str();
  app.add_option("--min-p", sampling.min_p, "Drop tokens below this share of the best one")
      ->capture_default_str();
  app.add_option("--seed", sampling.seed, "The same seed gives the same tokens")
      ->capture_default_str();
  app.add_option("--repeat-penalty", penalties.repeat,
                 "Make tokens that were there less likely by this factor; 1: not")
      ->capture_default_str();
  app.add_option("--presence-penalty", penalties.presence,
                 "Subtracted from the logits of tokens that were there")
      ->capture_default_str();
  app.add_option("--frequency-penalty", penalties.frequency,
                 "The same, times how often they were there")
      ->capture_default_str();
  app.add_option("--repeat-last-n", penalties.last,
                 "How many tokens back the penalties look; -1: all")
      ->capture_default_str();
  app.add_option("--stop", options.stops, "Stop before this text; may be given more than once")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_flag("--ignore-end", options.ignore_end, "Go on after an end token");
}

void add_chat_options(CLI::App& app, RunOptions& options) {
  app.add_flag("--chat", options.chat, "The prompt is a message; the model's template frames it");
  app.add_option("--system", options.system, "With --chat: the system's message");
  app.add_option("--chat-template", options.chat_template,
                 "With --chat: a Jinja file or the name of a known template");
  app.add_flag("--show-prompt", options.show_prompt, "Print the whole prompt on stderr first");
}

}  // namespace

void add_run(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<RunOptions>();
  auto* app = program.add_subcommand("run", "Generate text");
  options->app = app;
  app->add_option("MODEL", options->model, "Model file or folder")->required();
  options->input.add_to(*app, kDecode);
  add_chat_options(*app, *options);
  add_sampling_options(*app, options->generate);
  options->machine.add_to(*app);
  add_kv_option(*app, options->kv);
  app->add_option("--context", options->context,
                  "Room for so many tokens; 0: as many as this run needs")
      ->capture_default_str();
  app->add_option("--logprobs", options->logprobs,
                  "ln p of each token, and of the N best at its place")
      ->check(CLI::Range(0, 1000));
  app->add_flag("--ids", options->ids, "Print token ids in place of text");
  app->add_flag("--json", options->json, "Print JSON");
  app->callback([options, &chosen] {
    chosen = [options] {
      const auto code = run(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
