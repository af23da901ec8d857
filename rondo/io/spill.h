#pragma once
// Numbers that do not fit into memory, on the disk: files without a name, so that nothing is left of them
// whatever ends the process, read and written in blocks by threads of their own while devices compute. Files
// with a name are for work that is to outlive its process (kept_work.h).

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "rondo/io/file_system.h"

namespace rondo {

/// Blocks begin and have lengths at multiples of this in memory and in files, as direct access wants.
inline constexpr std::int64_t kSpillAlignment = 4096;

/// A read or write of a block that was started. Must be waited for before its memory goes.
class SpillTransfer;
using SpillTransferPtr = std::shared_ptr<SpillTransfer>;

/// The threads that move blocks between memory and files of one folder.
class SpillDisk {
 public:
  /// Throws IoError when `folder` is not a folder. `files` outlives it.
  explicit SpillDisk(std::filesystem::path folder, FileSystem& files = system_files());
  SpillDisk(const SpillDisk&) = delete;
  SpillDisk& operator=(const SpillDisk&) = delete;
  /// What was started is finished first.
  ~SpillDisk();

  const std::filesystem::path& folder() const { return folder_; }
  FileSystem& files() const { return files_; }
  /// Whether a transfer has ended.
  bool done(const SpillTransferPtr& transfer);
  /// Throws the IoError that the transfer ended with, or one of its own when it takes longer than ten
  /// minutes.
  void wait(const SpillTransferPtr& transfer);

 private:
  friend class SpillFile;
  SpillTransferPtr start(std::function<void()> work);
  void serve(const std::stop_token& stop);

  std::filesystem::path folder_;
  FileSystem& files_;
  std::mutex mutex_;
  std::condition_variable_any queued_;
  std::condition_variable ended_;
  std::deque<SpillTransferPtr> queue_;
  std::vector<std::jthread> threads_;  ///< last: they end before what they use
};

/// Blocks of one length in a file. Each has a checksum, which is kept in memory: what is read is what was
/// written, or an error.
class SpillFile {
 public:
  /// Takes the room on the disk, so that a disk that is too small is known now. The disk outlives it. `what`
  /// says for people what the blocks are. `name`: empty for a file without one; else the file of this name in
  /// the disk's folder, as it is where there is one, and which stays.
  SpillFile(SpillDisk& disk, std::int64_t block_bytes, std::int64_t blocks, std::string what,
            const std::string& name = {});
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;
  /// Nothing may be under way.
  ~SpillFile();

  /// A block's bytes must be aligned and stay as they are until the transfer has ended. A block that is being
  /// written may not be read yet.
  SpillTransferPtr start_write(std::int64_t block, const std::byte* bytes);
  SpillTransferPtr start_read(std::int64_t block, std::byte* bytes);
  std::int64_t block_bytes() const { return block_bytes_; }
  /// Of all blocks, as last written. Nothing may be under way.
  const std::vector<std::uint64_t>& checksums() const { return checksums_; }
  /// Those of blocks that another process wrote. Throws IoError naming the file when they are not as many.
  void restore(std::vector<std::uint64_t> checksums);
  /// Waits until what was written is on the disk. Nothing may be under way.
  void sync();

 private:
  void write(std::int64_t block, const std::byte* bytes);
  void read(std::int64_t block, std::byte* bytes);

  SpillDisk& disk_;
  std::int64_t block_bytes_;
  std::string what_;
  std::filesystem::path path_;  ///< of the file, or of the folder where it has no name
  int descriptor_ = -1;
  std::vector<std::uint64_t> checksums_;
};

}  // namespace rondo
