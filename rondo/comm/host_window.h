#pragma once
// Memory that the processes of one host share: what one sends another there is read in place.

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace rondo {

/// One process' pieces in such memory. It claims and fills them, the process that a piece is for reads it
/// where it lies and releases it. Which piece is for whom goes another way, that also orders the memory (a
/// message).
class HostWindow {
 public:
  static constexpr std::size_t kPieceBytes = std::size_t{256} << 10;
  static constexpr int kPieces = 32;
  static constexpr std::size_t kBytes = kPieces * (kPieceBytes + 64);

  /// None: where the processes share no memory.
  HostWindow() = default;
  /// `memory`: kBytes of it, at a multiple of 64.
  explicit HostWindow(std::byte* memory) : memory_(memory) {}
  explicit operator bool() const { return memory_ != nullptr; }

  /// By its owner, before any other call: all pieces are free.
  void clear() const {
    for (int n = 0; n < kPieces; ++n) state(n).store(kFree, std::memory_order_release);
  }
  /// By its owner: the number of a free piece, which is no longer free; -1: there is none.
  int claim() const {
    for (int n = 0; n < kPieces; ++n) {
      if (state(n).load(std::memory_order_acquire) != kFree) continue;
      state(n).store(kClaimed, std::memory_order_relaxed);
      return n;
    }
    return -1;
  }
  void release(int number) const { state(number).store(kFree, std::memory_order_release); }
  /// kPieceBytes.
  std::byte* piece(int number) const {
    return memory_ + kPieces * kLine + static_cast<std::size_t>(number) * kPieceBytes;
  }

 private:
  using Word = std::uint32_t;
  static constexpr std::size_t kLine = 64;  // a state for each line of the caches
  static constexpr Word kFree = 0, kClaimed = 1;
  static_assert(std::atomic_ref<Word>::is_always_lock_free);
  std::atomic_ref<Word> state(int number) const {
    return std::atomic_ref<Word>(
        *reinterpret_cast<Word*>(memory_ + static_cast<std::size_t>(number) * kLine));
  }

  std::byte* memory_ = nullptr;
};

}  // namespace rondo
