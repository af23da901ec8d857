// rondo bench overlap on two hosts with a slow link between them.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/apps/command.h"
#include "tests/apps/hosts.h"

namespace rondo::test {
namespace {

using Words = std::vector<std::string>;

std::map<std::string, std::string> mpi_environment() {
  std::map<std::string, std::string> environment;
  for (const std::string variable : {RONDO_MPI_ENVIRONMENT}) {
    const auto equals = variable.find('=');
    environment[variable.substr(0, equals)] = variable.substr(equals + 1);
  }
  return environment;
}

const Words kBench{"bench", "overlap", "--heads", "2", "--format", "json"};

TEST(Overlap, HidesPartOfTheExchangeOnASlowLink) {
  if (std::string(RONDO_MPI_MISSING) != "") GTEST_SKIP() << RONDO_MPI_MISSING;
  if (Hosts::run("check") != 0) GTEST_SKIP() << "scripts/hosts check: no network namespaces here";
  const Hosts hosts(2, "1gbit");
  if (!hosts.made()) GTEST_SKIP() << "scripts/hosts up: others use hosts here";
  // Three tries: others may use the processors. The bits are compared in each.
  double best_forward = -1, best_backward = -1;
  for (int n = 0; n < 3 && (best_forward < 0.4 || best_backward < 0.4); ++n) {
    Process process = Process::of(Words{RONDO_SOURCE_DIR "/scripts/hosts", "mpirun", RONDO_COMMAND} + kBench +
                                      Words{"--tokens", "4096", "--runs", "3"},
                                  "", mpi_environment());
    const CommandResult result = process.wait();
    ASSERT_EQ(result.status, 0) << result.err;
    std::istringstream lines(result.out);
    for (std::string line; std::getline(lines, line);) {
      const auto row = nlohmann::json::parse(line);
      EXPECT_EQ(row["devices"], 2);
      EXPECT_GT(row["needed_tokens"], 0.0);
      double& best = row["pass"] == "forward" ? best_forward : best_backward;
      best = std::max(best, row["hidden"].get<double>());
    }
  }
  EXPECT_GE(best_forward, 0.4);
  EXPECT_GE(best_backward, 0.4);
}

TEST(Overlap, OfOneProcessIsRefused) {
  const CommandResult result = rondo(kBench);
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("expected several processes"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace rondo::test
