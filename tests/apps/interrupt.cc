// Ctrl-C and full disks: what was done is kept, and a run goes on from there.

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/apps/runs.h"

namespace rondo::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Words = std::vector<std::string>;

class Interrupt : public testing::Test {
 protected:
  void SetUp() override { write_text(folder_ / "text", sample_text(100'000)); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  Words train(const std::string& out, const std::string& steps) const {
    return {"train",    path("text"), "--out",      path(out),  "--steps",    steps,     "--schedule",
            "constant", "--devices",  "2",          "--layers", "2",          "--width", "64",
            "--heads",  "4",          "--kv-heads", "2",        "--ctx-size", "512"};
  }
  /// Waits until the run has some steps behind it.
  void await_steps(Process& process, const std::string& out) const {
    for (int n = 0; n < 1200 && process.running(); ++n) {
      const std::string metrics = fs::exists(folder_ / out / "metrics.jsonl")
                                      ? read_text(folder_ / out / "metrics.jsonl")
                                      : std::string();
      if (std::count(metrics.begin(), metrics.end(), '\n') >= 3) return;
      std::this_thread::sleep_for(50ms);
    }
    FAIL() << "no steps within a minute";
  }
  TemporaryFolder folder_;
};

TEST_F(Interrupt, SavesStopsAndGoesOnWithTheSameBits) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::string out = "run" + std::to_string(signal);
    Process process(train(out, "100000") + Words{"--keep", "0", "--bigram"});
    await_steps(process, out);
    process.signal(signal);
    const CommandResult stopped = process.wait();
    EXPECT_EQ(stopped.status, 130) << stopped.err;
    const std::string again = "rondo train --resume " + path(out) + " --keep 0 --bigram --devices 2\n";
    EXPECT_NE(stopped.err.find(again), std::string::npos) << stopped.err;
    const std::size_t done = losses(folder_ / out / "metrics.jsonl").size();
    const std::string until = std::to_string(done + 4);
    const CommandResult resumed =
        rondo({"train", "--resume", path(out), "--devices", "2", "--stop-after", until});
    ASSERT_EQ(resumed.status, 0) << resumed.err;
    const std::string whole = "whole" + std::to_string(signal);
    ASSERT_EQ(rondo(train(whole, "100000") + Words{"--stop-after", until}).status, 0);
    EXPECT_EQ(losses(folder_ / out / "metrics.jsonl"), losses(folder_ / whole / "metrics.jsonl"));
  }
}

TEST_F(Interrupt, TheSecondSignalStopsAtOnce) {
  // A step of this model takes seconds: the second signal does not wait for it.
  Process process({"train", path("text"), "--out", path("run"), "--layers", "8", "--width", "512", "--heads",
                   "8", "--ctx-size", "16384", "--steps", "10"});
  std::this_thread::sleep_for(1500ms);
  process.signal(SIGINT);
  std::this_thread::sleep_for(100ms);
  const auto begin = std::chrono::steady_clock::now();
  process.signal(SIGINT);
  const CommandResult result = process.wait();
  EXPECT_EQ(result.status, 130) << result.err;
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
  EXPECT_NE(result.err.find("stopped at once"), std::string::npos) << result.err;
}

TEST_F(Interrupt, AFullDiskLeavesNothingHalfWritten) {
  // A limit on the size of files is the full disk that needs no rights: metrics fit into it, weights do not.
  std::string line = "trap '' XFSZ; ulimit -f 64; exec " RONDO_COMMAND;
  for (const std::string& word : train("run", "3")) line += " '" + word + "'";
  line += " 2> '" + path("err") + "'";
  const int status = std::system(("sh -c \"" + line + "\"").c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1) << read_text(folder_ / "err");
  EXPECT_NE(read_text(folder_ / "err").find("File too large"), std::string::npos)
      << read_text(folder_ / "err");
  for (const auto& entry : fs::directory_iterator(folder_ / "run"))
    EXPECT_FALSE(entry.is_directory()) << entry.path() << " is left of a checkpoint";
}

TEST_F(Interrupt, ResultsThatCannotBeWrittenAreAFailure) {
  ASSERT_EQ(rondo(train("run", "2")).status, 0);
  const std::string text = " '" + path("text") + "'";
  for (const auto& [command, more] : {std::pair{"generate", text}, {"eval", text}, {"inspect", {}}}) {
    const std::string line = std::string(RONDO_COMMAND) + " " + command + " '" + path("run") + "'" + more +
                             " > /dev/full 2> '" + path("err") + "'";
    EXPECT_EQ(WEXITSTATUS(std::system(line.c_str())), 1) << read_text(folder_ / "err");
    EXPECT_NE(read_text(folder_ / "err").find("stdout"), std::string::npos);
  }
}

}  // namespace
}  // namespace rondo::test
