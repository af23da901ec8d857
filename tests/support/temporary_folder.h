#pragma once
// A folder of its own for each test, and small helpers to fill and inspect it.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace rondo::test {

class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::filesystem::path& parent = std::filesystem::temp_directory_path()) {
    std::string name = (parent / "rondo-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }
  /// Names of its entries, sorted.
  std::vector<std::string> entries() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::filesystem::path path_;
};

/// A parent for folders of thousands of files that are better not written to a disk.
inline std::filesystem::path memory_folder() {
  std::error_code error;
  const bool there = std::filesystem::is_directory("/dev/shm", error) && ::access("/dev/shm", W_OK) == 0;
  return there ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path();
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The message of the Error that `body` throws; fails the test when it throws none.
template <class Error, class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace rondo::test

/// `body` throws Error with every given part in its message.
#define RONDO_EXPECT_ERROR(Error, body, ...)                                                     \
  do {                                                                                           \
    const std::string message = ::rondo::test::message_of<Error>([&] { body; });                 \
    for (const std::string& part : std::vector<std::string>{__VA_ARGS__})                        \
      EXPECT_NE(message.find(part), std::string::npos) << "no '" << part << "' in: " << message; \
  } while (false)
