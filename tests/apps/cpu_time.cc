// scripts/cpu_time from end to end, at a tiny size, where starting is nearly all that it measures.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <regex>
#include <sstream>

#include "tests/apps/command.h"

namespace rondo::test {
namespace {

class CpuTime : public testing::Test {
 protected:
  void SetUp() override {
    if (std::string(RONDO_MPI_MISSING) != "") GTEST_SKIP() << RONDO_MPI_MISSING;
    write_text(folder_ / "text", sample_text(20'000));
  }
  int script(const std::string& options) const {
    const std::string command =
        std::string(RONDO_SOURCE_DIR) + "/scripts/cpu_time --rondo " + RONDO_COMMAND +
        " --steps 2 --ctx-size 256 --layers 1 --width 32 --processes 2 --pairs 1 --turn 0.2 " + options +
        " " + (folder_ / "text").string() + " >" + (folder_ / "stdout").string() + " 2>" +
        (folder_ / "stderr").string();
    const int status = std::system(command.c_str());  // NOLINT: paths of our own
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string text(const std::string& name) const { return read_text(folder_ / name); }
  TemporaryFolder folder_;
};

TEST_F(CpuTime, ComparesBothAndJudgesByTheLimit) {
  ASSERT_EQ(script("--limit 1000"), 0) << text("stderr");
  std::istringstream lines(text("stdout"));
  const std::regex row(R"(\| (\d) process.* of \d+ threads? \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|)");
  const std::regex end(R"(2 processes take (\S+) times the processor time of one.*)");
  std::map<int, double> seconds;
  double ratio = 0;
  for (std::string line; std::getline(lines, line);) {
    std::smatch found;
    if (std::regex_match(line, found, row)) {
      const double sum = std::stod(found[4]);
      EXPECT_NEAR(sum, std::stod(found[2]) + std::stod(found[3]), 1e-3);
      EXPECT_GT(std::stod(found[5]), 1);  // nats
      seconds[std::stoi(found[1])] = sum;
    } else if (std::regex_match(line, found, end)) {
      ratio = std::stod(found[1]);
    }
  }
  ASSERT_EQ(seconds.size(), 2u) << text("stdout");
  // At this size MPI's start alone is more than all of the one process' work: a table that missed the time of
  // mpirun's processes would show less.
  EXPECT_GT(seconds[2], seconds[1]);
  EXPECT_NEAR(ratio, seconds[2] / seconds[1], 1e-2 * ratio);
  EXPECT_EQ(script("--limit 0.01"), 1) << text("stdout");
}

TEST_F(CpuTime, RefusesWhatMakesNoSense) {
  for (const char* options :
       {"--pairs 0", "--turn soon", "--cpus 1023", "--no-such-option 1", "one more", "--steps"})
    EXPECT_EQ(script(options), 2) << options;
}

}  // namespace
}  // namespace rondo::test
