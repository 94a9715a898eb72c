// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <csignal>

#include "cli/commands.h"

using namespace plumb::cli;

namespace {

bool has_command(const CLI::App& program, const std::string& name) {
  for (const auto* command : program.get_subcommands({}))
    if (command->get_name() == name) return true;
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_DFL);  // A closed pipe ends the program quietly.
  CLI::App program(
      "plumb: do two LLM inference runs compute the same model, and if not, which operation is "
      "wrong?",
      "plumb");
  program.set_version_flag("--version", std::string("plumb ") + PLUMB_VERSION);
  program.require_subcommand(1);
  program.footer(
      "Exit: 0 same or pass, 1 different, 2 not comparable or not measured, 3 could not "
      "run.\n'plumb COMMAND --help' shows a command's options.");
  Command chosen;
  add_inspect(program, chosen);
  add_run(program, chosen);
  add_score(program, chosen);
  add_tokenize(program, chosen);
  add_trace(program, chosen);
  add_compare(program, chosen);
  add_audit(program, chosen);
  add_import(program, chosen);
  add_names(program, chosen);
  add_self_test(program, chosen);
  if (argc > 1 && argv[1][0] != '-' && !has_command(program, argv[1])) {
    fmt::print(stderr, "plumb: there is no command '{}'\nTry 'plumb --help'.\n", argv[1]);
    return kCouldNotRun;
  }
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return program.exit(success);  // --help, --version
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "plumb: {}\nTry 'plumb --help' or 'plumb COMMAND --help'.\n", error.what());
    return kCouldNotRun;
  }
  return chosen();
}
