#include "rondo/io/file_system.h"

#include <fcntl.h>
#include <stdio.h>  // renameat2
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>
#include <vector>

namespace rondo {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kWriteAtOnce = 1u << 30;  // Linux writes at most 2^31 - 4096 bytes in one call

}  // namespace

int FileSystem::create(const fs::path& path) {
  return ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_CREAT | O_EXCL, 0666);
}

int FileSystem::open_existing(const fs::path& path) { return ::open(path.c_str(), O_WRONLY | O_CLOEXEC); }

int FileSystem::create_nameless(const fs::path& folder) {
  constexpr int kFlags = O_RDWR | O_CLOEXEC;
  for (const int direct : {O_DIRECT, 0}) {
    int descriptor = ::open(folder.c_str(), kFlags | O_TMPFILE | direct, 0600);
    if (descriptor < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {  // a file system without such files
      std::string name = (folder / "rondo-spill-XXXXXX").string();
      descriptor = ::mkostemp(name.data(), O_CLOEXEC | direct);
      const int error = errno;
      ::unlink(name.c_str());  // also where it was made and then could not be opened
      errno = error;
    }
    if (descriptor >= 0 || errno != EINVAL) return descriptor;
  }
  return -1;
}

int FileSystem::open_blocks(const fs::path& path) {
  constexpr int kFlags = O_RDWR | O_CLOEXEC | O_CREAT;
  const int descriptor = ::open(path.c_str(), kFlags | O_DIRECT, 0666);
  return descriptor >= 0 || errno != EINVAL ? descriptor : ::open(path.c_str(), kFlags, 0666);
}

int FileSystem::allocate(int descriptor, std::int64_t bytes) {
  if (::fallocate(descriptor, 0, 0, bytes) == 0) return 0;
  if (errno != EOPNOTSUPP) return errno;
  return ::ftruncate(descriptor, bytes) == 0 ? 0 : errno;
}

std::ptrdiff_t FileSystem::write_at(int descriptor, std::span<const std::byte> bytes, std::int64_t offset) {
  return ::pwrite(descriptor, bytes.data(), std::min(bytes.size(), kWriteAtOnce), offset);
}

std::ptrdiff_t FileSystem::read_at(int descriptor, std::span<std::byte> bytes, std::int64_t offset) {
  return ::pread(descriptor, bytes.data(), std::min(bytes.size(), kWriteAtOnce), offset);
}

std::ptrdiff_t FileSystem::write(int descriptor, std::span<const std::byte> bytes) {
  return ::write(descriptor, bytes.data(), std::min(bytes.size(), kWriteAtOnce));
}

int FileSystem::sync(int descriptor) { return ::fsync(descriptor); }

int FileSystem::close(int descriptor) { return ::close(descriptor); }

int FileSystem::sync_entry(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0) return -1;
  const int failed = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  errno = failed;
  return failed == 0 ? 0 : -1;
}

int FileSystem::make_folder(const fs::path& path) { return ::mkdir(path.c_str(), 0777); }

int FileSystem::rename(const fs::path& from, const fs::path& to) {
  return ::rename(from.c_str(), to.c_str());
}

int FileSystem::exchange(const fs::path& a, const fs::path& b) {
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
}

int FileSystem::remove(const fs::path& path) { return ::remove(path.c_str()); }

FileSystem& system_files() {
  static FileSystem files;
  return files;
}

int remove_tree(FileSystem& files, const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (status.type() == fs::file_type::not_found) return 0;
  int failed = error.value();
  if (fs::is_directory(status)) {
    std::vector<fs::path> entries;  // all of them before any goes: removing disturbs the listing
    for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error))
      entries.push_back(at->path());
    if (error) failed = error.value();
    for (const fs::path& entry : entries)
      if (const int inner = remove_tree(files, entry); failed == 0) failed = inner;
  }
  if (files.remove(path) != 0 && errno != ENOENT && failed == 0) failed = errno;
  return failed;
}

}  // namespace rondo
