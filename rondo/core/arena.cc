#include "rondo/core/arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "rondo/core/error.h"

namespace rondo {

namespace {
constexpr std::int64_t kPage = 4096;
}

Buffer::Buffer(Ledger* ledger, Entry entry, std::int64_t bytes, const char* what)
    : ledger_(ledger), entry_(entry) {
  RONDO_ASSERT(bytes >= 0);
  if (bytes == 0) return;
  bytes_ = (bytes + kPage - 1) / kPage * kPage;
  ledger_->add(entry_, bytes_, what);
  void* pages = mmap(nullptr, static_cast<std::size_t>(bytes_), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) {
    const int error = errno;
    ledger_->remove(entry_, bytes_);
    bytes_ = 0;
    throw MemoryLimitError(fmt::format("[memory] expected {} bytes for {} ({}), got: {}", bytes, what,
                                       name_of(entry), std::strerror(error)));
  }
  data_ = pages;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  munmap(data_, static_cast<std::size_t>(bytes_));
  ledger_->remove(entry_, bytes_);
}

}  // namespace rondo
