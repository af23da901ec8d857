#include "rondo/io/json_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_set>
#include <vector>

#include "rondo/io/atomic_file.h"
#include "rondo/io/file_error.h"
#include "rondo/io/mapped_file.h"

namespace rondo {
namespace {

using nlohmann::json;

std::string place_of(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte == 0 ? 0 : byte - 1, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const std::size_t line_begin = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
  return fmt::format("line {}, column {}", line, before.size() - line_begin + 1);
}

/// The parser's own words after its "[json.exception...] parse error at line ..., column ...: " prefix.
std::string reason_of(const json::parse_error& error) {
  const std::string what = error.what();
  const std::size_t reason = what.find(": ");
  return reason == std::string::npos ? what : what.substr(reason + 2);
}

}  // namespace

json parse_json(std::string_view text, const std::filesystem::path& path, int max_depth) {
  // The parser takes a NUL for the end and would not see what stands behind it.
  const std::size_t nul = text.find('\0');
  if (nul != std::string_view::npos)
    io_error("parse_json", path, "expected JSON, got at {}: a NUL byte", place_of(text, nul + 1));
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        check_file(static_cast<int>(keys.size()) < max_depth, "parse_json", path,
                   "expected nesting of at most {} levels, got deeper", max_depth);
        keys.emplace_back();
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key: {
        const auto& key = value.get_ref<const std::string&>();
        check_file(keys.back().insert(key).second, "parse_json", path,
                   "expected each key once, got '{}' twice", key);
        break;
      }
      case json::parse_event_t::value:
        break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::parse_error& error) {
    io_error("parse_json", path, "expected JSON, got at {}: {}", place_of(text, error.byte),
             reason_of(error));
  } catch (const json::exception& error) {  // a number out of range, say
    io_error("parse_json", path, "expected JSON, got: {}", error.what());
  }
}

json read_json_file(const std::filesystem::path& path) {
  const MappedFile file(path, AccessPattern::sequential);
  const auto bytes = file.bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

void write_json_file(const std::filesystem::path& path, const json& document) {
  std::string text;
  try {
    text = document.dump(2) + "\n";
  } catch (const json::exception& error) {
    io_error("write_json_file", path, "expected strings of valid UTF-8, got: {}", error.what());
  }
  write_file_atomically(path, text);
}

}  // namespace rondo
