// Runs that end without a word: killed at random moments, or on a full disk. No checkpoint is lost.
// RONDO_KILLS=50 kills more often than continuous integration has time for; RONDO_KILL_SEED repeats the
// moments.

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <random>
#include <set>

#include "tests/apps/runs.h"

namespace rondo::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Words = std::vector<std::string>;

class Kills : public testing::Test {
 protected:
  void SetUp() override { write_text(folder_ / "text", sample_text(100'000)); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  Words train(const std::string& out) const {
    return {"train",      path("text"), "--out",      path(out), "--steps",   "100000",  "--schedule",
            "constant",   "--layers",   "2",          "--width", "64",        "--heads", "4",
            "--kv-heads", "2",          "--ctx-size", "256",     "--devices", "2"};
  }
  Words resume(const std::string& out) const {
    return {"train", "--resume", path(out), "--devices", "2", "--save-every", "1"};
  }
  int newest(const std::string& out) const {
    const std::vector<int> steps = checkpoint_steps(folder_ / out);
    return steps.empty() ? -1 : steps.back();
  }
  /// What the run made of the steps so far is what a run without any disturbance makes of them.
  void expect_undisturbed(const std::string& out, int steps) const {
    ASSERT_EQ(rondo(train("whole") + Words{"--stop-after", std::to_string(steps)}).status, 0);
    const auto whole = losses(folder_ / "whole/metrics.jsonl");
    EXPECT_EQ(whole.size(), static_cast<std::size_t>(steps));
    EXPECT_EQ(losses(folder_ / out / "metrics.jsonl"), whole);
  }
  TemporaryFolder folder_;
};

int number_of(const char* variable, int otherwise) {
  const char* value = std::getenv(variable);
  return value != nullptr ? std::atoi(value) : otherwise;
}

TEST_F(Kills, AtRandomMomentsLoseNoCheckpoint) {
  const int kills = number_of("RONDO_KILLS", 5);
  const int seed = number_of("RONDO_KILL_SEED", static_cast<int>(std::random_device{}() % 1'000'000));
  std::cout << kills << " kills, RONDO_KILL_SEED=" << seed << "\n";
  std::mt19937 random(static_cast<unsigned>(seed));
  std::vector<int> found;
  auto process = std::make_unique<Process>(train("run") + Words{"--save-every", "1"});
  for (int n = 0; n < 1200 && newest("run") < 0 && process->running(); ++n) std::this_thread::sleep_for(50ms);
  std::set<std::string> leftovers;  // each kill within a save leaves one, until a save after it
  for (int kill = 0; kill < kills; ++kill) {
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 800));
    const int before = newest("run");
    process->signal(SIGKILL);
    const CommandResult killed = process->wait();
    ASSERT_EQ(killed.status, 1000 + SIGKILL) << killed.err;
    for (const auto& entry : fs::directory_iterator(folder_ / "run"))
      if (const std::string name = entry.path().filename(); name.starts_with(".tmp-step-"))
        leftovers.insert(name);
    found.push_back(newest("run"));
    ASSERT_GE(found.back(), std::max(before, 1));
    const CommandResult inspected = rondo({"inspect", path("run"), "--verify"});
    ASSERT_EQ(inspected.status, 0) << inspected.err;
    process = std::make_unique<Process>(resume("run"));
  }
  process->signal(SIGKILL);
  process->wait();
  const int until = newest("run") + 3;
  const CommandResult last = rondo(resume("run") + Words{"--stop-after", std::to_string(until)});
  ASSERT_EQ(last.status, 0) << last.err;
  EXPECT_EQ(last.err.find("passed over"), std::string::npos) << last.err;
  std::cout << "checkpoints found after the kills:";
  for (const int step : found) std::cout << " " << step;
  std::cout << "; " << leftovers.size() << " kills within a save\n";
  expect_undisturbed("run", until);
  for (const auto& entry : fs::directory_iterator(folder_ / "run"))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".tmp-step-")) << entry.path();
}

TEST_F(Kills, AFullDiskEndsTheRunAndLosesNothing) {
  // A disk of a few megabytes that only this test sees.
  const std::string with_disk =
      "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o size=5m tmpfs \"" + path("disk") +
      "\" && ";
  fs::create_directory(folder_ / "disk");
  if (std::system((with_disk + "true' 2> /dev/null").c_str()) != 0)
    GTEST_SKIP() << "no file system can be mounted here";
  Words words = train("disk/run");
  std::string line;
  for (const std::string& word : words + Words{"--save-every", "1", "--keep", "0"})
    line += " \"" + word + "\"";
  const std::string command = with_disk + RONDO_COMMAND + line + " 2> \"" + path("err") +
                              "\"; status=$?; cp -a \"" + path("disk/run") + "\" \"" + path("run") +
                              "\"; exit $status'";
  const int status = std::system(command.c_str());
  const std::string err = read_text(folder_ / "err");
  EXPECT_EQ(WEXITSTATUS(status), 1) << err;
  for (const char* part :
       {"[checkpoint] device ", "could not", "No space left on device", "the last checkpoint is "})
    EXPECT_NE(err.find(part), std::string::npos) << err;
  for (const auto& entry : fs::directory_iterator(folder_ / "run"))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".tmp-step-")) << entry.path() << " is left";
  ASSERT_GE(newest("run"), 1);
  const int until = newest("run") + 3;
  const CommandResult resumed = rondo(resume("run") + Words{"--stop-after", std::to_string(until)});
  EXPECT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(resumed.err.find("passed over"), std::string::npos) << resumed.err;
  expect_undisturbed("run", until);
}

}  // namespace
}  // namespace rondo::test
