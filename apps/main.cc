// The `rondo` command: parses, runs one sub-command, and turns every failure into one line and a status:
// 2 for what was asked (arguments, files), 1 for what failed while running.

#include <unistd.h>

#include <cstdio>
#include <new>

#include "apps/commands.h"
#include "apps/config_file.h"
#include "apps/nearest_name.h"
#include "apps/run_failure.h"
#include "rondo/comm/processes.h"
#include "rondo/core/error.h"

namespace {

using namespace rondo;

struct Command {
  CLI::App* parser;
  apps::Run run;
};

int fail(int status, std::string message) {
  // One line whatever a file's name or content put into the message.
  for (char& c : message)
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  std::fprintf(stderr, "rondo: %s\n", message.c_str());
  return status;
}

/// What the parser did not expect, with the nearest thing that it would have: a command, a command's own
/// command, or an option.
std::string unexpected(const CLI::App& app, const std::vector<std::string>& arguments) {
  const CLI::App* at = &app;
  std::string path;
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    path += (path.empty() ? "" : " ") + at->get_name();
  }
  const std::string where = path.empty() ? "" : path + ": ";
  const auto rest = path.empty() ? arguments : at->remaining(true);
  const std::string first = rest.empty() ? "" : rest.front();
  std::vector<std::string> commands, names;
  for (const CLI::App* command : at->get_subcommands({})) commands.push_back(command->get_name());
  if (!commands.empty())
    return where + "unknown command '" + first + "'" + apps::did_you_mean(first, commands) + " (see rondo " +
           path + (path.empty() ? "" : " ") + "--help)";
  for (const std::string& name : apps::option_names(*at)) names.push_back("--" + name);
  for (const std::string& argument : rest) {
    if (argument.size() < 2 || argument[0] != '-') continue;
    const std::string name = argument.substr(0, argument.find('='));
    return where + "unknown option " + name + apps::did_you_mean(name, names);
  }
  if (const auto before = app.remaining(true); rest.empty() && !before.empty())
    return where + "expected its options after the command's name, got " + before.front() + " before it";
  return where + "unexpected argument '" + first + "'";
}

int run(const std::vector<Command>& commands) {
  for (const Command& command : commands) {
    if (!command.parser->parsed()) continue;
    const int status = command.run();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      throw apps::RunFailure("the result could not be written to stdout");
    return status;
  }
  return 2;
}

int guarded(const std::vector<Command>& commands) {
  try {
    return run(commands);
  } catch (const apps::RunFailure& error) {
    return fail(1, error.what());
  } catch (const ArgumentError& error) {
    return fail(2, error.what());
  } catch (const IoError& error) {
    return fail(2, error.what());
  } catch (const MemoryLimitError& error) {
    return fail(2, error.what());
  } catch (const CLI::ParseError& error) {
    return fail(2, error.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "out of memory");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Transformer language models on contexts longer than one device holds, by ring attention.",
               "rondo");
  app.set_version_flag("--version", std::string("rondo ") + RONDO_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(36);
  std::vector<Command> commands;
  for (const auto add :
       {apps::add_train_command, apps::add_eval_command, apps::add_generate_command, apps::add_import_command,
        apps::add_inspect_command, apps::add_demo_command, apps::add_bench_command, apps::add_compare_command,
        apps::add_doctor_command, apps::add_plan_command}) {
    apps::Run command = add(app);
    commands.push_back({app.get_subcommands({}).back(), std::move(command)});
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help and --version
    return app.exit(success);
  } catch (const CLI::ExtrasError&) {
    return fail(2, unexpected(app, {argv + 1, argv + argc}));
  } catch (const CLI::RequiredError& error) {
    const auto parsed = app.get_subcommands();
    if (parsed.empty() && argc > 1) return fail(2, unexpected(app, {argv + 1, argv + argc}));
    const bool incomplete = !parsed.empty() && !parsed.front()->get_subcommands({}).empty();
    if (incomplete && !parsed.front()->remaining(true).empty()) return fail(2, unexpected(app, {}));
    const std::string command = incomplete ? parsed.front()->get_name() + " " : "";
    return fail(2, std::string(error.what()) + " (see rondo " + command + "--help)");
  } catch (const CLI::ParseError& error) {
    return fail(2, error.what());
  }
  const int status = guarded(commands);
  std::fflush(nullptr);
  // What MPI and other libraries do when a program ends may wait for processes that are gone.
  if (status != 0 && launched_processes() > 1) ::_exit(status);
  return status;
}
