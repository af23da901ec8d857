#pragma once
// Where the optional test data lies: $RONDO_DATA, or ../shared/data beside the source tree.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace rondo::test {

inline std::filesystem::path data_dir() {
  if (const char* dir = std::getenv("RONDO_DATA")) return dir;
  return std::filesystem::path(RONDO_SOURCE_DIR) / ".." / "shared" / "data";
}

}  // namespace rondo::test

/// Skips the test aloud when `name` is not in the test data.
#define RONDO_NEEDS_DATA(name)                                    \
  if (!std::filesystem::exists(::rondo::test::data_dir() / name)) \
  GTEST_SKIP() << "no test data '" << name << "' in " << ::rondo::test::data_dir() << " (set RONDO_DATA)"
