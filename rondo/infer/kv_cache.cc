#include "rondo/infer/kv_cache.h"

#include <algorithm>
#include <utility>

#include "rondo/core/error.h"
#include "rondo/kernels/kernels.h"

namespace rondo {

KvCache::KvCache(Context& context, const ModelConfig& config, DType dtype, int devices, std::int64_t capacity)
    : context_(&context),
      config_(&config),
      dtype_(dtype),
      capacity_(capacity),
      slots_(static_cast<std::size_t>(devices), 0) {
  check_argument(capacity >= 1, "cache", "expected room for at least 1 token, got {}", capacity);
  // A device's share of a prompt ends each of its (at most two) pieces with a block that is not full.
  const std::int64_t share = (capacity + devices - 1) / devices;
  slots_per_device_ = (share + kBlockTokens - 1) / kBlockTokens + 2;
  const std::int64_t bytes =
      slots_per_device_ * kBlockTokens * config.kv_heads * config.head_dim * size_of(dtype);
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    keys_.push_back(context.arena.allocate(Entry::kv_cache, bytes, "cached keys"));
    values_.push_back(context.arena.allocate(Entry::kv_cache, bytes, "cached values"));
  }
}

void KvCache::enter_prompt(const SequencePlan& plan) {
  RONDO_ASSERT(tokens_ == 0);
  check_argument(plan.tokens <= capacity_, "cache", "expected a prompt of at most {} tokens, got {}",
                 capacity_, plan.tokens);
  std::vector<Block> blocks;
  std::vector<std::int64_t> slots(slots_.size(), 0);
  check_argument(plan.devices == static_cast<int>(slots.size()), "cache",
                 "expected a plan for {} devices, got {}", slots.size(), plan.devices);
  for (int device = 0; device < plan.devices; ++device) {
    auto& slot = slots[static_cast<std::size_t>(device)];
    for (const Piece& piece : make_pieces(plan, device)) {
      for (std::int64_t n = 0; n < piece.count; n += kBlockTokens) {
        blocks.push_back({.device = device,
                          .slot = slot++,
                          .base = piece.base + piece.stride * n,
                          .stride = piece.stride,
                          .used = std::min(kBlockTokens, piece.count - n),
                          .first_local = piece.local + n});
      }
    }
    check_argument(slot <= slots_per_device_, "cache",
                   "expected shares of at most {} blocks of {} tokens, got {} on device {}",
                   slots_per_device_, kBlockTokens, slot, device);
  }
  blocks_ = std::move(blocks);
  slots_ = std::move(slots);
  tokens_ = plan.tokens;
}

void KvCache::store(const Block& block, std::int64_t layer, Range rows, const ConstTensor& k,
                    const ConstTensor& v) {
  const std::int64_t first = block.slot * kBlockTokens + rows.begin;
  kernels::copy(context_->stream, k, keys(layer).slice({first, first + rows.size()}));
  kernels::copy(context_->stream, v, values(layer).slice({first, first + rows.size()}));
}

void KvCache::store_prompt(std::int64_t layer, const ConstTensor& k_TGD, const ConstTensor& v_TGD) {
  for (const Block& block : blocks_) {
    if (block.device != context_->device || block.first_local < 0) continue;
    const Range local{block.first_local, block.first_local + block.used};
    store(block, layer, {0, block.used}, k_TGD.slice(local), v_TGD.slice(local));
  }
}

int KvCache::append() {
  check_argument(tokens_ < capacity_, "cache",
                 "expected at most {} tokens, got one more; reserve more with --ctx-size", capacity_);
  if (open_block_ < 0 || blocks_[static_cast<std::size_t>(open_block_)].used == kBlockTokens) {
    const auto emptiest = std::min_element(slots_.begin(), slots_.end());
    RONDO_ASSERT(*emptiest < slots_per_device_);
    blocks_.push_back(
        {.device = static_cast<int>(emptiest - slots_.begin()), .slot = (*emptiest)++, .base = tokens_});
    open_block_ = static_cast<int>(blocks_.size()) - 1;
  }
  Block& block = blocks_[static_cast<std::size_t>(open_block_)];
  ++block.used;
  ++tokens_;
  return block.device;
}

void KvCache::store_appended(std::int64_t layer, const ConstTensor& k_1GD, const ConstTensor& v_1GD) {
  const Block& block = blocks_[static_cast<std::size_t>(open_block_)];
  RONDO_ASSERT(block.device == context_->device);
  store(block, layer, {block.used - 1, block.used}, k_1GD, v_1GD);
}

Tensor KvCache::keys(std::int64_t layer) const {
  return keys_[static_cast<std::size_t>(layer)].tensor(dtype_, slots_per_device_ * kBlockTokens,
                                                       config_->kv_heads, config_->head_dim);
}
Tensor KvCache::values(std::int64_t layer) const {
  return values_[static_cast<std::size_t>(layer)].tensor(dtype_, slots_per_device_ * kBlockTokens,
                                                         config_->kv_heads, config_->head_dim);
}

std::vector<Tile> KvCache::visible_tiles(std::int64_t position, const Mask& mask) const {
  std::vector<Tile> tiles;
  const auto add = [&](const Block& block, std::int64_t begin, std::int64_t end) {
    if (begin >= end) return;
    const std::int64_t first = block.slot * kBlockTokens;
    // Full blocks side by side are one run of memory.
    if (!tiles.empty() && tiles.back().k.end == first + begin) {
      tiles.back().k.end = first + end;
      return;
    }
    tiles.push_back({.q = {0, 1}, .k = {first + begin, first + end}});
  };
  // How many of a block's tokens stand before `limit`.
  const auto before = [](const Block& block, std::int64_t limit) {
    return std::clamp<std::int64_t>((limit - block.base + block.stride - 1) / block.stride, 0, block.used);
  };
  for (const Block& block : blocks_) {
    if (block.device != context_->device) continue;
    const std::int64_t end = before(block, position + 1);
    if (mask.window == 0) {
      add(block, 0, end);
      continue;
    }
    const std::int64_t window = std::min(end, before(block, position - mask.window + 1));
    add(block, 0, std::min(window, before(block, mask.first_k)));
    add(block, window, end);
  }
  return tiles;
}

}  // namespace rondo
