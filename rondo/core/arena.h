#pragma once
// Owners of large memory. Everything large of a device comes from its arena and stands in its ledger.

#include <cstdint>
#include <utility>

#include "rondo/core/ledger.h"
#include "rondo/core/tensor.h"

namespace rondo {

/// Owns zeroed, page-aligned memory that is entered in a ledger until it is destroyed. Movable.
/// Its pages come from the system and go back to it, so that resident memory follows the ledger.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~Buffer();

  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  /// The first tokens*heads*dim elements as a contiguous tensor.
  Tensor tensor(DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t dim) const {
    RONDO_ASSERT(tokens * heads * dim * size_of(dtype) <= bytes_);
    return view(data_, dtype, tokens, heads, dim);
  }

 private:
  friend class Arena;
  Buffer(Ledger* ledger, Entry entry, std::int64_t bytes, const char* what);
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(ledger_, other.ledger_);
    std::swap(entry_, other.entry_);
  }
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
  Ledger* ledger_ = nullptr;
  Entry entry_ = Entry::data;
};

/// Hands out Buffers of one device. The ledger must outlive them.
class Arena {
 public:
  explicit Arena(Ledger& ledger) : ledger_(&ledger) {}
  /// Throws MemoryLimitError when the ledger's limit would be passed or the system has no more. `what` must
  /// be a literal.
  Buffer allocate(Entry entry, std::int64_t bytes, const char* what) { return {ledger_, entry, bytes, what}; }
  Ledger& ledger() const { return *ledger_; }

 private:
  Ledger* ledger_;
};

}  // namespace rondo
