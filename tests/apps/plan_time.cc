// rondo plan's step time against steps over a slow link, and against steps out of core, measured here.

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

/// Seconds; the run's folder goes.
double fastest_step(const std::filesystem::path& run) {
  double best = 1e9;
  std::istringstream lines(read_text(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const json metrics = json::parse(line);
    if (metrics.contains("compute_seconds")) best = std::min(best, metrics["seconds"].get<double>());
  }
  std::filesystem::remove_all(run);
  return best;
}

double measured_seconds(const std::filesystem::path& folder, const Step& step) {
  const CommandResult trained =
      on_hosts(Words{"train", folder / "text", "--config", folder / "config.json", "--steps", "4",
                     "--holdout", "0.3", "--eval-windows", "1", "--out", folder / "run"} +
               step.options);
  EXPECT_EQ(trained.status, 0) << trained.err;
  return fastest_step(folder / "run");
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

/// Segments on the disk of the temporary folder, on one device.
TEST(PlanTime, IsWithin20PercentOfStepsOutOfCore) {
  const TemporaryFolder folder;
  write_text(folder / "text", sample_text(60'000));
  write_text(folder / "config.json", kSteps[0].config);
  const Words options{"--ctx-size", "8192", "--segment-tokens", "1024", "--spill", folder / "disk"};
  std::filesystem::create_directory(folder / "disk");
  double ratio = 0;
  for (int n = 0; n < 3 && std::abs(ratio - 1) > 0.2; ++n) {
    const CommandResult trained =
        rondo(Words{"train", folder / "text", "--config", folder / "config.json", "--steps", "3",
                    "--eval-windows", "1", "--out", folder / "run"} +
              options);
    ASSERT_EQ(trained.status, 0) << trained.err;
    const double measured = fastest_step(folder / "run");
    const CommandResult planned =
        rondo(Words{"plan", folder / "config.json", "--memory-limit", "1T", "--format", "json"} + options);
    ASSERT_EQ(planned.status, 0) << planned.err;
    const json time = json::parse(planned.out)["time"];
    ratio = time["seconds"].get<double>() / measured;
    fmt::print("out of core: measured {:.3f} s, planned {:.3f} s ({:.3f} exposed), ratio {:.3f}\n", measured,
               time["seconds"].get<double>(), time["exposed_seconds"].get<double>(), ratio);
  }
  EXPECT_NEAR(ratio, 1, 0.2);
}

}  // namespace
}  // namespace rondo::test
