// The command as mpirun starts it: equal bits however devices are divided, one voice, and refusals by name.

#include <gtest/gtest.h>

#include <sstream>

#include "tests/apps/runs.h"

namespace rondo::test {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

const Words kTrain = {"--steps", "20", "--warmup",   "2", "--layers",   "2",   "--width",         "32",
                      "--heads", "4",  "--kv-heads", "2", "--ctx-size", "320", "--sample-tokens", "4"};

/// Everything that must not differ between two runs, as one text: losses, and the newest checkpoint's files.
std::string content_of(const fs::path& run) {
  std::string content;
  std::istringstream lines(read_text(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);)
    for (const char* key : {"\"loss\":", "\"held_out_loss\":", "\"gradient_norm\":"})
      if (const auto at = line.find(key); at != std::string::npos)
        content += line.substr(at, line.find(',', at) - at) + "\n";
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(run / "step-00000020"))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) content += file.filename().string() + read_text(file);
  return content;
}

class Processes : public testing::Test {
 protected:
  void SetUp() override {
    if (std::string(RONDO_MPI_MISSING) != "") GTEST_SKIP() << RONDO_MPI_MISSING;
    write_text(folder_ / "text", sample_text(40'000));
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  /// `rondo` on so many processes.
  static CommandResult launch(int processes, const Words& arguments,
                              std::map<std::string, std::string> environment = {}) {
    for (const std::string variable : {RONDO_MPI_ENVIRONMENT}) {
      const auto equals = variable.find('=');
      environment[variable.substr(0, equals)] = variable.substr(equals + 1);
    }
    const Words launcher{RONDO_MPIRUN, "-np", std::to_string(processes), RONDO_COMMAND};
    return Process::of(launcher + arguments, "", environment).wait();
  }
  /// The run's trace has each device once, under its process, and computing and waiting of it.
  void expect_events_of_all_devices(const std::string& run, int processes, int devices) const {
    std::map<std::pair<int, int>, std::set<std::string>> events;
    const auto trace = nlohmann::json::parse(read_text(folder_ / run / "trace.json"));
    for (const auto& event : trace["traceEvents"])
      if (event["ph"] == "X") events[{event["pid"], event["tid"]}].insert(event["cat"]);
    EXPECT_EQ(events.size(), static_cast<std::size_t>(processes * devices)) << run;
    std::set<int> seen;
    for (const auto& [place, kinds] : events) {
      seen.insert(place.first);
      EXPECT_TRUE(kinds.contains("compute")) << run << ", device " << place.second;
      EXPECT_TRUE(kinds.contains("wait")) << run << ", device " << place.second;
    }
    EXPECT_EQ(seen.size(), static_cast<std::size_t>(processes)) << run;
  }
  TemporaryFolder folder_;
};

TEST_F(Processes, TrainToTheSameBitsAsThreads) {
  const Words train = Words{"train", path("text")} + kTrain;
  const CommandResult threads = rondo(train + Words{"--devices", "4", "--out", path("threads")});
  const CommandResult processes = launch(4, train + Words{"--out", path("processes")});
  const CommandResult mixed =
      launch(2, train + Words{"--devices", "2", "--exchange", "share", "--out", path("mixed")});
  ASSERT_EQ(threads.status, 0) << threads.err;
  ASSERT_EQ(processes.status, 0) << processes.err;
  ASSERT_EQ(mixed.status, 0) << mixed.err;
  const std::string expected = content_of(folder_ / "threads");
  EXPECT_GT(expected.size(), 100'000u);
  EXPECT_TRUE(content_of(folder_ / "processes") == expected);
  EXPECT_TRUE(content_of(folder_ / "mixed") == expected);
  const CommandResult plain =
      launch(2, train + Words{"--devices", "2", "--no-overlap", "--out", path("plain")});
  ASSERT_EQ(plain.status, 0) << plain.err;
  EXPECT_TRUE(content_of(folder_ / "plain") == expected);
  EXPECT_NE(processes.err.find("4 devices in 4 processes"), std::string::npos) << processes.err;
  expect_events_of_all_devices("processes", 4, 1);
  expect_events_of_all_devices("mixed", 2, 2);
  // One voice: every line is there once.
  EXPECT_EQ(processes.err.find("step 20/20"), processes.err.rfind("step 20/20")) << processes.err;

  const Words eval{"eval", path("threads"), path("text"), "--max-windows", "2", "--format", "json"};
  EXPECT_EQ(launch(2, eval).out, rondo(eval + Words{"--devices", "2"}).out);
  const Words generate{"generate", path("threads"), "the ring", "-n", "8"};
  EXPECT_EQ(launch(3, generate).out, rondo(generate + Words{"--devices", "3"}).out);
}

/// Rings that are replicas, and state that is divided over all of them.
TEST_F(Processes, DivideTheModelToTheSameBitsAsThreads) {
  const Words train = Words{"train", path("text")} + kTrain + Words{"--batch", "2", "--data-parallel", "2"};
  const CommandResult threads = rondo(train + Words{"--devices", "4", "--out", path("threads")});
  const Words divided{"--shard", "parameters"};
  const CommandResult processes = launch(4, train + divided + Words{"--out", path("processes")});
  const CommandResult mixed = launch(2, train + divided + Words{"--devices", "2", "--out", path("mixed")});
  for (const CommandResult* run : {&threads, &processes, &mixed}) ASSERT_EQ(run->status, 0) << run->err;
  const std::string expected = content_of(folder_ / "threads");
  EXPECT_TRUE(content_of(folder_ / "processes") == expected);
  EXPECT_TRUE(content_of(folder_ / "mixed") == expected);
  EXPECT_NE(processes.err.find("2 rings of 2 devices in 4 processes"), std::string::npos) << processes.err;
  EXPECT_NE(processes.err.find("parameters, gradients and optimizer divided"), std::string::npos)
      << processes.err;
}

TEST_F(Processes, GoOnFromACheckpointOfAnyOtherNumber) {
  const Words train = Words{"train", path("text"), "--out", path("run")} + kTrain;
  ASSERT_EQ(rondo(train + Words{"--stop-after", "6"}).status, 0);
  const Words resume{"train", "--resume", path("run")};
  const CommandResult three = launch(3, resume + Words{"--stop-after", "12"});
  ASSERT_EQ(three.status, 0) << three.err;
  EXPECT_TRUE(fs::exists(folder_ / "run/step-00000012/model-00003-of-00003.safetensors"));
  // One that is damaged is passed over by all processes.
  const fs::path damaged = folder_ / "run/step-00000012/training_state/optimizer-00002-of-00003.safetensors";
  fs::resize_file(damaged, fs::file_size(damaged) - 1);
  const CommandResult four = launch(2, resume + Words{"--devices", "2"});
  ASSERT_EQ(four.status, 0) << four.err;
  EXPECT_NE(four.err.find("step-00000012 is passed over"), std::string::npos) << four.err;
  EXPECT_EQ(four.err.find("passed over"), four.err.rfind("passed over")) << four.err;  // one voice
  EXPECT_NE(four.err.find("resumed after step 6"), std::string::npos) << four.err;
  const CommandResult whole = rondo(Words{"train", path("text"), "--out", path("whole")} + kTrain);
  ASSERT_EQ(whole.status, 0) << whole.err;
  const auto found = losses(folder_ / "run/metrics.jsonl"),
             expected = losses(folder_ / "whole/metrics.jsonl");
  ASSERT_EQ(found.size(), 20u);
  for (std::size_t n = 0; n < 20; ++n) EXPECT_NEAR(found[n] / expected[n], 1, 1e-4) << n;
}

TEST_F(Processes, ThatCannotWorkTogetherAreRefused) {
  const Words train = Words{"train", path("text"), "--out", path("run")} + kTrain;
  // A launcher of another MPI: this process sees none of the others.
  const CommandResult alone = rondo(train, "", {{"PMI_SIZE", "2"}, {"ASAN_OPTIONS", "detect_leaks=0"}});
  EXPECT_EQ(alone.status, 2);
  EXPECT_NE(alone.err.find("a launcher that started 2 of which each is alone"), std::string::npos)
      << alone.err;
  const CommandResult piped = launch(2, {"generate", path("run"), "-"});
  EXPECT_NE(piped.status, 0);
  EXPECT_FALSE(fs::exists(folder_ / "run/metrics.jsonl"));
}

}  // namespace
}  // namespace rondo::test
