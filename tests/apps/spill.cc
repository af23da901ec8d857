// rondo with --spill: a disk that is too small, a process that is killed, the same numbers as without, and
// the same text.

#include <gtest/gtest.h>

#include <sstream>

#include "tests/apps/command.h"
#include "tests/apps/runs.h"

namespace rondo::test {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

class Spilling : public testing::Test {
 protected:
  void SetUp() override {
    write_text(folder_ / "text", sample_text(60'000));
    fs::create_directory(folder_ / "disk");
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  /// The default context's segments are 24 MiB.
  Words train(const std::string& out, const std::string& context = "16384",
              const std::string& steps = "2") const {
    const Words model{"--layers", "4", "--width", "32", "--heads", "4", "--kv-heads", "2"};
    const Words run{"--ctx-size", context, "--segment-tokens", "512",
                    "--steps",    steps,   "--eval-windows",   "1"};
    return Words{"train", path("text"), "--out", path(out)} + model + run;
  }
  /// A shell command with a disk of so many bytes in the folder "disk" that only it sees; its output. Skips
  /// where none can be mounted.
  std::string on_small_disk(const std::string& size, const std::string& commands) {
    const std::string mount = "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o size=" + size +
                              " tmpfs \"" + path("disk") + "\" && ";
    if (std::system((mount + "true' 2> /dev/null").c_str()) != 0) return "";
    status_ = WEXITSTATUS(std::system((mount + commands + "' > \"" + path("said") + "\" 2>&1").c_str()));
    return read_text(folder_ / "said");
  }
  std::string line(const Words& words) const {
    std::string text = RONDO_COMMAND;
    for (const std::string& word : words) text += " \"" + word + "\"";
    return text;
  }

  TemporaryFolder folder_;
  int status_ = 0;
};

TEST_F(Spilling, AFullDiskIsAClearError) {
  const std::string said = on_small_disk("4m", line(train("run") + Words{"--spill", path("disk")}));
  if (said.empty()) GTEST_SKIP() << "no file system can be mounted here";
  EXPECT_EQ(status_, 2) << said;
  for (const char* part : {"rondo: [spill]", "expected room for ", "MiB of ", "No space left on device"})
    EXPECT_NE(said.find(part), std::string::npos) << said;
}

/// Killed as it writes, a step leaves no byte on the disk.
TEST_F(Spilling, AKilledStepLeavesNothingOnTheDisk) {
  const std::string used = "df --output=used -k \"" + path("disk") + "\" | tail -1";
  const std::string commands =
      used + "; " + line(train("run", "4096", "1000") + Words{"--spill", path("disk")}) + " & child=$!; " +
      // Beyond what the files take from the start: the step has begun when its losses are told.
      "n=0; while [ ! -s \"" + path("run/metrics.jsonl") +
      "\" ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done; sleep 0.2; " + used +
      "; kill -9 $child; wait $child; " + used + "; ls -A \"" + path("disk") + "\" | wc -l";
  std::istringstream said(on_small_disk("200m", commands));
  if (said.str().empty()) GTEST_SKIP() << "no file system can be mounted here";
  std::vector<long> numbers;
  for (std::string word; said >> word;)
    if (word.find_first_not_of("0123456789") == std::string::npos) numbers.push_back(std::stol(word));
  ASSERT_GE(numbers.size(), 4u) << said.str();
  const std::size_t last = numbers.size();
  EXPECT_EQ(numbers[0], 0) << said.str();
  EXPECT_GT(numbers[last - 3], 3000) << said.str();  // KiB
  EXPECT_EQ(numbers[last - 2], 0) << said.str();
  EXPECT_EQ(numbers[last - 1], 0) << said.str();
}

TEST_F(Spilling, TextIsTheSame) {
  ASSERT_EQ(rondo(train("run", "512")).status, 0);
  write_text(folder_ / "prompt", sample_text(5000, 3));
  const Words generate{"generate", path("run"), "--prompt-file", path("prompt"), "-n", "40", "--temp", "0.7"};
  const Words spill = generate + Words{"--spill", path("disk"), "--segment-tokens", "512"};
  const CommandResult whole = rondo(generate), spilled = rondo(spill);
  ASSERT_EQ(spilled.status, 0) << spilled.err;
  EXPECT_EQ(spilled.out, whole.out);
  // What it holds is bounded, and what does not fit is refused before it starts.
  EXPECT_EQ(rondo(spill + Words{"--memory-limit", "4M"}).out, whole.out);
  const CommandResult refused = rondo(generate + Words{"--memory-limit", "4M"});
  EXPECT_EQ(refused.status, 2);
  for (const char* part : {"[generate]", "--memory-limit, 4.0 MiB a device", "K/V cache",
                           "--spill DIR --segment-tokens", "devices in all"})
    EXPECT_NE(refused.err.find(part), std::string::npos) << refused.err;
}

TEST_F(Spilling, AutoTakesWhatTheLimitHasRoomFor) {
  ASSERT_EQ(rondo(train("run", "512")).status, 0);
  write_text(folder_ / "text", sample_text(20'000));
  const CommandResult eval = rondo({"eval", path("run"), path("text"), "--ctx-size", "auto", "--memory-limit",
                                    "4M", "--format", "json", "--max-windows", "1"});
  ASSERT_EQ(eval.status, 0) << eval.err;
  const auto context = nlohmann::json::parse(eval.out)["context"].get<std::int64_t>();
  EXPECT_GT(context, 1000);
  EXPECT_LT(context, 15'000);
  const Words one_more{
      "eval",           path("run"), path("text"), "--ctx-size", std::to_string(context + 4096),
      "--memory-limit", "4M"};
  EXPECT_EQ(rondo(one_more).status, 2);
  EXPECT_EQ(rondo({"eval", path("run"), path("text"), "--ctx-size", "auto"}).status, 2);
  const CommandResult all = rondo({"eval", path("run"), path("text"), "--ctx-size", "auto", "--memory-limit",
                                   "4M", "--format", "json", "--spill", path("disk")});
  ASSERT_EQ(all.status, 0) << all.err;
  EXPECT_EQ(nlohmann::json::parse(all.out)["context"], 20'000);
  const CommandResult answer = rondo({"generate", path("run"), "the ring", "-n", "1000000", "--temp", "0",
                                      "--ctx-size", "auto", "--memory-limit", "4M"});
  EXPECT_EQ(answer.status, 0) << answer.err;
}

}  // namespace
}  // namespace rondo::test
