// Damaged checkpoints as users meet them: what --resume, eval and inspect say and do.

#include <gtest/gtest.h>

#include "tests/apps/runs.h"

namespace rondo::test {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

class Checkpoints : public testing::Test {
 protected:
  void SetUp() override {
    write_text(folder_ / "text", sample_text(30'000));
    ASSERT_EQ(rondo(train("run") + Words{"--stop-after", "6"}).status, 0);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  Words train(const std::string& out) const {
    return {"train",    path("text"), "--out",      path(out), "--steps",    "9",   "--save-every", "2",
            "--keep",   "0",          "--layers",   "1",       "--width",    "16",  "--heads",      "2",
            "--warmup", "2",          "--kv-heads", "1",       "--ctx-size", "256", "--devices",    "3"};
  }
  /// Flips a bit in the middle of a file of the newest checkpoint.
  void flip(const std::string& name) const {
    const fs::path file = folder_ / "run/step-00000006" / name;
    std::string bytes = read_text(file);
    bytes[bytes.size() / 2] ^= 4;
    write_text(file, bytes);
  }
  TemporaryFolder folder_;
};

TEST_F(Checkpoints, ADamagedOneIsPassedOverAndTheRunGivesTheSameLosses) {
  const Words resume{"train", "--resume", path("run"), "--devices", "3", "--save-every", "2", "--keep", "2"};
  flip("model-00002-of-00003.safetensors");
  const fs::path shard = folder_ / "run/step-00000004/training_state/optimizer-00003-of-00003.safetensors";
  fs::resize_file(shard, fs::file_size(shard) / 2);
  const CommandResult resumed = rondo(resume);
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  for (const char* words :
       {"warning: ", "step-00000006 is passed over", "model-00002-of-00003.safetensors with the checksum",
        "step-00000004 is passed over", "optimizer-00003-of-00003.safetensors of ", "resumed after step 2"})
    EXPECT_NE(resumed.err.find(words), std::string::npos) << words << " in " << resumed.err;
  ASSERT_EQ(rondo(train("whole")).status, 0);
  EXPECT_EQ(losses(folder_ / "run/metrics.jsonl"), losses(folder_ / "whole/metrics.jsonl"));
  // The damaged ones were written again, and --keep holds.
  const CommandResult inspected = rondo({"inspect", path("run"), "--verify"});
  EXPECT_EQ(inspected.status, 0) << inspected.err;
  EXPECT_NE(inspected.out.find("verified    11 files"), std::string::npos) << inspected.out;
  EXPECT_EQ(checkpoint_steps(folder_ / "run"), (std::vector<int>{8, 9}));
}

TEST_F(Checkpoints, ANamedOneIsRefusedWhenDamaged) {
  flip("training_state/optimizer-00001-of-00003.safetensors");
  const std::string named = path("run/step-00000006");
  for (const Words& command : {Words{"train", "--resume", named}, Words{"inspect", named, "--verify"}}) {
    const CommandResult result = rondo(command);
    EXPECT_EQ(result.status, 2) << command[0];
    EXPECT_NE(result.err.find("optimizer-00001-of-00003.safetensors with the checksum"), std::string::npos)
        << result.err;
  }
  const Words generate{"generate", named, "-n", "2"};
  EXPECT_EQ(rondo(generate).status, 0);  // the model is whole
  flip("model-00003-of-00003.safetensors");
  const CommandResult result = rondo(generate);
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("model-00003-of-00003.safetensors"), std::string::npos) << result.err;
  EXPECT_EQ(rondo({"inspect", named}).status, 0);  // reads no more than it shows
}

TEST_F(Checkpoints, ModelsOfOthersCannotBeVerified) {
  fs::remove_all(folder_ / "run/step-00000006/training_state");
  EXPECT_EQ(rondo({"generate", path("run/step-00000006"), "-n", "2"}).status, 0);
  const CommandResult result = rondo({"inspect", path("run/step-00000006"), "--verify"});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("without training_state"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace rondo::test
