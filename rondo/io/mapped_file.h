#pragma once
// A file seen as memory. Pages are read when touched, so opening a large checkpoint costs nothing.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>

namespace rondo {

/// How the mapped bytes will be read; a hint to the system's read-ahead.
enum class AccessPattern { normal, sequential, random };

/// Read-only private mapping of a regular file. Movable; the spans it hands out live as long as it does.
/// The file must not be truncated while it is mapped: the system answers a read past its new end with SIGBUS.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws IoError naming the path and the system's reason when `path` is no readable regular file.
  explicit MappedFile(const std::filesystem::path& path, AccessPattern pattern = AccessPattern::normal);
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    MappedFile moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~MappedFile();

  const std::filesystem::path& path() const { return path_; }
  std::int64_t size() const { return size_; }
  /// The whole file; empty for an empty file.
  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(data_), static_cast<std::size_t>(size_)};
  }
  void advise(AccessPattern pattern) const;

 private:
  void swap(MappedFile& other) noexcept;
  std::filesystem::path path_;
  void* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace rondo
