// Blocks on the disk: what is read is what was written, or an error that says what happened.

#include "rondo/io/spill.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <thread>

#include "rondo/core/arena.h"
#include "rondo/core/error.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

constexpr std::int64_t kBlock = 3 * kSpillAlignment;

struct Blocks {
  explicit Blocks(std::int64_t count)
      : memory(Arena(ledger).allocate(Entry::kept, count * kBlock, "test blocks")) {}
  std::byte* at(std::int64_t block) const { return memory.as<std::byte>() + block * kBlock; }
  void fill(std::int64_t block, int seed) const {
    for (std::int64_t n = 0; n < kBlock; ++n) at(block)[n] = static_cast<std::byte>(n * 31 + seed);
  }
  Ledger ledger;
  Buffer memory;
};

TEST(Spill, BlocksComeBackAsTheyWere) {
  const test::TemporaryFolder folder;
  SpillDisk disk(folder.path());
  SpillFile file(disk, kBlock, 8, "test blocks");
  const Blocks written(8), read(8);
  for (const int round : {1, 2}) {  // the second one over the first
    std::vector<SpillTransferPtr> transfers;
    for (int block = 7; block >= 0; --block) {
      written.fill(block, 8 * round + block);
      transfers.push_back(file.start_write(block, written.at(block)));
    }
    for (const SpillTransferPtr& transfer : transfers) disk.wait(transfer);
    transfers.clear();
    for (int block = 0; block < 8; ++block) transfers.push_back(file.start_read(block, read.at(block)));
    for (const SpillTransferPtr& transfer : transfers) disk.wait(transfer);
    for (const SpillTransferPtr& transfer : transfers) EXPECT_TRUE(disk.done(transfer));
    EXPECT_EQ(std::memcmp(written.at(0), read.at(0), 8 * kBlock), 0);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));  // files without names
}

TEST(Spill, AFolderThatIsNoneIsNamed) {
  const test::TemporaryFolder folder;
  RONDO_EXPECT_ERROR(IoError, SpillDisk(folder / "none"), "[spill]", "none", "expected a folder");
  test::write_text(folder / "file", "");
  RONDO_EXPECT_ERROR(IoError, SpillDisk(folder / "file"), "[spill]", "file", "expected a folder");
}

/// A disk of which something does not work.
class FailingFiles final : public FileSystem {
 public:
  int allocate(int descriptor, std::int64_t bytes) override {
    return bytes > room ? ENOSPC : FileSystem::allocate(descriptor, bytes);
  }
  std::ptrdiff_t write_at(int descriptor, std::span<const std::byte> bytes, std::int64_t offset) override {
    if (fails) return errno = fails, -1;
    if (!interrupts) return FileSystem::write_at(descriptor, bytes.first(kSpillAlignment), offset);
    interrupts = false;
    return errno = EINTR, -1;
  }
  std::ptrdiff_t read_at(int descriptor, std::span<std::byte> bytes, std::int64_t offset) override {
    if (fails) return errno = fails, -1;
    const std::ptrdiff_t count = FileSystem::read_at(descriptor, bytes.first(kSpillAlignment), offset);
    if (flips && offset == kSpillAlignment) bytes[17] ^= std::byte{4};
    return count;
  }
  std::int64_t room = std::int64_t{1} << 40;
  std::atomic<int> fails = 0;
  std::atomic<bool> interrupts = true, flips = false;
};

TEST(Spill, FailuresOfTheDiskAreToldToWhoWaits) {
  const test::TemporaryFolder folder;
  FailingFiles files;
  SpillDisk disk(folder.path(), files);
  files.room = 8 * kBlock;
  RONDO_EXPECT_ERROR(IoError, SpillFile(disk, kBlock, 9, "layer inputs"),
                     "expected room for 0 MiB of layer inputs", "No space left");
  SpillFile file(disk, kBlock, 8, "layer inputs");
  const Blocks blocks(2);
  blocks.fill(0, 5);
  disk.wait(file.start_write(0, blocks.at(0)));  // in pieces, interrupted once
  disk.wait(file.start_read(0, blocks.at(1)));
  EXPECT_EQ(std::memcmp(blocks.at(0), blocks.at(1), kBlock), 0);
  files.flips = true;
  RONDO_EXPECT_ERROR(IoError, disk.wait(file.start_read(0, blocks.at(1))),
                     "expected the layer inputs that were written, got others");
  files.fails = ENOSPC;
  RONDO_EXPECT_ERROR(IoError, disk.wait(file.start_write(1, blocks.at(0))), "layer inputs", "No space left");
  files.fails = EIO;
  RONDO_EXPECT_ERROR(IoError, disk.wait(file.start_read(0, blocks.at(1))), "layer inputs",
                     "Input/output error");
}

/// A process that is killed leaves nothing, whatever it was doing.
TEST(Spill, AKilledProcessLeavesNothing) {
  const test::TemporaryFolder folder;
  std::array<int, 2> ready{};
  ASSERT_EQ(::pipe(ready.data()), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    SpillDisk disk(folder.path());
    constexpr std::int64_t kCount = 4096;  // 48 MiB
    SpillFile file(disk, kBlock, kCount, "test blocks");
    const Blocks blocks(1);
    for (std::int64_t n = 0;; n = (n + 1) % kCount) {
      disk.wait(file.start_write(n, blocks.at(0)));
      if (n == kCount / 2 && ::write(ready[1], "x", 1) != 1) ::_exit(1);
    }
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  std::string nameless;  // of what the child has open
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", child))) {
    std::error_code ignored;
    const std::string target = std::filesystem::read_symlink(entry.path(), ignored).string();
    if (target.find(folder.path().filename().string()) != std::string::npos) nameless = target;
  }
  EXPECT_NE(nameless.find("(deleted)"), std::string::npos) << nameless;
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  ::close(ready[0]);
  ::close(ready[1]);
}

}  // namespace
}  // namespace rondo
