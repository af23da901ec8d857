// What cannot be done is refused in one line that names the cause, with status 2, and leaves nothing behind.

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/apps/command.h"

namespace rondo::test {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

void expect_refused(const Words& arguments, const Words& named, int status = 2) {
  std::string line = "rondo";
  for (const std::string& argument : arguments) line += " " + argument;
  const CommandResult result = rondo(arguments);
  EXPECT_EQ(result.status, status) << line << "\n" << result.err;
  EXPECT_EQ(result.out, "") << line;
  const std::size_t begin = result.err.rfind("rondo: ");
  ASSERT_NE(begin, std::string::npos) << line << "\n" << result.err;
  const std::string message = result.err.substr(begin);
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 1) << message;
  for (const std::string& part : named)
    EXPECT_NE(message.find(part), std::string::npos) << line << "\nno '" << part << "' in: " << message;
}

class BadInput : public testing::Test {
 protected:
  void SetUp() override {
    write_text(folder_ / "text", sample_text(3000));
    write_text(folder_ / "empty", "");
    write_text(folder_ / "junk", std::string("\x00\xff\x7f junk \x01", 11) + std::string(200, '\x93'));
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  Words train(const Words& more) const {
    return Words{"train",    path("text"), "--out",   path("run"), "--ctx-size", "64",
                 "--layers", "1",          "--width", "16",        "--heads",    "2"} +
           more;
  }
  TemporaryFolder folder_;
};

TEST_F(BadInput, OptionsAreNamed) {
  expect_refused({"trian"}, {"trian", "did you mean train?"});
  expect_refused(train({"--stepz", "5"}), {"--stepz", "did you mean --steps?"});
  expect_refused({"--steps", "5", "train", "text"}, {"train", "after the command's name", "--steps"});
  expect_refused({"bench", "--ctx", "attention"}, {"bench attention", "after the command's name", "--ctx"});
  expect_refused(train({"--kv-heads", "1", "--steps", "-5"}), {"--steps", "'-5'"});
  expect_refused(train({"--kv-heads", "1", "--steps", "0"}), {"--steps", "'0'"});
  expect_refused(train({"--kv-heads", "1", "--steps", "many"}), {"--steps", "many"});
  expect_refused(train({"--kv-heads", "1", "--lr", "nan"}), {"--lr", "nan"});
  expect_refused(train({"--kv-heads", "1", "--lr", "0"}), {"--lr", "'0'"});
  expect_refused(train({"--kv-heads", "1", "--devices", "0"}), {"--devices", "'0'"});
  expect_refused(train({"--kv-heads", "1", "--threads", "-1"}), {"--threads", "'-1'"});
  expect_refused(train({"--kv-heads", "1", "--seed", "-1"}), {"--seed", "'-1'"});
  expect_refused(train({"--kv-heads", "1", "--trace", path("none/t")}), {"--trace", path("none/t")});
  expect_refused(train({"--kv-heads", "1", "--report", folder_.path().string()}), {"--report", "folder"});
  expect_refused(train({"--kv-heads", "1", "--layout", "zagzig"}), {"--layout", "zagzig", "zigzag"});
  expect_refused(train({"--kv-heads", "1", "--memory-limit", "5Q"}), {"--memory-limit", "5Q"});
  expect_refused(train({"--kv-heads", "1", "--memory-limit", "1M"}),
                 {"--memory-limit, 1.0 MiB a device", "optimizer", "what would do alone"});
  // Without the plan's word the ledger has the last one.
  expect_refused(train({"--kv-heads", "1", "--memory-limit", "1M", "--start-anyway"}),
                 {"[memory] device 0", "at most 1.0 MiB", "asks for"});
  expect_refused(train({"--kv-heads", "1", "--attention", "vanilla", "--devices", "2"}),
                 {"--attention vanilla", "2 devices", "--attention blockwise"});
  expect_refused(train({"--kv-heads", "1", "--attention", "vanilla", "--spill", path("")}),
                 {"--attention vanilla", "--spill"});
  expect_refused(train({"--kv-heads", "1", "--feedforward", "half"}), {"--feedforward", "half"});
  for (const auto& [size, words] :
       {std::pair("auto", "--memory-limit for --ctx-size auto"), {"autumn", "autumn"}})
    expect_refused({"train", path("text"), "--out", path("run"), "--width", "16", "--heads", "2",
                    "--kv-heads", "1", "--ctx-size", size},
                   {"--ctx-size", words});
  expect_refused(train({"--kv-heads", "1", "--devices", "2", "--spill", "."}), {"one device", "--spill"});
  expect_refused(train({"--kv-heads", "1", "--spill", path("nowhere")}), {"nowhere", "expected a folder"});
  expect_refused(train({"--kv-heads", "1", "--segment-tokens", "100"}), {"--segment-tokens", "512", "100"});
  expect_refused(train({"--shard", "model"}), {"--shard", "none|optimizer|parameters", "model"});
  expect_refused(train({"--devices", "4", "--data-parallel", "3"}), {"--data-parallel", "4 devices", "3"});
  expect_refused(train({"--devices", "4", "--data-parallel", "2"}), {"--batch", "multiple of 2", "got 1"});
  expect_refused(train({"--kv-heads", "1", "--isa", "mmx"}), {"isa", "mmx"});
  expect_refused(train({"--kv-heads", "1", "--dropout", "1.5"}), {"--dropout", "1.5"});
  expect_refused(train({"--kv-heads", "1", "--holdout", "2"}), {"--holdout", "'2'"});
  expect_refused(train({"--kv-heads", "1", "--holdout", "0.1", "--valid", path("text")}),
                 {"--holdout", "--valid"});
  expect_refused(train({"--kv-heads", "3"}), {"num_key_value_heads", "3"});
  expect_refused(train({"--kv-heads", "1", "--first-k", "4"}), {"first_k", "window"});
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(BadInput, DataIsNamed) {
  const auto on = [&](const std::string& text) { return Words{"train", path(text), "--out", path("run")}; };
  expect_refused({"train"}, {"DATA"});
  expect_refused(on("nothing"), {"nothing"});
  expect_refused(on("empty"), {"empty"});
  expect_refused(on("text"), {"16384", "--ctx-size"});  // context longer than the data
  expect_refused(train({"--kv-heads", "1", "--valid", path("nothing")}), {"nothing"});
  fs::create_directory(folder_ / "folder");
  expect_refused(on("folder"), {"folder"});
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(BadInput, ConfigurationFilesAreNamedWithTheKey) {
  const auto with = [&](const std::string& content) {
    write_text(folder_ / "options.toml", content);
    return train({"--kv-heads", "1", "--config-file", path("options.toml")});
  };
  expect_refused(with("stepz = 3\n"), {"options.toml", "stepz", "did you mean steps?"});
  expect_refused(with("steps = \"x\"\n"), {"options.toml", "--steps", "'x'"});
  expect_refused(with("steps = -1\n"), {"options.toml", "--steps", "-1"});
  expect_refused(with("steps = \n"), {"options.toml", "line 1"});
  expect_refused(with("steps = { a = 1 }\n"), {"options.toml", "steps"});
  expect_refused(with("separate-documents = 3\n"), {"options.toml", "separate-documents"});
  expect_refused(train({"--kv-heads", "1", "--config-file", path("none.toml")}), {"none.toml"});
  expect_refused(train({"--kv-heads", "1", "--config-file", path("junk")}), {"junk"});
}

TEST_F(BadInput, ModelsAreNamed) {
  expect_refused({"eval", path("nothing"), path("text")}, {"nothing"});
  expect_refused({"eval", path("junk"), path("text")}, {"junk", "file"});
  fs::create_directory(folder_ / "model");
  expect_refused({"generate", path("model")}, {"model", "config.json"});
  write_text(folder_ / "model/config.json", "{\"model_type\": \"gpt2\"}");
  expect_refused({"generate", path("model")}, {"model_type", "gpt2"});
  write_text(folder_ / "model/config.json", read_text(folder_ / "junk"));
  expect_refused({"inspect", path("model")}, {"config.json"});
  expect_refused({"train", path("text"), "--config", path("junk"), "--out", path("run")}, {"junk"});
  expect_refused({"train", path("text"), "--from", path("model"), "--out", path("run")}, {"config.json"});
  expect_refused({"train", "--resume", path("nothing")}, {"nothing"});
  for (const Words& files : {Words{"junk", "junk"}, Words{"nothing", "junk"}, Words{"empty", "empty"}})
    expect_refused({"import", "llama2c", path(files[0]), path(files[1]), path("imported")}, {files[0]});
  EXPECT_FALSE(fs::exists(folder_ / "imported"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

class BadCheckpoint : public BadInput {
 protected:
  void SetUp() override {
    BadInput::SetUp();
    const CommandResult made = rondo(train({"--kv-heads", "1", "--steps", "2", "--warmup", "0"}));
    ASSERT_EQ(made.status, 0) << made.err;
  }
  std::string checkpoint() const { return path("run/step-00000002"); }
  void cut(const std::string& file) const {
    const std::string content = read_text(fs::path(checkpoint()) / file);
    write_text(fs::path(checkpoint()) / file, content.substr(0, content.size() / 2));
  }
};

TEST_F(BadCheckpoint, ADamagedFileIsNamed) {
  cut("model.safetensors");
  expect_refused({"eval", path("run"), path("text")}, {"model.safetensors"});
  expect_refused({"generate", path("run")}, {"model.safetensors"});
  expect_refused({"train", "--resume", path("run"), "--steps", "3"}, {"model.safetensors"});
}

TEST_F(BadCheckpoint, DamagedTrainingStateIsNamed) {
  cut("training_state/optimizer.safetensors");
  expect_refused({"train", "--resume", path("run"), "--steps", "3"}, {"optimizer.safetensors"});
  cut("training_state/state.json");
  expect_refused({"train", "--resume", path("run"), "--steps", "3"}, {"state.json"});
  EXPECT_EQ(rondo({"generate", path("run"), "-n", "2"}).status, 0);  // the model itself is whole
}

TEST_F(BadCheckpoint, OtherDataAndOtherRunsAreRefused) {
  write_text(folder_ / "other", sample_text(3500));
  expect_refused({"train", path("other"), "--resume", path("run"), "--steps", "3"}, {"text", "another"});
  expect_refused(train({"--kv-heads", "1"}), {"run", "--resume"});
}

TEST_F(BadCheckpoint, SizesOfEvaluationAndGenerationAreNamed) {
  expect_refused({"eval", path("run"), path("text"), "--ctx-size", "100000"}, {"--ctx-size", "100000"});
  expect_refused({"eval", path("run"), path("text"), "--stride", "65"}, {"--stride", "64", "65"});
  expect_refused({"eval", path("run"), path("empty")}, {"empty"});
  expect_refused({"generate", path("run"), "hello", "-n", "9", "--ctx-size", "10"},
                 {"--ctx-size 10", "6 + 9"});
  expect_refused({"generate", path("run"), "--top-p", "0"}, {"--top-p"});
  expect_refused({"generate", path("run"), "--temp", "-1"}, {"--temp"});
  expect_refused({"generate", path("run"), "x", "--prompt-file", path("text")}, {"--prompt-file"});
  expect_refused({"generate", path("run"), "-n", "2", "--memory-limit", "1K"}, {"limit"});
}

TEST_F(BadInput, AMemoryLimitIsKeptAndLeavesNothing) {
  expect_refused(train({"--kv-heads", "1", "--memory-limit", "64K"}), {"limit"});
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(BadInput, ADivergedRunStopsAndSaysWhatIsLeft) {
  const Words run =
      train({"--kv-heads", "1", "--lr", "1e38", "--warmup", "0", "--steps", "50", "--save-every", "1"});
  expect_refused(run, {"finite", "step"}, 1);
}

TEST_F(BadInput, MoreDevicesThanTokensWork) {
  const CommandResult result =
      rondo(train({"--kv-heads", "1", "--ctx-size", "3", "--devices", "5", "--steps", "2"}));
  EXPECT_NE(result.err.find("--ctx-size"), std::string::npos);  // given twice
  const CommandResult trained =
      rondo({"train",     path("text"), "--out",   path("run"), "--ctx-size", "3",          "--layers",
             "1",         "--width",    "16",      "--heads",   "2",          "--kv-heads", "1",
             "--devices", "5",          "--steps", "2",         "--warmup",   "0"});
  EXPECT_EQ(trained.status, 0) << trained.err;
}

}  // namespace
}  // namespace rondo::test
