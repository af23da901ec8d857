// rondo compare: two evaluations of one text, and how sure their difference is.

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/options.h"
#include "rondo/core/error.h"
#include "rondo/io/json_file.h"
#include "rondo/train/compare_blocks.h"

namespace rondo::apps {

namespace fs = std::filesystem;

namespace {

struct Arguments {
  std::string first, second, format = "text";
};

struct BlockFile {
  std::int64_t block_tokens = 0, context = 0, stride = 0;
  std::vector<ScoredBlock> blocks;
};

BlockFile read_blocks(const fs::path& path) {
  const nlohmann::json json = read_json_file(path);
  try {
    BlockFile file{.block_tokens = json.at("block_tokens").get<std::int64_t>(),
                   .context = json.at("context").get<std::int64_t>(),
                   .stride = json.at("stride").get<std::int64_t>(),
                   .blocks = {}};
    for (const nlohmann::json& block : json.at("blocks"))
      file.blocks.push_back({block.at("bytes").get<std::int64_t>(), block.at("nats").get<double>()});
    return file;
  } catch (const nlohmann::json::exception& error) {
    argument_error("compare", "expected a file that rondo eval --blocks wrote, got {}: {}", path.string(),
                   error.what());
  }
}

void print_text(const Arguments& arguments, const BlockFile& first, const BlockFile& second,
                const BlockComparison& c) {
  const auto row = [](const std::string& path, const BlockFile& file, double bits) {
    return fmt::format("{:.4f} bits per byte  {} (context {}, stride {})\n", bits, path, file.context,
                       file.stride);
  };
  std::fputs((row(arguments.first, first, c.first) + row(arguments.second, second, c.second) +
              fmt::format(
                  "{:+.4f} ± {:.4f} difference, first - second, ± twice its standard error over {} blocks of "
                  "{} tokens ({} bytes)\n",
                  c.difference, 2 * c.standard_error, c.blocks, first.block_tokens, c.bytes))
                 .c_str(),
             stdout);
}

void print_json(const BlockComparison& c) {
  const nlohmann::ordered_json json = {{"first", c.first},           {"second", c.second},
                                       {"difference", c.difference}, {"standard_error", c.standard_error},
                                       {"blocks", c.blocks},         {"bytes", c.bytes}};
  std::fputs((json.dump() + "\n").c_str(), stdout);
}

int compare(const Arguments& arguments) {
  const BlockFile first = read_blocks(arguments.first), second = read_blocks(arguments.second);
  check_argument(first.block_tokens == second.block_tokens, "compare",
                 "expected blocks of one size, got {} and {}", first.block_tokens, second.block_tokens);
  const BlockComparison result = compare_blocks(first.blocks, second.blocks);
  arguments.format == "json" ? print_json(result) : print_text(arguments, first, second, result);
  return 0;
}

}  // namespace

Run add_compare_command(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("compare", "Difference of two evaluations of one text, with its standard error");
  command->add_option("FIRST", arguments->first, "What rondo eval --blocks wrote for one model")->required();
  command->add_option("SECOND", arguments->second, "What it wrote for the other, over the same bytes")
      ->required();
  add(*command, "--format", arguments->format, "Form of the result")->check(one_of({"text", "json"}));
  return [arguments] { return compare(*arguments); };
}

}  // namespace rondo::apps
