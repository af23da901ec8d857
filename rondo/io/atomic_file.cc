#include "rondo/io/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <random>
#include <utility>

#include "rondo/io/file_error.h"

namespace rondo {
namespace {

constexpr std::size_t kWriteAtOnce = 1u << 30;        // Linux writes at most 2^31 - 4096 bytes in one call
constexpr std::size_t kLongestNameInTemporary = 200;  // file systems allow names of 255 bytes

std::filesystem::path parent_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

std::filesystem::path temporary_name(const std::filesystem::path& path) {
  std::random_device random;
  const std::string name = path.filename().string().substr(0, kLongestNameInTemporary);
  return parent_of(path) / fmt::format(".tmp-{}-{:08x}{:08x}", name, random(), random());
}

void sync_directory(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  check_file(fd >= 0, "sync_directory", folder, "expected a folder to sync, got: {}", errno_text(errno));
  const int failed = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  // Some file systems have nothing to sync in a folder and say EINVAL.
  check_file(failed == 0 || failed == EINVAL, "sync_directory", folder, "sync failed: {}",
             errno_text(failed));
}

OutputFile::OutputFile(const std::filesystem::path& path, Mode mode) : path_(path) {
  const int flags = mode == Mode::create_new ? O_CREAT | O_EXCL : 0;
  fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0666);
  check_file(fd_ >= 0, "OutputFile", path, "expected to open it for writing, got: {}", errno_text(errno));
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  OutputFile moved(std::move(other));
  path_.swap(moved.path_);
  std::swap(fd_, moved.fd_);
  return *this;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
}

void OutputFile::write(std::span<const std::byte> bytes) {
  check_argument(is_open(), "OutputFile::write", "expected an open file, got one that is closed: {}",
                 path_.string());
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::write(fd_, bytes.data() + done, std::min(bytes.size() - done, kWriteAtOnce));
    if (count < 0 && errno == EINTR) continue;
    check_file(count > 0, "OutputFile::write", path_, "expected to write {} bytes, got {} written: {}",
               bytes.size(), done, count < 0 ? errno_text(errno) : "the system accepts no more");
    done += static_cast<std::size_t>(count);
  }
}

void OutputFile::sync() {
  check_file(::fsync(fd_) == 0, "OutputFile::sync", path_, "sync failed: {}", errno_text(errno));
}

void OutputFile::close() {
  const int fd = std::exchange(fd_, -1);
  if (fd < 0) return;
  // After EINTR the descriptor is gone on Linux all the same.
  check_file(::close(fd) == 0 || errno == EINTR, "OutputFile::close", path_, "close failed: {}",
             errno_text(errno));
}

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(path) {
  check_argument(path.has_filename(), "AtomicFile", "expected the path of a file, got '{}'", path.string());
  file_ = OutputFile(temporary_name(path), OutputFile::Mode::create_new);
}

AtomicFile::~AtomicFile() {
  if (!file_.is_open()) return;
  ::unlink(file_.path().c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  file_.write(bytes);
  written_ += static_cast<std::int64_t>(bytes.size());
}

void AtomicFile::commit() {
  check_argument(file_.is_open(), "AtomicFile::commit", "expected one commit, got a second of {}",
                 path_.string());
  file_.sync();
  // Renamed while open: until then the destructor still has to remove the temporary file.
  check_file(::rename(file_.path().c_str(), path_.c_str()) == 0, "AtomicFile::commit", path_,
             "expected to rename {} to it, got: {}", file_.path().string(), errno_text(errno));
  file_.close();
  sync_directory(parent_of(path_));
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace rondo
