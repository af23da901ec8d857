#pragma once
// Words of file errors: path, what was expected, the system's reason.

#include <filesystem>
#include <system_error>
#include <utility>

#include "rondo/core/error.h"

namespace rondo {

/// Throws IoError("[operation] PATH: message").
template <class... Args>
[[noreturn]] void io_error(const char* operation, const std::filesystem::path& path,
                           fmt::format_string<Args...> format, Args&&... args) {
  throw IoError(
      fmt::format("[{}] {}: {}", operation, path.string(), fmt::format(format, std::forward<Args>(args)...)));
}

/// io_error unless `condition`.
template <class... Args>
void check_file(bool condition, const char* operation, const std::filesystem::path& path,
                fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) io_error(operation, path, format, std::forward<Args>(args)...);
}

/// The text of an errno value, safe in every thread.
inline std::string errno_text(int error) { return std::generic_category().message(error); }

}  // namespace rondo
