#include "rondo/io/spill.h"

#include <cerrno>
#include <chrono>
#include <span>
#include <utility>

#include "rondo/io/checksum.h"
#include "rondo/io/file_error.h"

namespace rondo {

namespace {

constexpr const char* kOperation = "spill";
constexpr int kThreads = 2;  // one may write while the other reads
constexpr std::chrono::minutes kLimit(10);

std::uint64_t checksum_of(std::span<const std::byte> bytes) {
  Checksum checksum;
  checksum.add(bytes);
  return checksum.stamp().checksum;
}

double mib(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

class SpillTransfer {
 public:
  explicit SpillTransfer(std::function<void()> what) : work(std::move(what)) {}
  std::function<void()> work;
  bool done = false;
  std::exception_ptr failure;
};

SpillDisk::SpillDisk(std::filesystem::path folder, FileSystem& files)
    : folder_(std::move(folder)), files_(files) {
  std::error_code error;
  check_file(std::filesystem::is_directory(folder_, error), kOperation, folder_,
             "expected a folder to spill into, got {}", error ? error.message() : "none");
  for (int n = 0; n < kThreads; ++n)
    threads_.emplace_back([this](const std::stop_token& stop) { serve(stop); });
}

SpillDisk::~SpillDisk() = default;

SpillTransferPtr SpillDisk::start(std::function<void()> work) {
  auto transfer = std::make_shared<SpillTransfer>(std::move(work));
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(transfer);
  }
  queued_.notify_one();
  return transfer;
}

void SpillDisk::serve(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (queued_.wait(lock, stop, [this] { return !queue_.empty(); })) {
    const SpillTransferPtr transfer = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    try {
      transfer->work();
    } catch (...) {
      transfer->failure = std::current_exception();
    }
    lock.lock();
    transfer->done = true;
    ended_.notify_all();
  }
}

bool SpillDisk::done(const SpillTransferPtr& transfer) {
  const std::lock_guard lock(mutex_);
  return transfer->done;
}

void SpillDisk::wait(const SpillTransferPtr& transfer) {
  std::unique_lock lock(mutex_);
  check_file(ended_.wait_for(lock, kLimit, [&] { return transfer->done; }), kOperation, folder_,
             "expected the disk to answer within ten minutes, got nothing");
  if (transfer->failure) std::rethrow_exception(transfer->failure);
}

SpillFile::SpillFile(SpillDisk& disk, std::int64_t block_bytes, std::int64_t blocks, std::string what,
                     const std::string& name)
    : disk_(disk),
      block_bytes_(block_bytes),
      what_(std::move(what)),
      path_(name.empty() ? disk.folder() : disk.folder() / name),
      checksums_(static_cast<std::size_t>(blocks)) {
  RONDO_ASSERT(block_bytes > 0 && block_bytes % kSpillAlignment == 0);
  descriptor_ = name.empty() ? disk.files().create_nameless(path_) : disk.files().open_blocks(path_);
  check_call(descriptor_ >= 0, kOperation, path_, "expected to {}",
             name.empty() ? "create a file in this folder" : "open or create this file");
  const int error = disk.files().allocate(descriptor_, block_bytes * blocks);
  if (error == 0) return;
  disk.files().close(descriptor_);
  io_error(kOperation, path_, "expected room for {:.0f} MiB of {}, got: {}", mib(block_bytes * blocks), what_,
           errno_text(error));
}

SpillFile::~SpillFile() { disk_.files().close(descriptor_); }

void SpillFile::restore(std::vector<std::uint64_t> checksums) {
  check_file(checksums.size() == checksums_.size(), kOperation, path_, "expected {} blocks of {}, got {}",
             checksums_.size(), what_, checksums.size());
  checksums_ = std::move(checksums);
}

void SpillFile::sync() {
  check_call(disk_.files().sync(descriptor_) == 0, kOperation, path_, "expected to sync the {}", what_);
}

SpillTransferPtr SpillFile::start_write(std::int64_t block, const std::byte* bytes) {
  return disk_.start([this, block, bytes] { write(block, bytes); });
}

SpillTransferPtr SpillFile::start_read(std::int64_t block, std::byte* bytes) {
  return disk_.start([this, block, bytes] { read(block, bytes); });
}

void SpillFile::write(std::int64_t block, const std::byte* bytes) {
  const std::span<const std::byte> all(bytes, static_cast<std::size_t>(block_bytes_));
  checksums_[static_cast<std::size_t>(block)] = checksum_of(all);
  for (std::size_t done = 0; done < all.size();) {
    const std::ptrdiff_t count = disk_.files().write_at(
        descriptor_, all.subspan(done), block * block_bytes_ + static_cast<std::int64_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = ENOSPC;
    check_call(count > 0, kOperation, path_, "expected to write {:.0f} MiB of {}", mib(block_bytes_), what_);
    done += static_cast<std::size_t>(count);
  }
}

void SpillFile::read(std::int64_t block, std::byte* bytes) {
  const std::span<std::byte> all(bytes, static_cast<std::size_t>(block_bytes_));
  for (std::size_t done = 0; done < all.size();) {
    const std::ptrdiff_t count = disk_.files().read_at(
        descriptor_, all.subspan(done), block * block_bytes_ + static_cast<std::int64_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = EIO;  // the file is as long as it was made
    check_call(count > 0, kOperation, path_, "expected to read {:.0f} MiB of {}", mib(block_bytes_), what_);
    done += static_cast<std::size_t>(count);
  }
  check_file(checksum_of(all) == checksums_[static_cast<std::size_t>(block)], kOperation, path_,
             "expected the {} that were written, got others: the disk or its cable loses bits{}", what_,
             path_ == disk_.folder() ? "" : ", or the file was changed (without its folder all begins anew)");
}

}  // namespace rondo
