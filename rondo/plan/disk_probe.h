#pragma once
// What a folder's disk can do with blocks as --spill moves them: past the system's cache where the file
// system can, checksums included.

#include <filesystem>

#include "rondo/io/file_system.h"
#include "rondo/plan/hardware.h"

namespace rondo {

/// Writes and reads a file without a name of 16 blocks of `block_bytes` (a multiple of kSpillAlignment), two
/// at a time as SpillDisk does, for about `seconds`, which are positive. Throws IoError as SpillFile does.
Disk measure_disk(const std::filesystem::path& folder, std::int64_t block_bytes, double seconds,
                  FileSystem& files = system_files());

}  // namespace rondo
