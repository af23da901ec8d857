#pragma once
// The three kinds of error (docs/architecture.md, "Errors"): a bad argument and a communication failure
// throw, a broken invariant asserts. Messages read `[operation] expected ..., got ...`.

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace rondo {

/// What the caller passed cannot be done; nothing was changed.
class ArgumentError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// A device failed, fell silent or was cancelled while another waited for it.
class CommunicationError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file is missing, malformed or could not be written.
class IoError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A device asked for more memory than its limit, or than the system has.
class MemoryLimitError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws ArgumentError("[operation] message") with the message formatted by fmt.
template <class... Args>
[[noreturn]] void argument_error(const char* operation, fmt::format_string<Args...> format, Args&&... args) {
  throw ArgumentError(fmt::format("[{}] {}", operation, fmt::format(format, std::forward<Args>(args)...)));
}

/// argument_error unless `condition`. Words: "expected ..., got ...".
template <class... Args>
void check_argument(bool condition, const char* operation, fmt::format_string<Args...> format,
                    Args&&... args) {
  if (!condition) argument_error(operation, format, std::forward<Args>(args)...);
}

[[noreturn]] void invariant_failed(const char* expression, const char* file, int line);

}  // namespace rondo

/// A broken invariant is a bug in Rondo: it aborts with the place, in every build type.
#define RONDO_ASSERT(expression) \
  ((expression) ? static_cast<void>(0) : ::rondo::invariant_failed(#expression, __FILE__, __LINE__))
