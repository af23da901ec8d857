#pragma once
// JSON read strictly: the error names the file and the place.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace rondo {

/// Parses `text`. Throws IoError naming `path` for invalid JSON or UTF-8, for a key that an object has twice
/// (most parsers keep one of them in silence) and for nesting deeper than `max_depth`.
nlohmann::json parse_json(std::string_view text, const std::filesystem::path& path, int max_depth = 64);

/// Reads a JSON file; the error has path, line and column.
nlohmann::json read_json_file(const std::filesystem::path& path);

/// Writes `document` indented by two spaces, atomically.
void write_json_file(const std::filesystem::path& path, const nlohmann::json& document);

}  // namespace rondo
