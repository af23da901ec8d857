#pragma once
// Files and folders that appear whole or not at all: written under a temporary name beside their own, synced
// to the disk, then renamed. A writer that is killed leaves the old content and a ".tmp-..." entry.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "rondo/io/checksum.h"
#include "rondo/io/file_system.h"

namespace rondo {

/// A file opened for writing. Every call throws IoError naming the path and the system's reason; a short
/// write is continued until all is written or the system refuses.
class OutputFile {
 public:
  enum class Mode { create_new, existing };
  OutputFile() = default;
  /// create_new fails when `path` exists; existing opens a file that must be there (a device, say) as it is.
  OutputFile(const std::filesystem::path& path, Mode mode, FileSystem& files = system_files());
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  bool is_open() const { return fd_ >= 0; }
  const std::filesystem::path& path() const { return path_; }
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  /// Waits until what was written is on the disk.
  void sync();
  /// Closes and reports an error that the system kept until now (a full network disk, say).
  void close();

 private:
  FileSystem* files_ = nullptr;
  std::filesystem::path path_;
  int fd_ = -1;
};

/// A file that replaces `path` at commit(). Without commit() the destructor removes what was written and
/// `path` is as it was. When `path` is a symbolic link, the link is replaced, not what it points to.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path, FileSystem& files = system_files());
  AtomicFile(AtomicFile&& other) = default;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& temporary_path() const { return file_.path(); }
  /// Of what was written so far.
  FileStamp stamp() const { return checksum_.stamp(); }
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  /// Syncs, renames, syncs the folder. Once; no writing afterwards.
  void commit();

 private:
  FileSystem* files_;
  std::filesystem::path path_;
  OutputFile file_;
  Checksum checksum_;
};

/// The whole of `text` as the new content of `path`, atomically.
FileStamp write_file_atomically(const std::filesystem::path& path, std::string_view text,
                                FileSystem& files = system_files());

/// A folder that replaces `path` at commit(). The caller fills temporary_path() with files and folders by any
/// means. Without commit() the destructor removes it.
class AtomicDirectory {
 public:
  /// Creates the temporary folder beside `path`; the parent must exist. `path` may exist as a folder.
  explicit AtomicDirectory(const std::filesystem::path& path, FileSystem& files = system_files());
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  ~AtomicDirectory();

  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& temporary_path() const { return temporary_; }
  /// Syncs every file and folder in it, then takes the place of `path`. An existing folder is exchanged in
  /// one step where the file system can (Linux renameat2), else renamed away first and back again should the
  /// second rename fail; it is deleted last. Once.
  void commit();

 private:
  void replace_existing();
  FileSystem* files_;
  std::filesystem::path path_, temporary_;
  bool committed_ = false;
};

/// Syncs the entries of a folder (what was created, renamed or removed in it).
void sync_directory(const std::filesystem::path& folder, FileSystem& files = system_files());

/// A name beside `path` that a temporary entry may take: ".tmp-NAME-RANDOM", RANDOM being 16 hexadecimal
/// digits.
std::filesystem::path temporary_name(const std::filesystem::path& path);
/// The NAME of such a name; empty when `name` is none of these.
std::string_view temporary_name_of(std::string_view name);

}  // namespace rondo
