#include "rondo/io/checksum.h"

#define XXH_INLINE_ALL  // the whole library in this file: nothing to link, for users of the package either
#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <new>
#include <utility>
#include <vector>

#include "rondo/io/file_error.h"

namespace rondo {
namespace {

constexpr std::size_t kReadAtOnce = 1 << 20;

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

struct Checksum::State {
  XXH3_state_t xxh3;
};

Checksum::Checksum() : state_(std::make_unique<State>()) { XXH3_64bits_reset(&state_->xxh3); }
Checksum::Checksum(Checksum&&) noexcept = default;
Checksum& Checksum::operator=(Checksum&&) noexcept = default;
Checksum::~Checksum() = default;

void Checksum::add(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  XXH3_64bits_update(&state_->xxh3, bytes.data(), bytes.size());
  bytes_ += static_cast<std::int64_t>(bytes.size());
}

FileStamp Checksum::stamp() const { return {bytes_, XXH3_64bits_digest(&state_->xxh3)}; }

FileStamp read_stamp(const std::filesystem::path& path) {
  constexpr const char* kOperation = "checksum";
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  check_file(file.fd >= 0, kOperation, path, "expected a readable file, got: {}", errno_text(errno));
  ::posix_fadvise(file.fd, 0, 0, POSIX_FADV_SEQUENTIAL);  // a hint
  std::vector<std::byte> piece(kReadAtOnce);
  Checksum checksum;
  while (true) {
    const ssize_t count = ::read(file.fd, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    check_file(count >= 0, kOperation, path, "expected to read on after {} bytes, got: {}",
               checksum.stamp().bytes, errno_text(errno));
    if (count == 0) return checksum.stamp();
    checksum.add(std::span(piece).first(static_cast<std::size_t>(count)));
  }
}

}  // namespace rondo
