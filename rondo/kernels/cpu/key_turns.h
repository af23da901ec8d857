#pragma once
// Whose turn it is to add to the gradients of keys: those who share a key head add to dK and dV in one order,
// whatever runs when, so that sums do not depend on the number of threads.

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "rondo/kernels/cpu/tier_types.h"

namespace rondo::kernels {

/// Rows, numbered from 0, each go through keys in tiles. A row adds to keys when all rows before it are past
/// them. Rows have to be begun in the order of their numbers: the first that is at work waits for nobody.
class KeyTurns {
 public:
  explicit KeyTurns(std::int64_t rows) : past_(static_cast<std::size_t>(rows)) {}

  /// Row `row` adds to nothing below `key` any more.
  void pass(std::int64_t row, std::int64_t key) {
    {
      const std::lock_guard lock(mutex_);
      past_[static_cast<std::size_t>(row)] = key;
    }
    changed_.notify_all();
  }
  /// Until all rows before `row` have passed `key`.
  void wait(std::int64_t row, std::int64_t key) {
    std::unique_lock lock(mutex_);
    const auto end = past_.begin() + row;
    changed_.wait(lock,
                  [&] { return std::all_of(past_.begin(), end, [&](auto past) { return past >= key; }); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::int64_t> past_;  ///< by row
};

/// One row's walk, as the hooks of a BackwardTask. It has passed everything when it ends, also by a failure.
class RowTurn {
 public:
  /// `keys_left`: the least key of each tile and all later ones (keys_left()). Outlives the turn.
  RowTurn(KeyTurns& turns, std::int64_t row, const std::vector<std::int64_t>& keys_left)
      : turns_(turns), row_(row), keys_left_(keys_left) {
    turns_.pass(row_, keys_left_[0]);
  }
  ~RowTurn() { turns_.pass(row_, kAllKeys); }
  RowTurn(const RowTurn&) = delete;
  RowTurn& operator=(const RowTurn&) = delete;

  /// Before the row adds to keys below `key_end`.
  static void take(void* self, std::int64_t key_end) {
    const RowTurn& turn = *static_cast<RowTurn*>(self);
    turn.turns_.wait(turn.row_, key_end);
  }
  /// After it has, in a tile; with kAllKeys after the tile's last keys.
  static void give(void* self, std::int64_t tile, std::int64_t key_end) {
    const RowTurn& turn = *static_cast<RowTurn*>(self);
    turn.turns_.pass(turn.row_, std::min(key_end, turn.keys_left_[static_cast<std::size_t>(tile) + 1]));
  }

 private:
  KeyTurns& turns_;
  std::int64_t row_;
  const std::vector<std::int64_t>& keys_left_;
};

}  // namespace rondo::kernels
