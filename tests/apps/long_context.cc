// scripts/long_context from end to end, at a tiny size: it trains, scores, compares, and goes on where it
// stopped.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tests/apps/command.h"

namespace rondo::test {
namespace {

using nlohmann::json;

class LongContext : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(folder_ / "train");
    std::filesystem::create_directory(folder_ / "valid");
    write_text(folder_ / "train/a", sample_text(30'000, 1));
    write_text(folder_ / "valid/a", sample_text(9'000, 2));
    write_text(folder_ / "valid/b", sample_text(4'000, 3));
  }
  int script(const std::string& options = "") const {
    const std::string command =
        std::string(RONDO_SOURCE_DIR) + "/scripts/long_context --rondo " + RONDO_COMMAND +
        " --steps 4 --long 512 --short 64 --step-tokens 512 --layers 1 --width 16 --heads 2"
        " --kv-heads 1 --dtype f32 --save-every 2 --rates 1e-2,1e-4 " +
        options + " " + (folder_ / "train").string() + " " + (folder_ / "valid").string() + " " +
        (folder_ / "out").string() + " >" + (folder_ / "stdout").string() + " 2>" +
        (folder_ / "stderr").string();
    const int status = std::system(command.c_str());  // NOLINT: paths of our own
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string text(const std::string& name) const { return read_text(folder_ / name); }
  json blocks(const std::string& name) const { return json::parse(text("out/" + name)); }
  TemporaryFolder folder_;
};

TEST_F(LongContext, TrainsScoresTheSameBytesAndCompares) {
  ASSERT_EQ(script(), 0) << text("stderr");
  const std::string result = text("out/result.md");
  EXPECT_EQ(text("stdout"), result);
  // The higher rate learns more in four steps, with either context.
  for (const char* words :
       {"64-1e-2-16.json (context 64, stride 16)", "512-1e-2-512.json (context 512, stride 512)",
        "512-1e-2-256.json (context 512, stride 256)", "difference", "tokens in context"})
    EXPECT_NE(result.find(words), std::string::npos) << words << " in\n" << result;
  for (const char* rate : {"1e-2", "1e-4"}) {
    const json longer = blocks(std::string("512-") + rate + "-512.json");
    const json shorter = blocks(std::string("64-") + rate + "-16.json");
    // Two files of a <bos> each; the first <bos> and 48 bytes are context alone, the second <bos> is no text.
    EXPECT_EQ(longer["bytes"], 13'000 - 48);
    ASSERT_EQ(longer["blocks"].size(), 4u);
    for (std::size_t n = 0; n < 4; ++n)
      EXPECT_EQ(longer["blocks"][n]["bytes"], shorter["blocks"][n]["bytes"]);
    // No byte of the short one had less context.
    EXPECT_EQ(shorter["by_position"][0]["begin"], 32);
    EXPECT_EQ(shorter["skipped"], 48);
  }
  const json compared = json::parse(rondo({"compare", (folder_ / "out/64-1e-2-16.json").string(),
                                           (folder_ / "out/512-1e-2-512.json").string(), "--format", "json"})
                                        .out);
  EXPECT_NEAR(compared["first"], blocks("64-1e-2-16.json")["bits_per_byte"], 1e-12);
  EXPECT_NEAR(compared["second"], blocks("512-1e-2-512.json")["bits_per_byte"], 1e-12);
  EXPECT_GT(compared["standard_error"], 0);
}

TEST_F(LongContext, GoesOnWhereItStopped) {
  ASSERT_EQ(script(), 0) << text("stderr");
  const std::string kept = text("out/512-1e-2-512.json"), redone = text("out/64-1e-2-16.json");
  const auto written = std::filesystem::last_write_time(folder_ / "out/512-1e-2-512.json");
  std::filesystem::remove_all(folder_ / "out/64-1e-2/step-00000004");  // as if stopped after step 2
  for (const char* file : {"64-1e-2-16.json", "64-1e-2-16.txt", "result.md"})
    std::filesystem::remove(folder_ / "out" / file);
  ASSERT_EQ(script(), 0) << text("stderr");
  EXPECT_EQ(text("out/64-1e-2-16.json"), redone);
  EXPECT_EQ(text("out/512-1e-2-512.json"), kept);
  EXPECT_EQ(std::filesystem::last_write_time(folder_ / "out/512-1e-2-512.json"), written);
  // As if another was stopped before its first checkpoint.
  std::filesystem::remove(folder_ / "out/64-1e-2-16.json");
  for (const char* step : {"step-00000002", "step-00000004"})
    std::filesystem::remove_all(folder_ / "out/64-1e-2" / step);
  ASSERT_EQ(script(), 0) << text("stderr");
  EXPECT_EQ(text("out/64-1e-2-16.json"), redone);
  EXPECT_EQ(script("--seed 2"), 2);
  EXPECT_NE(text("stderr").find("expected the settings of"), std::string::npos);
}

TEST_F(LongContext, RefusesWhatMakesNoSense) {
  EXPECT_EQ(script("--steps"), 2);
  EXPECT_EQ(script("--no-such-option 1"), 2);
  EXPECT_EQ(script("one-more-argument"), 2);
  EXPECT_EQ(script("--long 500"), 2);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
}

TEST_F(LongContext, CompareRefusesWhatIsNotOfTheSameText) {
  const auto file = [&](const char* name, const char* content) {
    write_text(folder_ / name, content);
    return (folder_ / name).string();
  };
  constexpr const char* kGood =
      R"({"block_tokens":4096,"context":4,"stride":4,"blocks":[{"bytes":4,"nats":1},{"bytes":4,"nats":2}]})";
  constexpr const char* kOther =
      R"({"block_tokens":4096,"context":4,"stride":4,"blocks":[{"bytes":4,"nats":1},{"bytes":3,"nats":2}]})";
  const std::string good = file("good", kGood), other = file("other", kOther), none = file("none", "{}");
  EXPECT_EQ(rondo({"compare", good, good}).status, 0);
  const CommandResult differ = rondo({"compare", good, other});
  EXPECT_EQ(differ.status, 2);
  EXPECT_NE(differ.err.find("expected the same scored bytes, got 4 and 3"), std::string::npos) << differ.err;
  EXPECT_EQ(rondo({"compare", good, none}).status, 2);
  EXPECT_EQ(rondo({"compare", good, good + "-not-there"}).status, 2);
}

}  // namespace
}  // namespace rondo::test
