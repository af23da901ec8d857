#include "rondo/plan/disk_probe.h"

#include <array>
#include <chrono>
#include <cstring>
#include <functional>

#include "rondo/core/arena.h"
#include "rondo/core/error.h"
#include "rondo/io/spill.h"

namespace rondo {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kBlocks = 16;

/// Two transfers at a time, over all blocks again and again until the time is up; bytes a second.
double rate(SpillDisk& disk, std::int64_t block_bytes, double seconds,
            const std::function<SpillTransferPtr(std::int64_t block)>& start) {
  const auto begin = Clock::now();
  double elapsed = 0;
  std::int64_t moved = 0;
  std::array<SpillTransferPtr, 2> under_way;
  // Each memory's next transfer begins when its last one has ended.
  for (std::int64_t n = 0; elapsed < seconds || n < kBlocks; ++n) {
    SpillTransferPtr& transfer = under_way[static_cast<std::size_t>(n % 2)];
    if (transfer) disk.wait(transfer), ++moved;
    transfer = start(n % kBlocks);
    elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  for (const SpillTransferPtr& transfer : under_way) disk.wait(transfer), ++moved;
  elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
  return static_cast<double>(moved * block_bytes) / elapsed;
}

}  // namespace

Disk measure_disk(const std::filesystem::path& folder, std::int64_t block_bytes, double seconds,
                  FileSystem& files) {
  check_argument(seconds > 0, "disk", "expected a time above 0 to measure a disk, got {}", seconds);
  Ledger ledger;
  Arena arena(ledger);
  SpillDisk disk(folder, files);
  SpillFile file(disk, block_bytes, kBlocks, "blocks of a measurement");
  const std::array<Buffer, 2> memory{arena.allocate(Entry::data, block_bytes, "block to the disk"),
                                     arena.allocate(Entry::data, block_bytes, "block from the disk")};
  for (const Buffer& buffer : memory)  // no zeros, which some disks do not store
    for (std::int64_t n = 0; n < block_bytes / 8; ++n)
      buffer.as<std::uint64_t>()[n] = static_cast<std::uint64_t>(n + 1) * 0x9E3779B97F4A7C15u;
  const auto bytes = [&](std::int64_t block) {
    return memory[static_cast<std::size_t>(block % 2)].as<std::byte>();
  };
  Disk found;
  found.write_bytes_per_second = rate(disk, block_bytes, seconds / 2, [&](std::int64_t block) {
    return file.start_write(block, bytes(block));
  });
  found.read_bytes_per_second = rate(disk, block_bytes, seconds / 2, [&](std::int64_t block) {
    return file.start_read(block, bytes(block));
  });
  return found;
}

}  // namespace rondo
