#pragma once
// Checksums that tell a damaged file from a whole one: XXH3 with 64 bits, of the xxHash library. They find
// accidents, not forgeries.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace rondo {

/// What a file's content is known by.
struct FileStamp {
  std::int64_t bytes = 0;
  std::uint64_t checksum = 0;  ///< XXH3, 64 bits, seed 0
  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

/// The stamp of bytes that come in pieces.
class Checksum {
 public:
  Checksum();
  Checksum(Checksum&&) noexcept;
  Checksum& operator=(Checksum&&) noexcept;
  ~Checksum();

  void add(std::span<const std::byte> bytes);
  FileStamp stamp() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::int64_t bytes_ = 0;
};

/// The stamp of a file as it lies on the disk, read in pieces. Throws IoError naming the path and the
/// system's reason (a sector that cannot be read, say).
FileStamp read_stamp(const std::filesystem::path& path);

}  // namespace rondo
