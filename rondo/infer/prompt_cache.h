#pragma once
// Keys and values of a long prompt on one device, layer by layer in blocks of which a few are in memory and
// the others on the disk, and attention of a new token over them: a layer's next block, or the next layer's
// first one, is read while one is attended to.

#include <cstdint>
#include <filesystem>
#include <memory>

#include "rondo/core/context.h"
#include "rondo/core/tile.h"
#include "rondo/kernels/kernels.h"
#include "rondo/model/config.h"
#include "rondo/model/segment_store.h"

namespace rondo {

struct PromptCacheOptions {
  DType dtype = DType::f32;
  std::int64_t tokens = 0;           ///< of the prompt, at positions 0 ... tokens - 1
  std::int64_t block_tokens = 0;     ///< of a block, the last one may have fewer
  std::filesystem::path spill = {};  ///< folder of the disk; empty: all blocks are in memory
};

class PromptCache {
 public:
  /// Takes the room in memory and on the disk. MemoryLimitError or IoError where there is too little.
  PromptCache(Context& context, const ModelConfig& config, const PromptCacheOptions& options);

  /// Fills the block that begins at token `first`; every block of every layer once.
  void store(std::int64_t layer, std::int64_t first, const ConstTensor& k_SGD, const ConstTensor& v_SGD);

  /// A query behind the prompt, and what it sees of the tokens that came since, which are the caller's.
  struct Query {
    std::int64_t position = 0;
    ConstTensor q_1HD;
    ConstTensor later_k_SGD, later_v_SGD;
    std::span<const Tile> later_tiles;
    kernels::AttentionParams params;
    Tensor out_1HD;
  };
  /// Attention over both: finished results of the blocks, in order, and of the later tokens, merged. Bits
  /// depend on the blocks' length, not on where they are.
  void attend(std::int64_t layer, const Query& query);

  std::int64_t tokens() const { return options_.tokens; }
  std::int64_t blocks() const {
    return (options_.tokens + options_.block_tokens - 1) / options_.block_tokens;
  }

 private:
  Range range(std::int64_t block) const;
  /// The first block that a query sees; blocks() where it sees none.
  std::int64_t first_visible(std::int64_t position) const;
  std::int64_t place(std::int64_t layer, std::int64_t block) const { return layer * blocks() + block; }

  Context* context_;
  const ModelConfig* config_;
  PromptCacheOptions options_;
  std::unique_ptr<SpillDisk> disk_;
  std::unique_ptr<SegmentStore> store_;  ///< of all layers, one after the other
  Buffer outputs_, lses_;                ///< of each block and of the later tokens
};

}  // namespace rondo
