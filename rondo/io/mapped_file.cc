#include "rondo/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "rondo/io/file_error.h"

namespace rondo {
namespace {

constexpr const char* kOperation = "MappedFile";

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path, AccessPattern pattern) : path_(path) {
  // O_NONBLOCK: opening a pipe must be refused below, not wait for a writer.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  check_file(file.fd >= 0, kOperation, path, "expected a readable file, got: {}", errno_text(errno));
  struct stat status {};
  check_call(::fstat(file.fd, &status) == 0, kOperation, path, "expected its size");
  check_file(S_ISREG(status.st_mode), kOperation, path, "expected a regular file, got a {}",
             S_ISDIR(status.st_mode) ? "folder" : "device, pipe or socket");
  size_ = status.st_size;
  if (size_ == 0) return;  // mmap refuses a length of 0
  void* data = ::mmap(nullptr, static_cast<std::size_t>(size_), PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED)
    io_error(kOperation, path, "expected to map {} bytes, got: {}", size_, errno_text(errno));
  data_ = data;
  if (pattern != AccessPattern::normal) advise(pattern);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, static_cast<std::size_t>(size_));
}

void MappedFile::advise(AccessPattern pattern) const {
  if (data_ == nullptr) return;
  const int advice = pattern == AccessPattern::sequential ? MADV_SEQUENTIAL
                     : pattern == AccessPattern::random   ? MADV_RANDOM
                                                          : MADV_NORMAL;
  ::madvise(data_, static_cast<std::size_t>(size_), advice);  // a hint: refusing it costs speed alone
}

void MappedFile::swap(MappedFile& other) noexcept {
  path_.swap(other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
}

}  // namespace rondo
