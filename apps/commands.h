#pragma once
// The sub-commands of `rondo`: each adds itself to the parser and returns what runs once it is parsed.

#include <CLI/CLI.hpp>
#include <functional>

namespace rondo::apps {

/// Returns the exit status; throws Rondo's exceptions.
using Run = std::function<int()>;

Run add_train_command(CLI::App& app);
Run add_eval_command(CLI::App& app);
Run add_generate_command(CLI::App& app);
Run add_import_command(CLI::App& app);
Run add_inspect_command(CLI::App& app);
Run add_demo_command(CLI::App& app);
Run add_bench_command(CLI::App& app);
Run add_compare_command(CLI::App& app);
Run add_doctor_command(CLI::App& app);
Run add_plan_command(CLI::App& app);

}  // namespace rondo::apps
