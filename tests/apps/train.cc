// Training from the command line, and what evaluation and generation make of the run.

#include <gtest/gtest.h>
#include <sys/utsname.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numbers>
#include <sstream>
#include <thread>

#include "tests/apps/command.h"

namespace rondo::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

const Words kShape = {"--layers", "1",          "--width", "16",         "--heads",
                      "4",        "--kv-heads", "2",       "--ctx-size", "256"};
const Words kRing = {"--devices", "2"};

std::vector<json> lines_of(const std::filesystem::path& metrics, const char* key) {
  std::vector<json> lines;
  std::istringstream file(read_text(metrics));
  for (std::string line; std::getline(file, line);) {
    const json parsed = json::parse(line);  // throws, and fails the test, on what is no JSON
    if (parsed.contains(key)) lines.push_back(parsed);
  }
  return lines;
}

std::vector<double> losses(const std::filesystem::path& metrics) {
  std::vector<double> values;
  for (const json& line : lines_of(metrics, "loss")) values.push_back(line["loss"]);
  return values;
}

/// Each form's losses within rounding of the usual one's.
void expect_near(const std::vector<double>& found, const std::vector<double>& expected, double bound) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t n = 0; n < found.size(); ++n) EXPECT_NEAR(found[n], expected[n], bound * expected[n]);
}

class Train : public testing::Test {
 protected:
  void SetUp() override { write_text(folder_ / "text", sample_text(40'000)); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  /// Six steps of a small model into `out`.
  CommandResult train(const std::string& out, const Words& more = {}) const {
    return rondo(Words{"train", path("text"), "--out", path(out), "--steps", "6", "--warmup", "2"} + kShape +
                 kRing + more);
  }
  TemporaryFolder folder_;
};

/// Of a process, in nanoseconds; 0 where the kernel does not say.
long time_slice(const std::string& process) {
  const std::string words = read_text("/proc/" + process + "/sched");
  const auto at = words.find("se.slice");
  return at == std::string::npos ? 0 : std::stol(words.substr(words.find(':', at) + 1));
}

TEST_F(Train, AsksForLongTimeSlices) {
  utsname system{};
  uname(&system);
  int major = 0, minor = 0;
  if (std::sscanf(system.release, "%d.%d", &major, &minor) != 2 || std::pair(major, minor) < std::pair(6, 12))
    GTEST_SKIP() << "Linux lets threads choose from 6.12 on, this is " << system.release;
  if (time_slice("self") == 0) GTEST_SKIP() << "/proc/self/sched does not tell time slices";
  const Process run(Words{"train", path("text"), "--out", path("run"), "--steps", "1000000"} + kShape);
  for (int look = 0; look < 1000 && time_slice(std::to_string(run.id())) != 100'000'000; ++look)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(time_slice(std::to_string(run.id())), 100'000'000);
}

TEST_F(Train, EveryFormHasTheSameLosses) {
  const auto train_one = [&](const std::string& out, const Words& form) {  // one device
    return rondo(Words{"train", path("text"), "--out", path(out), "--steps", "6", "--warmup", "2"} + kShape +
                 form);
  };
  ASSERT_EQ(train_one("usual", {}).status, 0);
  const std::vector<double> usual = losses(folder_ / "usual/metrics.jsonl");
  ASSERT_EQ(usual.size(), 6u);
  const Words vanilla = {"--attention", "vanilla"}, whole = {"--feedforward", "whole"};
  for (const auto& [name, form] :
       {std::pair("vanilla", vanilla), {"whole", whole}, {"both", vanilla + whole}}) {
    const CommandResult result = train_one(name, form);
    ASSERT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(result.err.find("attention vanilla") != std::string::npos, name != std::string("whole"));
    expect_near(losses(folder_ / name / "metrics.jsonl"), usual, 1e-5);  // six updates of float32 sums
  }
  const auto bits = [&](const Words& form) {
    const CommandResult result = rondo(Words{"eval", path("usual"), path("text"), "--ctx-size", "256",
                                             "--max-windows", "2", "--format", "json"} +
                                       form);
    EXPECT_EQ(result.status, 0) << result.err;
    return json::parse(result.out)["bits_per_byte"].get<double>();
  };
  EXPECT_NEAR(bits(vanilla + whole), bits({}), 1e-5);
}

TEST_F(Train, WritesMetricsCheckpointReportAndTrace) {
  const CommandResult result = train(
      "run", {"--eval-every", "3", "--save-every", "2", "--keep", "2", "--bigram", "--sample-tokens", "8"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out, "");  // words are for stderr
  const auto steps = lines_of(folder_ / "run/metrics.jsonl", "loss");
  ASSERT_EQ(steps.size(), 6u);
  for (std::size_t n = 0; n < steps.size(); ++n) {
    const json& line = steps[n];
    EXPECT_EQ(line["step"], n + 1);
    EXPECT_NEAR(line["bits_per_byte"], line["loss"].get<double>() / std::numbers::ln2, 1e-12);
    EXPECT_EQ(line["tokens"], 256);
    EXPECT_EQ(line["memory_bytes"].size(), 2u);
    for (const char* key :
         {"learning_rate", "gradient_norm", "seconds", "tokens_per_second", "flops", "flops_share_of_peak"})
      EXPECT_GT(line[key].get<double>(), 0) << key;
    const auto of = [&](const char* key, int device) { return line[key].at(device).get<double>(); };
    for (const int device : {0, 1}) {
      const double sum =
          of("compute_seconds", device) + of("exchange_seconds", device) + of("wait_seconds", device);
      EXPECT_GE(sum, line["seconds"].get<double>() - 1e-9);
      EXPECT_LE(sum, 1.5 * line["seconds"].get<double>() + 1e-3);  // devices begin a step almost together
    }
    const int slowest = line["slowest_device"];
    EXPECT_GE(of("compute_seconds", slowest), of("compute_seconds", 1 - slowest));
    const double mean = (of("compute_seconds", 0) + of("compute_seconds", 1)) / 2;
    EXPECT_NEAR(line["imbalance"], of("compute_seconds", slowest) / mean - 1, 1e-9);
  }
  EXPECT_LT(steps.back()["loss"], steps.front()["loss"]);
  const auto evaluations = lines_of(folder_ / "run/metrics.jsonl", "held_out_bits_per_byte");
  ASSERT_EQ(evaluations.size(), 2u);
  EXPECT_EQ(evaluations[0]["step"], 3);
  EXPECT_EQ(evaluations[1]["step"], 6);
  const auto entries = [&] {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "run"))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }();
  EXPECT_EQ(entries, (Words{"metrics.jsonl", "report.html", "step-00000004", "step-00000006", "trace.json"}));
  EXPECT_FALSE(json::parse(read_text(folder_ / "run/trace.json"))["traceEvents"].empty());
  const std::string report = read_text(folder_ / "run/report.html");
  EXPECT_NE(report.find("byte bigrams"), std::string::npos);
  EXPECT_NE(report.find("2 devices"), std::string::npos);
  EXPECT_NE(report.find("Where the time goes"), std::string::npos);
}

TEST_F(Train, AResumedRunGivesTheSameBits) {
  ASSERT_EQ(train("whole").status, 0);
  ASSERT_EQ(train("parts", {"--stop-after", "3"}).status, 0);
  // A line beyond the checkpoint, and one cut short, as after a crash.
  write_text(folder_ / "parts/metrics.jsonl",
             read_text(folder_ / "parts/metrics.jsonl") + "{\"step\":4,\"loss\":99}\n{\"step\":5,\"lo");
  const CommandResult resumed = rondo(
      Words{"train", "--resume", path("parts"), "--threads", "2", "--exchange", "share", "--remat", "none"} +
      kRing);
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  const auto whole = losses(folder_ / "whole/metrics.jsonl"), parts = losses(folder_ / "parts/metrics.jsonl");
  ASSERT_EQ(whole.size(), 6u);
  EXPECT_EQ(whole, parts);
  const auto weights = [&](const char* run) {
    return read_text(folder_ / run / "step-00000006" / "model.safetensors");
  };
  EXPECT_TRUE(weights("whole") == weights("parts"));
}

TEST_F(Train, ResumeRefusesWhatContradictsTheCheckpoint) {
  ASSERT_EQ(train("run").status, 0);
  const auto resume = [&](const Words& more) {
    return rondo(Words{"train", "--resume", path("run")} + more);
  };
  const CommandResult done = resume({});
  EXPECT_EQ(done.status, 2);
  EXPECT_NE(done.err.find("--steps above the 6"), std::string::npos) << done.err;
  const struct {
    Words options;
    Words named;
  } cases[] = {
      {{"--lr", "0.5"}, {"--lr 0.001", "got 0.5"}},
      {{"--layers", "3"}, {"--layers 1", "got 3"}},
      {{"--seed", "7"}, {"--seed 1", "got 7"}},
      {{"--dtype", "bf16"}, {"--dtype f32", "got bf16"}},
      {{"--schedule", "wsd"}, {"--schedule cosine", "got wsd"}},
      {{"--from", "x"}, {"--from", "--resume"}},
      {{"--steps", "5"}, {"--steps of at least 6", "got 5"}},
      {{"--ctx-size", "128"}, {"--ctx-size 256", "got 128"}},
  };
  for (const auto& [options, named] : cases) {
    // More steps, so that the run is not refused for being done.
    const CommandResult result = resume(options[0] == "--steps" ? options : Words{"--steps", "8"} + options);
    EXPECT_EQ(result.status, 2) << options[0];
    for (const std::string& part : named) EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  }
  const CommandResult raised = resume({"--steps", "8", "--lr", "0.001"});
  EXPECT_EQ(raised.status, 0) << raised.err;
  EXPECT_NE(raised.err.find("--steps raised from 6 to 8"), std::string::npos) << raised.err;
  EXPECT_EQ(losses(folder_ / "run/metrics.jsonl").size(), 8u);
}

TEST_F(Train, OptionsFromAFileYieldToTheCommandLine) {
  write_text(folder_ / "options.toml",
             "steps = 9\nlayers = 1\nwidth = 16\nheads = 2\nkv-heads = 1\nctx-size = 128\nlr = 2e-3\n"
             "tie-embeddings = true\nholdout = 0.1\nvalid = []\n");
  const CommandResult result = rondo({"train", path("text"), "--out", path("run"), "--config-file",
                                      path("options.toml"), "--steps", "2", "--warmup", "0"});
  ASSERT_EQ(result.status, 0) << result.err;
  const json state = json::parse(read_text(folder_ / "run/step-00000002/training_state/state.json"));
  EXPECT_EQ(state["recipe"]["steps"], 2);
  EXPECT_EQ(state["recipe"]["context"], 128);
  EXPECT_EQ(state["recipe"]["learning_rate"], 2e-3);
  EXPECT_TRUE(json::parse(read_text(folder_ / "run/step-00000002/config.json"))["tie_word_embeddings"]);
}

TEST_F(Train, StartsFromAFolderAndRefusesAnotherShape) {
  ASSERT_EQ(train("first", {"--holdout", "0"}).status, 0);
  const Words from = {"train",      path("text"), "--from",  path("first/step-00000006"),
                      "--ctx-size", "256",        "--steps", "2"};
  const CommandResult second = rondo(from + Words{"--out", path("second")});
  ASSERT_EQ(second.status, 0) << second.err;
  EXPECT_LT(losses(folder_ / "second/metrics.jsonl")[0], losses(folder_ / "first/metrics.jsonl")[0]);
  const CommandResult refused = rondo(from + Words{"--out", path("third"), "--layers", "2"});
  EXPECT_EQ(refused.status, 2);
  EXPECT_NE(refused.err.find("--from alone, got --layers"), std::string::npos) << refused.err;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "third"));
}

TEST_F(Train, EvaluationAndGenerationReadTheRun) {
  ASSERT_EQ(train("run").status, 0);
  const auto eval = [&](const Words& more) {
    const CommandResult result =
        rondo(Words{"eval", path("run"), path("text"), "--max-windows", "5", "--format", "json"} + more);
    EXPECT_EQ(result.status, 0) << result.err;
    return json::parse(result.out);
  };
  const json one = eval({}), again = eval({}), ring = eval({"--devices", "3"});
  EXPECT_EQ(one, again);
  EXPECT_EQ(one["context"], 256);
  EXPECT_EQ(one["tokens"], 5 * 256);
  EXPECT_EQ(one["bytes"], one["tokens"]);
  EXPECT_NEAR(one["bits_per_byte"], ring["bits_per_byte"], 1e-5);
  // Weights that are divided give the same bits; two rings of one each score other windows.
  EXPECT_EQ(eval({"--devices", "3", "--shard", "parameters"}), ring);
  const json rings = eval({"--devices", "2", "--data-parallel", "2", "--shard", "parameters"});
  EXPECT_EQ(rings["tokens"], one["tokens"]);
  EXPECT_NEAR(rings["nats"].get<double>(), one["nats"].get<double>(), 1e-9 * one["nats"].get<double>());
  EXPECT_NEAR(one["perplexity"].get<double>(), std::exp2(one["bits_per_byte"].get<double>()), 1e-6);
  double nats = 0;
  for (const json& bucket : one["by_position"]) nats += bucket["nats"].get<double>();
  EXPECT_NEAR(nats, one["nats"], 1e-6);
  // Half a stride gives every token but the first ones a longer context, and scores no token twice.
  const json strided = eval({"--stride", "128"});
  EXPECT_EQ(strided["tokens"], 256 + 4 * 128);

  const Words generate = {"generate", path("run"), "the ring", "-n", "24", "--echo"};
  const CommandResult sampled = rondo(generate + Words{"--seed", "3"});
  ASSERT_EQ(sampled.status, 0) << sampled.err;
  EXPECT_TRUE(sampled.out.starts_with("the ring")) << sampled.out;
  EXPECT_EQ(sampled.out, rondo(generate + Words{"--seed", "3"}).out);
  EXPECT_NE(sampled.out, rondo(generate + Words{"--seed", "4"}).out);
  EXPECT_EQ(rondo({"generate", path("run"), "-", "-n", "24", "--echo", "--seed", "3"}, "the ring").out,
            sampled.out);
  EXPECT_EQ(rondo(Words{"inspect", path("run")}).status, 0);
}

}  // namespace
}  // namespace rondo::test
