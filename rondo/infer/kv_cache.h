#pragma once
// Keys and values of the tokens seen so far, spread over the devices in blocks of 256 tokens. The block table
// is the same on every device; the memory behind it is each device's own, reserved up front.

#include <cstdint>
#include <vector>

#include "rondo/core/context.h"
#include "rondo/core/tile.h"
#include "rondo/model/config.h"
#include "rondo/schedule/schedule.h"

namespace rondo {

class KvCache {
 public:
  static constexpr std::int64_t kBlockTokens = 256;

  /// Room for `capacity` tokens over all devices, at positions 0 ... capacity - 1. MemoryLimitError where it
  /// does not fit.
  KvCache(Context& context, const ModelConfig& config, DType dtype, int devices, std::int64_t capacity);

  /// Enters the prompt as `plan` cut it: each device keeps the keys and values that it computed. The cache is
  /// empty before. ArgumentError where the prompt, or a device's share of it, is more than there is room for.
  void enter_prompt(const SequencePlan& plan);
  /// Copies this device's keys and values of the prompt (in local order) to where enter_prompt put them.
  void store_prompt(std::int64_t layer, const ConstTensor& k_TGD, const ConstTensor& v_TGD);

  /// Makes room for the token at position tokens() and returns its device: the one with the open block, or,
  /// when a new block is due, the one with the fewest blocks. Throws ArgumentError when the capacity is used
  /// up.
  int append();
  /// Stores the appended token's keys and values; to be called on the device that append() named.
  void store_appended(std::int64_t layer, const ConstTensor& k_1GD, const ConstTensor& v_1GD);

  /// This device's whole memory of a layer.
  Tensor keys(std::int64_t layer) const;
  Tensor values(std::int64_t layer) const;
  /// What a query at `position` sees of this device's part: all of it, or the window and the first k tokens.
  std::vector<Tile> visible_tiles(std::int64_t position, const Mask& mask) const;

  std::int64_t tokens() const { return tokens_; }
  std::int64_t capacity() const { return capacity_; }
  /// Blocks that a device holds.
  std::int64_t blocks(int device) const {
    return static_cast<std::int64_t>(slots_[static_cast<std::size_t>(device)]);
  }

 private:
  /// Tokens base + stride * n, n < used, in the slot's rows.
  struct Block {
    int device = 0;
    std::int64_t slot = 0, base = 0, stride = 1, used = 0;
    std::int64_t first_local = -1;  // of the prompt's local tokens; -1 for appended ones
  };
  void store(const Block& block, std::int64_t layer, Range rows, const ConstTensor& k, const ConstTensor& v);

  Context* context_;
  const ModelConfig* config_;
  DType dtype_;
  std::int64_t capacity_, slots_per_device_ = 0, tokens_ = 0;
  std::vector<Block> blocks_;        // of all devices
  std::vector<std::int64_t> slots_;  // used on each device
  int open_block_ = -1;              // index of the block that append() fills
  std::vector<Buffer> keys_, values_;
};

}  // namespace rondo
