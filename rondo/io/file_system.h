#pragma once
// The calls by which Rondo's files reach the disk, in one place: tests record them to see what a power loss
// would leave, or let them fail as a full disk does.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace rondo {

/// The system's own calls; what they return, and errno, is as POSIX has it: below 0 for a failure. May be
/// called from several threads.
class FileSystem {
 public:
  FileSystem() = default;
  FileSystem(const FileSystem&) = delete;
  FileSystem& operator=(const FileSystem&) = delete;
  virtual ~FileSystem() = default;

  /// A descriptor for writing: of a new file that must not exist, or of a file that must.
  virtual int create(const std::filesystem::path& path);
  virtual int open_existing(const std::filesystem::path& path);
  /// A descriptor for reading and writing a file of `folder` that has no name and goes with its last
  /// descriptor, past the system's cache where the file system can.
  virtual int create_nameless(const std::filesystem::path& folder);
  /// A descriptor for reading and writing a file with a name, which is made where there is none; past the
  /// system's cache where the file system can.
  virtual int open_blocks(const std::filesystem::path& path);
  /// Takes the room for a file of so many bytes, where the file system can. Returns 0 or an errno.
  virtual int allocate(int descriptor, std::int64_t bytes);
  virtual std::ptrdiff_t write_at(int descriptor, std::span<const std::byte> bytes, std::int64_t offset);
  virtual std::ptrdiff_t read_at(int descriptor, std::span<std::byte> bytes, std::int64_t offset);
  virtual std::ptrdiff_t write(int descriptor, std::span<const std::byte> bytes);
  virtual int sync(int descriptor);
  virtual int close(int descriptor);
  /// Syncs a file's content, or which entries a folder has.
  virtual int sync_entry(const std::filesystem::path& path);
  virtual int make_folder(const std::filesystem::path& path);
  virtual int rename(const std::filesystem::path& from, const std::filesystem::path& to);
  /// Each takes the other's name in one step; EINVAL or ENOSYS where the file system cannot.
  virtual int exchange(const std::filesystem::path& a, const std::filesystem::path& b);
  /// A file or an empty folder.
  virtual int remove(const std::filesystem::path& path);
};

/// The system's own; has no state.
FileSystem& system_files();

/// Removes `path` and all below it, not following links; goes on past what it cannot remove. Returns 0, or
/// the errno of the first failure. Nothing there is no failure.
int remove_tree(FileSystem& files, const std::filesystem::path& path);

}  // namespace rondo
