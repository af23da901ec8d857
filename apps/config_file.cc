#include "apps/config_file.h"

#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include <algorithm>

#include "apps/nearest_name.h"
#include "rondo/core/error.h"
#include "rondo/io/file_error.h"

namespace rondo::apps {

namespace fs = std::filesystem;

namespace {

constexpr const char* kOperation = "config";

/// A value as it would stand on the command line.
std::string text_of(const fs::path& file, std::string_view key, const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
  if (const auto* integer = node.as_integer()) return fmt::format("{}", integer->get());
  if (const auto* number = node.as_floating_point()) return fmt::format("{}", number->get());
  argument_error(kOperation, "expected a number, a text, true or false for '{}' in {}, got something else",
                 key, file.string());
}

std::vector<std::string> texts_of(const fs::path& file, std::string_view key, const toml::node& node) {
  const toml::array* array = node.as_array();
  if (array == nullptr) return {text_of(file, key, node)};
  std::vector<std::string> texts;
  for (const toml::node& entry : *array) texts.push_back(text_of(file, key, entry));
  return texts;
}

}  // namespace

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options())
    names.insert(names.end(), option->get_lnames().begin(), option->get_lnames().end());
  return names;
}

void apply_config_file(CLI::App& command, const fs::path& file) {
  toml::table table;
  try {
    std::error_code error;
    check_file(fs::is_regular_file(file, error), kOperation, file, "expected a readable file, got none");
    table = toml::parse_file(file.string());
  } catch (const toml::parse_error& error) {
    io_error(kOperation, file, "line {}: {}", error.source().begin.line, std::string(error.description()));
  }
  std::vector<std::string> names = option_names(command);
  std::erase_if(names, [](const std::string& name) { return name == "help" || name == "config-file"; });
  for (const auto& [toml_key, node] : table) {
    const std::string key(toml_key.str());
    check_argument(std::find(names.begin(), names.end(), key) != names.end(), kOperation,
                   "expected options of {} in {}, got '{}'{}", command.get_name(), file.string(), key,
                   did_you_mean(key, names));
    CLI::Option* option = command.get_option("--" + key);
    if (option->count() > 0) continue;  // the command line wins
    try {
      if (option->get_items_expected_max() == 0) {
        check_argument(node.is_boolean(), kOperation, "expected true or false for '{}' in {}", key,
                       file.string());
        if (!node.as_boolean()->get()) continue;
      }
      const std::vector<std::string> texts = texts_of(file, key, node);
      if (texts.empty()) continue;
      option->add_result(texts);
      option->run_callback();
    } catch (const CLI::ParseError& error) {
      argument_error(kOperation, "expected a valid value in {}, got: {}", file.string(), error.what());
    }
  }
}

}  // namespace rondo::apps
