// rondo plan, as users type it.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/apps/command.h"

namespace rondo::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

const Words kPlan = {"plan",    "llama-7b", "--hardware", "a100-80gb",
                     "--dtype", "bf16",     "--shard",    "parameters"};

json planned(const Words& words) {
  const CommandResult result = rondo(words + Words{"--format", "json"});
  EXPECT_EQ(result.status, 0) << result.err;
  return result.status == 0 ? json::parse(result.out) : json::object();
}

void write_small_model(const TemporaryFolder& folder) {
  write_text(folder / "config.json",
             R"({"model_type": "llama", "vocab_size": 1000, "hidden_size": 128, "intermediate_size": 256,
                 "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2})");
}

TEST(Plan, SpeaksToPeople) {
  const CommandResult result = rondo(kPlan + Words{"--devices", "32", "--remat", "layer"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  for (const char* words : {"6738.42 M parameters", "a ring of 32 devices", "NVIDIA A100", "layer inputs",
                            "most at one time", "Longest context that fits", "waiting for what travels",
                            "MFU", "hide the exchange", "enough", "What limits: computation", "| 100,000 |"})
    EXPECT_NE(result.out.find(words), std::string::npos) << words << " is not in:\n" << result.out;
}

TEST(Plan, SpeaksToPrograms) {
  const json plan = planned(kPlan + Words{"--devices", "8", "--ctx-size", "131072"});
  EXPECT_EQ(plan["context"], 131072);
  EXPECT_EQ(plan["model"]["parameters"], 6738415616);
  std::int64_t sum = 0;
  for (const auto& [entry, bytes] : plan["memory"]["entries"].items()) sum += bytes.get<std::int64_t>();
  EXPECT_EQ(sum, plan["memory"]["peak"]);
  EXPECT_EQ(plan["memory"]["fits"], true);
  EXPECT_EQ(plan["time"]["method"], "simulation");
  EXPECT_GT(plan["time"]["seconds"], 0.0);
  EXPECT_GT(plan["time"]["mfu"], 0.1);
  EXPECT_GT(plan["time"]["tokens_to_hide"]["backward"], plan["time"]["tokens_to_hide"]["forward"]);
  EXPECT_EQ(plan["time"]["tokens_to_hide"]["yours"], 131072 / 8);
  EXPECT_EQ(plan["by_devices"].size(), 18u);
  EXPECT_EQ(plan["by_devices"].back()["devices"], 100000);
}

TEST(Plan, ShowsThatContextGrowsWithTheRing) {
  const json two = planned(kPlan + Words{"--devices", "4", "--memory-limit", "150G"}),
             eight = planned(kPlan + Words{"--devices", "16", "--memory-limit", "150G"});
  const double ratio =
      eight["longest_context"]["tokens"].get<double>() / two["longest_context"]["tokens"].get<double>();
  EXPECT_GT(ratio, 4);  // beside the tokens, shards of the state get smaller
  EXPECT_LT(ratio, 6);
}

TEST(Plan, PlansTheEarlierForms) {
  const Words words = {"plan", "llama-1b", "--hardware", "a100-80gb"};
  const json usual = planned(words), vanilla = planned(words + Words{"--attention", "vanilla"}),
             both = planned(words + Words{"--attention", "vanilla", "--feedforward", "whole"});
  const auto longest = [](const json& plan) { return plan["longest_context"]["tokens"].get<std::int64_t>(); };
  EXPECT_GT(longest(usual), 10 * longest(vanilla));
  EXPECT_GT(longest(vanilla), longest(both));
  EXPECT_GT(longest(both), 1000);
  EXPECT_EQ(both["run"]["attention"], "vanilla");
  EXPECT_EQ(both["run"]["feedforward"], "whole");
  EXPECT_EQ(vanilla["by_devices"].size(), 1u);
  // All scores are computed and go through memory, half of them for nothing.
  const Words same = {"--ctx-size", "4096"};
  EXPECT_GT(planned(words + same + Words{"--attention", "vanilla"})["time"]["attention_seconds"],
            planned(words + same)["time"]["attention_seconds"]);
  EXPECT_NE(rondo(words + Words{"--attention", "vanilla"}).out.find("--attention vanilla"),
            std::string::npos);
}

TEST(Plan, PricesTheDisk) {
  const Words words{"plan",  "llama3-8b", "--hardware", "epyc-9654", "--dtype", "bf16",
                    "--for", "eval",      "--ctx-size", "262144",    "--spill"};
  const json plan = planned(words);
  EXPECT_EQ(plan["run"]["spills"], true);
  EXPECT_EQ(plan["run"]["segment_tokens"], 8192);
  EXPECT_GT(plan["memory"]["disk_bytes"], 262144.0 * 4096 * 2);
  EXPECT_GT(plan["time"]["disk"]["read_bytes"], plan["memory"]["disk_bytes"]);
  EXPECT_EQ(plan["time"]["tokens_to_hide"]["yours"], 8192);
  EXPECT_EQ(plan["by_devices"].size(), 1u);
  EXPECT_EQ(plan["limited_by"], "computation");
  EXPECT_EQ(planned(words + Words{"--disk-rate", "0.01"})["limited_by"], "disk");
  const json less = planned(words + Words{"--segment-tokens", "2048"});
  EXPECT_LT(less["memory"]["entries"]["attention"], plan["memory"]["entries"]["attention"]);
  const std::string said = rondo(words).out;
  for (const char* part :
       {"On the disk, with segments of 8,192 tokens: ", "segment that hide the disk", "The step reads "})
    EXPECT_NE(said.find(part), std::string::npos) << part << " is not in:\n" << said;
  const CommandResult unknown =
      rondo({"plan", "llama3-8b", "--hardware", "a100-80gb", "--ctx-size", "65536", "--spill"});
  EXPECT_EQ(unknown.status, 2);
  EXPECT_NE(unknown.err.find("give --disk-rate"), std::string::npos) << unknown.err;
  EXPECT_EQ(rondo(words + Words{"--devices", "2"}).status, 2);
}

TEST(Plan, SaysWhatDoesNotFitAndWhatWould) {
  const json plan = planned(kPlan + Words{"--devices", "4", "--ctx-size", "4194304"});
  EXPECT_EQ(plan["memory"]["fits"], false);
  EXPECT_EQ(plan["limited_by"], "memory");
  const int fewest = plan["fewest_devices"];
  EXPECT_GT(fewest, 4);
  const std::string enough = std::to_string(fewest), too_few = std::to_string(fewest - 1);
  EXPECT_EQ(planned(kPlan + Words{"--devices", enough, "--ctx-size", "4194304"})["memory"]["fits"], true);
  EXPECT_EQ(planned(kPlan + Words{"--devices", too_few, "--ctx-size", "4194304"})["memory"]["fits"], false);
  const CommandResult none = rondo({"plan", "llama-70b", "--hardware", "laptop", "--devices", "2"});
  EXPECT_EQ(none.status, 0) << none.err;
  EXPECT_NE(none.out.find("No context fits"), std::string::npos) << none.out;
}

TEST(Plan, OfManyDevicesIsInClosedForm) {
  const json plan = planned(kPlan + Words{"--devices", "50000", "--ctx-size", "1000000000"});
  EXPECT_EQ(plan["time"]["method"], "closed form");
}

TEST(Plan, OfEvaluationAndGenerationHasTheCache) {
  const Words words = {"plan",      "llama3-8b", "--hardware", "h100",   "--dtype", "bf16",
                       "--devices", "2",         "--ctx-size", "131072", "--for"};
  EXPECT_FALSE(planned(words + Words{"eval"})["memory"]["entries"].contains("K/V cache"));
  const json generates = planned(words + Words{"generate"});
  EXPECT_NEAR(generates["memory"]["entries"]["K/V cache"].get<double>(), 65536.0 * 2 * 32 * 1024 * 2, 1e8);
  EXPECT_GT(generates["time"]["seconds_per_token"], 0.0);
}

TEST(Plan, ReadsModelsAndHardwareFromFiles) {
  const TemporaryFolder folder;
  write_small_model(folder);
  const std::string good =
      "[box]\nmemory_gib = 1\nmemory_gb_per_s = 10\nf32_tflops = 1\nbf16_tflops = 1\nattention_efficiency = "
      "1\n"
      "linear_efficiency = 1\n";
  write_text(folder / "box.toml", good + "network = { gb_per_s = 1 }\n");
  const Words box = {"--hardware-file", folder / "box.toml", "--hardware", "box"};
  for (const std::filesystem::path& model : {folder.path(), folder / "config.json"}) {
    const json plan = planned(Words{"plan", model.string(), "--devices", "4"} + box);
    EXPECT_EQ(plan["hardware"]["memory"], 1 << 30);
    EXPECT_GT(plan["longest_context"]["tokens"], 100'000);
  }
  EXPECT_NE(rondo({"plan", "--list", "--hardware-file", folder / "box.toml"}).out.find("box"),
            std::string::npos);

  write_text(folder / "box.toml", good + "network = { gb_per_second = 1 }\n");
  const CommandResult wrong = rondo(Words{"plan", folder.path().string()} + box);
  EXPECT_EQ(wrong.status, 2);
  EXPECT_NE(wrong.err.find("gb_per_s"), std::string::npos) << wrong.err;
}

TEST(Plan, DrawsAChart) {
  const TemporaryFolder folder;
  const CommandResult result = rondo(kPlan + Words{"--chart", folder / "chart.svg"});
  ASSERT_EQ(result.status, 0) << result.err;
  const std::string chart = read_text(folder / "chart.svg");
  EXPECT_TRUE(chart.starts_with("<svg xmlns=")) << chart.substr(0, 80);
  EXPECT_TRUE(chart.ends_with("</svg>\n"));
  for (const char* words :
       {"longest context, tokens", "time of a step", "100000 devices", "llama-7b on a100-80gb"})
    EXPECT_NE(chart.find(words), std::string::npos) << words;
  EXPECT_EQ(chart.find("nan"), std::string::npos);
  EXPECT_EQ(chart.find("inf"), std::string::npos);
}

TEST(Plan, MeasuresThisMachine) {
  const TemporaryFolder folder;
  write_small_model(folder);
  const CommandResult result =
      rondo({"plan", folder.path().string(), "--seconds", "0.1", "--devices", "2", "--one-process",
             "--ctx-size", "4096", "--memory-limit", "1T", "--format", "json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const json plan = json::parse(result.out);
  EXPECT_EQ(plan["hardware"]["name"], "here");
  EXPECT_GT(plan["hardware"]["f32_flops"], 1e8);
  EXPECT_GT(plan["time"]["seconds"], 0.0);
  EXPECT_EQ(plan["by_devices"].size(), 2u);
}

TEST(Plan, UnderMpirunPlansTheRingThatIsThere) {
  if (std::string(RONDO_MPI_MISSING) != "") GTEST_SKIP() << RONDO_MPI_MISSING;
  std::map<std::string, std::string> environment;
  for (const std::string variable : {RONDO_MPI_ENVIRONMENT}) {
    const auto equals = variable.find('=');
    environment[variable.substr(0, equals)] = variable.substr(equals + 1);
  }
  const TemporaryFolder folder;
  write_small_model(folder);
  const Words words = {RONDO_MPIRUN, "-np", "2",          RONDO_COMMAND, "plan",     folder.path().string(),
                       "--seconds",  "0.1", "--ctx-size", "4096",        "--format", "json"};
  const CommandResult result = Process::of(words, "", environment).wait();
  ASSERT_EQ(result.status, 0) << result.err;
  const json plan = json::parse(result.out);  // one object: the other process is silent
  EXPECT_EQ(plan["run"]["devices"], 2);
  EXPECT_EQ(plan["run"]["one_process"], false);
}

TEST(Plan, ShowsThePapersTables) {
  const CommandResult result = rondo({"plan", "--paper"});
  ASSERT_EQ(result.status, 0) << result.err;
  for (const char* words : {"A100, InfiniBand", "24.96", "TPUv4-1024", "4096"})
    EXPECT_NE(result.out.find(words), std::string::npos) << words;
  const json tables = json::parse(rondo({"plan", "--paper", "--format", "json"}).out);
  EXPECT_EQ(tables["table_2"].size(), 5u);
  EXPECT_EQ(tables["table_3"].size(), 13u);
}

TEST(Plan, RefusesByName) {
  const Words plan = {"plan", "llama-7b", "--hardware", "a100-80gb"};
  for (const auto& [words, word] : std::vector<std::pair<Words, std::string>>{
           {{"plan"}, "model"},
           {{"plan", "lama-7b"}, "llama-7b"},
           {{"plan", "llama-7b", "--hardware", "h1000"}, "h100"},
           {plan + Words{"--devices", "0"}, "--devices"},
           {plan + Words{"--devices", "100001"}, "--devices"},
           {plan + Words{"--ctx-size", "-1"}, "--ctx-size"},
           {plan + Words{"--shard", "all"}, "--shard"},
           {plan + Words{"--memory-limit", "much"}, "--memory-limit"},
           {plan + Words{"--for", "eval", "--shard", "parameters"}, "--shard"},
           {plan + Words{"--exchange", "share", "--devices", "2"}, "--one-process"},
           {plan + Words{"--attention", "vanilla", "--devices", "2"}, "--attention blockwise"},
           {plan + Words{"--attention", "vanilla", "--for", "generate"}, "--for generate"},
           {plan + Words{"--feedforward", "half"}, "--feedforward"},
           {plan + Words{"--hardware-file", "/no/such/file"}, "/no/such/file"},
           {plan + Words{"--chart", "/no/such/folder/chart.svg"}, "/no/such/folder"}}) {
    const CommandResult result = rondo(words);
    EXPECT_EQ(result.status, 2) << result.err;
    EXPECT_NE(result.err.find(word), std::string::npos) << word << " is not in: " << result.err;
  }
}

}  // namespace
}  // namespace rondo::test
