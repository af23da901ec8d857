#pragma once
// Words of file errors: path, what was expected, the system's reason.

#include <cerrno>
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

/// io_error("message, got: REASON") with the reason in errno, unless `done`. Arguments of a function are
/// evaluated in any order: an errno beside the call that sets it may be that of an earlier one.
template <class... Args>
void check_call(bool done, const char* operation, const std::filesystem::path& path,
                fmt::format_string<Args...> format, Args&&... args) {
  const int error = errno;
  if (!done)
    io_error(operation, path, "{}, got: {}", fmt::format(format, std::forward<Args>(args)...),
             errno_text(error));
}

}  // namespace rondo
