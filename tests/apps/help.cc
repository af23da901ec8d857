// What --help says: every option with its default.

#include <gtest/gtest.h>

#include <regex>
#include <sstream>

#include "tests/apps/command.h"

namespace rondo::test {
namespace {

/// Options of a help text: first line of each, joined with the lines of its description.
std::vector<std::string> option_entries(const std::string& help) {
  std::vector<std::string> entries;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("  -"))
      entries.push_back(line);
    else if (line.starts_with("    ") && !entries.empty())
      entries.back() += line;
  }
  return entries;
}

TEST(Help, EveryOptionHasADescriptionAndADefault) {
  std::size_t options = 0;
  using Words = std::vector<std::string>;
  for (const Words& command :
       {Words{"train"}, Words{"eval"}, Words{"compare"}, Words{"generate"}, Words{"inspect"}, Words{"doctor"},
        Words{"plan"}, Words{"bench", "attention"}, Words{"bench", "linear"}, Words{"bench", "step"},
        Words{"bench", "ring"}, Words{"bench", "decode"}, Words{"bench", "exchange"},
        Words{"bench", "overlap"}}) {
    const CommandResult result = rondo(command + Words{"--help"});
    ASSERT_EQ(result.status, 0) << result.err;
    for (const std::string& entry : option_entries(result.out)) {
      if (entry.find("--help") != std::string::npos) continue;
      ++options;
      // "--steps INT=1000  words" or "--valid TEXT  words [default in words]".
      EXPECT_TRUE(std::regex_search(entry, std::regex("=[^ ]+ +[A-Za-z]")) || entry.ends_with("]"))
          << command.back() << ": " << entry;
    }
  }
  EXPECT_GT(options, 60u);
}

TEST(Help, NamesWhatTheIssueAsksFor) {
  const std::string train = rondo({"train", "--help"}).out;
  for (const char* option : {"--out",          "--ctx-size",     "--devices",       "--threads",
                             "--layout",       "--exchange",     "--remat",         "--dtype",
                             "--layers",       "--width",        "--heads",         "--kv-heads",
                             "--ffn",          "--head-dim",     "--tie-embedding", "--window",
                             "--first-k",      "--softcap",      "--dropout",       "--rope-theta",
                             "--config",       "--from",         "--steps",         "--batch",
                             "--lr",           "--schedule",     "--warmup",        "--final-lr-share",
                             "--weight-decay", "--beta1",        "--beta2",         "--clip",
                             "--seed",         "--valid",        "--holdout",       "--separate-documents",
                             "--eval-every",   "--eval-windows", "--save-every",    "--keep",
                             "--resume",       "--memory-limit", "--timeout",       "--block-tokens",
                             "--trace",        "--report",       "--config-file",   "--isa",
                             "--no-overlap",   "--shard",        "--data-parallel", "--spill",
                             "--attention",    "--feedforward",  "--start-anyway"})
    EXPECT_NE(train.find(option), std::string::npos) << option;
  const std::string generate = rondo({"generate", "--help"}).out;
  for (const char* option :
       {"--temp", "--top-k", "--top-p", "--min-p", "--seed", "--prompt-file", "--max-tokens"})
    EXPECT_NE(generate.find(option), std::string::npos) << option;
}

TEST(Help, VersionAndCommands) {
  EXPECT_EQ(rondo({"--version"}).status, 0);
  const CommandResult help = rondo({"--help"});
  EXPECT_EQ(help.status, 0);
  for (const char* command :
       {"train", "eval", "compare", "generate", "import", "inspect", "bench", "doctor", "plan"})
    EXPECT_NE(help.out.find(command), std::string::npos) << command;
}

}  // namespace
}  // namespace rondo::test
