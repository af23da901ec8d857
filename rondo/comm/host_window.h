#pragma once
// Memory that the processes of one host share: what one sends another there is read in place.

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace rondo {

/// One process' pieces in such memory. It claims and fills them; the process that a piece is for, which a
/// message tells its number, reads it where it lies and releases it; then the owner takes it back.
class HostWindow {
 public:
  static constexpr std::size_t kPieceBytes = std::size_t{256} << 10;
  static constexpr int kPieces = 32;
  static constexpr std::size_t kLine = 64;  ///< bytes of a line of the caches, for a piece's state
  static constexpr std::size_t kBytes = kPieces * (kPieceBytes + kLine);

  /// None: where the processes share no memory.
  HostWindow() = default;
  /// `memory`: kBytes of zeros, at a multiple of kLine.
  explicit HostWindow(std::byte* memory) : memory_(memory) {}
  explicit operator bool() const { return memory_ != nullptr; }

  // By its owner, one thread at a time.
  /// The number of a free piece, which no longer is; -1: there is none.
  int claim() const {
    for (int n = 0; n < kPieces; ++n) {
      if (state(n).load(std::memory_order_relaxed) != kFree) continue;
      state(n).store(kClaimed, std::memory_order_relaxed);
      return n;
    }
    return -1;
  }
  void fill(int number) const { state(number).store(kFilled, std::memory_order_release); }
  /// Whether it has been released, and if so it is free.
  bool take_back(int number) const {
    if (state(number).load(std::memory_order_acquire) != kReleased) return false;
    state(number).store(kFree, std::memory_order_relaxed);
    return true;
  }

  // By the process that a piece is for.
  bool is_filled(int number) const {
    return number >= 0 && number < kPieces && state(number).load(std::memory_order_acquire) == kFilled;
  }
  void release(int number) const { state(number).store(kReleased, std::memory_order_release); }

  /// kPieceBytes.
  std::byte* piece(int number) const {
    return memory_ + kPieces * kLine + static_cast<std::size_t>(number) * kPieceBytes;
  }

 private:
  using Word = std::uint32_t;
  static constexpr Word kFree = 0, kClaimed = 1, kFilled = 2, kReleased = 3;
  static_assert(std::atomic_ref<Word>::is_always_lock_free);
  std::atomic_ref<Word> state(int number) const {
    return std::atomic_ref<Word>(
        *reinterpret_cast<Word*>(memory_ + static_cast<std::size_t>(number) * kLine));
  }

  std::byte* memory_ = nullptr;
};

}  // namespace rondo
