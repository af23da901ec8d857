// Evaluations that are interrupted and go on, as users do it: `rondo eval --state`, and scripts/million at a
// tiny size.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/apps/command.h"

namespace rondo::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Words = std::vector<std::string>;

class Million : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(folder_ / "train");
    write_text(folder_ / "train/a", sample_text(20'000, 1));
    write_text(folder_ / "text", sample_text(50'000, 2));
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void train(const std::string& out, const std::string& seed) const {
    const CommandResult trained =
        rondo({"train",      path("train"), "--out",  path(out), "--holdout",    "0",       "--steps",
               "2",          "--layers",    "2",      "--width", "32",           "--heads", "2",
               "--ctx-size", "256",         "--seed", seed,      "--eval-every", "0"});
    ASSERT_EQ(trained.status, 0) << trained.err;
  }
  Words eval(const std::string& model) const {
    return {"eval",  path(model),        path("text"), "--ctx-size", "40000", "--stride",
            "30000", "--segment-tokens", "1024",       "--format",   "json"};
  }
  int script(const std::string& options = "") const {
    const std::string command = std::string(RONDO_SOURCE_DIR) + "/scripts/million --rondo " + RONDO_COMMAND +
                                " --tokens 20480 --check-tokens 5000 --train-ctx 256 --steps 4 --long-ctx "
                                "512 --long-steps 2 --layers 2 --width 32 --head-dim 16"
                                " --segment-tokens 512 --memory-limit 8M --threads 1 --save-every 2 " +
                                options + " " + path("train") + " " + path("text") + " " + path("out") +
                                " >" + path("stdout") + " 2>" + path("stderr");
    const int status = std::system(command.c_str());  // NOLINT: paths of our own
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  TemporaryFolder folder_;
};

TEST_F(Million, AnInterruptedEvaluationGoesOnToTheSameBits) {
  train("run", "1");
  const CommandResult whole = rondo(eval("run"));
  ASSERT_EQ(whole.status, 0) << whole.err;
  const Words kept = eval("run") + Words{"--state", path("state")};
  std::mt19937 random(std::random_device{}());
  int stopped = 0;
  for (const int signal : {SIGINT, SIGKILL, SIGTERM, SIGKILL}) {
    Process process(kept);
    for (int n = 0; n < 1000 && process.err().find('%') == std::string::npos && process.running(); ++n)
      std::this_thread::sleep_for(5ms);
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 200));
    process.signal(signal);
    const CommandResult ended = process.wait();
    if (ended.status == 0) {
      EXPECT_EQ(ended.out, whole.out);
      continue;
    }
    ++stopped;
    EXPECT_EQ(ended.status, signal == SIGKILL ? 1000 + SIGKILL : 130) << ended.err;
    if (signal != SIGKILL) {
      EXPECT_NE(ended.err.find("; the same command goes on"), std::string::npos) << ended.err;
      EXPECT_TRUE(fs::exists(folder_ / "state/journal.json"));
    }
  }
  EXPECT_GT(stopped, 0);
  const CommandResult last = rondo(kept + Words{"--threads", "2"});
  EXPECT_EQ(last.status, 0) << last.err;
  EXPECT_EQ(last.out, whole.out);
  EXPECT_FALSE(fs::exists(folder_ / "state"));
}

TEST_F(Million, TheWorkOfOthersIsRefusedByName) {
  train("run", "1");
  train("other", "2");
  const Words state{"--state", path("state")};
  {
    Process process(eval("run") + state);
    for (int n = 0; n < 1000 && process.err().find('%') == std::string::npos && process.running(); ++n)
      std::this_thread::sleep_for(5ms);
    const CommandResult second = rondo(eval("run") + state);
    EXPECT_NE(second.err.find("no other process works"), std::string::npos) << second.err;
    process.signal(SIGINT);
    ASSERT_EQ(process.wait().status, 130);
  }
  const auto refused = [&](const Words& words, const char* why) {
    const CommandResult result = rondo(words);
    EXPECT_EQ(result.status, 2) << result.err;
    EXPECT_NE(result.err.find(why), std::string::npos) << result.err;
  };
  refused(eval("other") + state, "expected the model that the work in");
  refused(eval("run") + state + Words{"--dtype", "bf16"}, "expected the --dtype that the work in");
  refused(eval("run") + state + Words{"--skip", "3"}, "expected the --skip that the work in");
  refused(eval("run") + state + Words{"--devices", "2"}, "expected one device");
  refused(eval("run") + state + Words{"--spill", path("train")}, "expected --state or --spill, got both");
  write_text(folder_ / "text", sample_text(50'000, 3));
  refused(eval("run") + state, "expected the text that the work in");
}

TEST_F(Million, TheScriptMeasuresChecksAndGoesOn) {
  ASSERT_EQ(script(), 0) << read_text(folder_ / "stderr");
  const std::string result = read_text(folder_ / "out/result.md");
  EXPECT_EQ(read_text(folder_ / "stdout"), result);
  for (const char* words :
       {"| one | 20480 | ", "| windows | 512 | ",
        "5000 tokens in one context, spilled and in memory: the same bits.", "| 1 ... 4095 | 4095 | ",
        "| 4096 ... 8191 | 4096 | ", "| 8192 ... 16383 | 8192 | ", "| 16384 ... 20479 | 4096 | ",
        " --memory-limit 8M "})
    EXPECT_NE(result.find(words), std::string::npos) << words << " in\n" << result;
  const auto one = nlohmann::json::parse(read_text(folder_ / "out/one.json"));
  EXPECT_EQ(one["windows"], 1);
  EXPECT_EQ(one["bytes"], 20480);
  EXPECT_FALSE(fs::exists(folder_ / "out/state"));
  // As if it had been stopped within the training, and the text's scores were not there.
  const std::string bits = read_text(folder_ / "out/one.json");
  fs::remove_all(folder_ / "out/long/step-00000002");
  fs::remove(folder_ / "out/one.json");
  ASSERT_EQ(script(), 0) << read_text(folder_ / "stderr");
  EXPECT_EQ(read_text(folder_ / "out/one.json"), bits);
  EXPECT_EQ(script("--seed 2"), 2);
  EXPECT_NE(read_text(folder_ / "stderr").find("expected the settings of"), std::string::npos);
}

TEST_F(Million, TheScriptRefusesWhatMakesNoSense) {
  EXPECT_EQ(script("--no-such-option 1"), 2);
  EXPECT_EQ(script("one-more-argument"), 2);
  EXPECT_EQ(script("--check-tokens 30000"), 2);
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

}  // namespace
}  // namespace rondo::test
