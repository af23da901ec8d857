#pragma once
// Work that outlives its process: a folder with blocks in files that have names (spill.h) and a journal that
// says how far the work is. After any end of the process, or of the machine's power, the same work goes on
// from the last commit.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "rondo/io/file_system.h"

namespace rondo {

/// Of one thread at a time. Who does the work syncs its blocks, then commits; what the journal on the disk
/// speaks of must stay as it is until the next commit.
class KeptWork {
 public:
  /// What decides the work, by names that people know, in words or numbers.
  using Facts = std::vector<std::pair<std::string, std::string>>;

  /// Makes the folder where there is none (its parent must be there) and reads its journal. Throws IoError
  /// naming the file or folder when another process works there, files of others are there, or the journal is
  /// damaged; ArgumentError naming the first fact that differs when the journal is of other work. `files`
  /// outlives it.
  KeptWork(std::filesystem::path folder, const Facts& facts, FileSystem& files = system_files());
  KeptWork(const KeptWork&) = delete;
  KeptWork& operator=(const KeptWork&) = delete;
  /// Leaves what was committed.
  ~KeptWork();

  const std::filesystem::path& folder() const { return folder_; }
  FileSystem& files() const { return files_; }
  /// How files for blocks are called here: "layer-inputs" -> "layer-inputs.blocks".
  static std::string blocks_name(const std::string& what) { return what + ".blocks"; }

  /// An entry of the journal as it will be committed; null where there is none.
  const nlohmann::json& entry(const std::string& name) const;
  void set(const std::string& name, nlohmann::json value);
  void erase(const std::string& name);
  /// Whether the journal on the disk has this entry.
  bool committed(const std::string& name) const;
  /// Whether it is time for a commit: 20 seconds after the last one, or what commit_every() said.
  bool due() const { return Clock::now() - last_ >= every_; }
  void commit_every(std::chrono::milliseconds time) { every_ = time; }
  /// The entries become the journal on the disk, whole or not at all.
  void commit();
  /// Seconds that the work took until now, in all its processes, but for what was lost.
  double seconds() const;
  /// The work is done: removes its files, and the folder.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  struct Journal;

  void lock();
  void check_files() const;
  void read_journal(const Facts& facts);

  std::filesystem::path folder_;
  FileSystem& files_;
  std::unique_ptr<Journal> journal_;
  std::chrono::milliseconds every_{20'000};
  Clock::time_point last_;  ///< commit, or the beginning
  int lock_ = -1;
};

}  // namespace rondo
