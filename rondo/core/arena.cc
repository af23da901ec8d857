#include "rondo/core/arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "rondo/core/error.h"

namespace rondo {

namespace {
constexpr std::int64_t kPage = 4096, kHugePage = 2 << 20;

/// MAP_FAILED, or `bytes` of zeros. Whatever has room for huge pages begins at one and asks for them: walking
/// a cache of keys in small pages costs the attention kernels up to a tenth in address translation.
void* map_pages(std::int64_t bytes) {
  const auto map = [](std::int64_t size) {
    return mmap(nullptr, static_cast<std::size_t>(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                -1, 0);
  };
  if (bytes < kHugePage) return map(bytes);
  const std::int64_t reserved = bytes + kHugePage;
  void* pages = map(reserved);
  if (pages == MAP_FAILED) return map(bytes);
  // What is cut off before and behind was never touched.
  auto* begin = static_cast<std::byte*>(pages);
  const auto past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(begin) % kHugePage);
  const std::int64_t before = past == 0 ? 0 : kHugePage - past, behind = reserved - before - bytes;
  if (before > 0) munmap(begin, static_cast<std::size_t>(before));
  begin += before;
  if (behind > 0) munmap(begin + bytes, static_cast<std::size_t>(behind));
  madvise(begin, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);  // a wish: refused, pages stay small
  return begin;
}
}  // namespace

Buffer::Buffer(Ledger* ledger, Entry entry, std::int64_t bytes, const char* what)
    : ledger_(ledger), entry_(entry) {
  RONDO_ASSERT(bytes >= 0);
  if (bytes == 0) return;
  bytes_ = (bytes + kPage - 1) / kPage * kPage;
  ledger_->add(entry_, bytes_, what);
  void* pages = map_pages(bytes_);
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
