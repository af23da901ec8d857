// rondo plan's step time against steps over a slow link, measured here.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/apps/command.h"
#include "tests/apps/hosts.h"

namespace rondo::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

CommandResult on_hosts(const Words& words) {
  std::map<std::string, std::string> environment;
  for (const std::string variable : {RONDO_MPI_ENVIRONMENT}) {
    const auto equals = variable.find('=');
    environment[variable.substr(0, equals)] = variable.substr(equals + 1);
  }
  return Process::of(Words{RONDO_SOURCE_DIR "/scripts/hosts", "mpirun", RONDO_COMMAND} + words, "",
                     environment)
      .wait();
}

struct Step {
  const char* config;
  Words options;
};

/// A model whose exchange hides, and one whose does not.
const Step kSteps[] = {
    {R"({"model_type": "llama", "vocab_size": 258, "hidden_size": 256, "intermediate_size": 704,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2})",
     {"--dtype", "f32", "--remat", "attention", "--ctx-size", "8192"}},
    {R"({"model_type": "llama", "vocab_size": 258, "hidden_size": 512, "intermediate_size": 512,
         "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8})",
     {"--dtype", "bf16", "--remat", "layer", "--ctx-size", "6144"}}};

double measured_seconds(const std::filesystem::path& folder, const Step& step) {
  const CommandResult trained =
      on_hosts(Words{"train", folder / "text", "--config", folder / "config.json", "--steps", "4",
                     "--holdout", "0.3", "--eval-windows", "1", "--out", folder / "run"} +
               step.options);
  EXPECT_EQ(trained.status, 0) << trained.err;
  double best = 1e9;
  std::istringstream lines(read_text(folder / "run" / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const json metrics = json::parse(line);
    if (metrics.contains("compute_seconds")) best = std::min(best, metrics["seconds"].get<double>());
  }
  std::filesystem::remove_all(folder / "run");
  return best;
}

double planned_seconds(const std::filesystem::path& folder, const Step& step) {
  const CommandResult planned = on_hosts(
      Words{"plan", folder / "config.json", "--memory-limit", "1T", "--format", "json"} + step.options);
  EXPECT_EQ(planned.status, 0) << planned.err;
  return planned.status == 0 ? json::parse(planned.out)["time"]["seconds"].get<double>() : 0;
}

TEST(PlanTime, IsWithin20PercentOfStepsOverASlowLink) {
  if (std::string(RONDO_MPI_MISSING) != "") GTEST_SKIP() << RONDO_MPI_MISSING;
  if (Hosts::run("check") != 0) GTEST_SKIP() << "scripts/hosts check: no network namespaces here";
  const Hosts hosts(2, "1gbit");
  if (!hosts.made()) GTEST_SKIP() << "scripts/hosts up: others use hosts here";
  for (const Step& step : kSteps) {
    const TemporaryFolder folder;
    write_text(folder / "text", sample_text(40'000));
    write_text(folder / "config.json", step.config);
    // Three tries: others may use the processors, while either is measured.
    double ratio = 0;
    for (int n = 0; n < 3 && std::abs(ratio - 1) > 0.2; ++n) {
      const double measured = measured_seconds(folder.path(), step),
                   planned = planned_seconds(folder.path(), step);
      ratio = planned / measured;
      fmt::print("{}: measured {:.3f} s, planned {:.3f} s, ratio {:.3f}\n", step.options.back(), measured,
                 planned, ratio);
    }
    EXPECT_NEAR(ratio, 1, 0.2);
  }
}

}  // namespace
}  // namespace rondo::test
