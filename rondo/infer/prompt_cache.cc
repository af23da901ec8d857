#include "rondo/infer/prompt_cache.h"

#include <algorithm>
#include <array>

#include "rondo/core/error.h"

namespace rondo {

PromptCache::PromptCache(Context& context, const ModelConfig& config, const PromptCacheOptions& options)
    : context_(&context), config_(&config), options_(options) {
  check_argument(options.tokens > 0 && options.block_tokens > 0, "cache",
                 "expected a prompt and blocks of at least 1 token, got {}, {}", options.tokens,
                 options.block_tokens);
  if (!options.spill.empty()) disk_ = std::make_unique<SpillDisk>(options.spill);
  const std::int64_t row = config.kv_heads * config.head_dim * size_of(options.dtype);
  store_ = std::make_unique<SegmentStore>(
      context, disk_.get(),
      SegmentStoreOptions{.entry = Entry::kv_cache,
                          .segment_bytes = 2 * std::min(options.block_tokens, options.tokens) * row,
                          .segments = config.layers * blocks(),
                          .what = "cached keys and values"});
  const std::int64_t parts = blocks() + 1, floats = parts * config.q_heads * size_of(DType::f32);
  outputs_ = context.arena.allocate(Entry::attention, floats * config.head_dim, "parts of a merge");
  lses_ = context.arena.allocate(Entry::attention, floats, "lse of the parts");
}

Range PromptCache::range(std::int64_t block) const {
  return {block * options_.block_tokens, std::min(options_.tokens, (block + 1) * options_.block_tokens)};
}

std::int64_t PromptCache::first_visible(std::int64_t position) const {
  const std::int64_t window = config_->sliding_window;
  if (window == 0) return 0;
  const std::int64_t first = std::max<std::int64_t>(0, position - window + 1);
  return first < options_.tokens ? first / options_.block_tokens : blocks();
}

namespace {

/// A block's memory: all keys, then all values.
template <class Void>
auto rows_of(Void* memory, std::int64_t tokens, const ModelConfig& config, DType dtype) {
  const std::int64_t bytes = tokens * config.kv_heads * config.head_dim * size_of(dtype);
  using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
  Void* values = static_cast<Byte*>(memory) + bytes;
  return std::array{view(memory, dtype, tokens, config.kv_heads, config.head_dim),
                    view(values, dtype, tokens, config.kv_heads, config.head_dim)};
}

}  // namespace

void PromptCache::store(std::int64_t layer, std::int64_t first, const ConstTensor& k_SGD,
                        const ConstTensor& v_SGD) {
  const std::int64_t block = first / options_.block_tokens;
  RONDO_ASSERT(first == range(block).begin && k_SGD.tokens == range(block).size());
  void* memory = store_->write(place(layer, block));
  const auto [k, v] = rows_of(memory, k_SGD.tokens, *config_, options_.dtype);
  kernels::copy(context_->stream, k_SGD, k);
  kernels::copy(context_->stream, v_SGD, v);
  store_->written(place(layer, block));
}

void PromptCache::attend(std::int64_t layer, const Query& query) {
  const std::int64_t heads = config_->q_heads, dim = config_->head_dim, window = config_->sliding_window;
  const std::int64_t first = first_visible(query.position);
  std::int64_t parts = 0;
  const auto part = [&](const ConstTensor& k, const ConstTensor& v, std::span<const Tile> tiles) {
    float* out = outputs_.as<float>() + parts * heads * dim;
    kernels::attention_decode(context_->stream, {.q_THD = query.q_1HD,
                                                 .k_SGD = k,
                                                 .v_SGE = v,
                                                 .tiles = tiles,
                                                 .params = query.params,
                                                 .out_THE = view(out, DType::f32, 1, heads, dim),
                                                 .lse_HT = lses_.as<float>() + parts * heads});
    ++parts;
  };
  for (std::int64_t block = first; block < blocks(); ++block) {
    // After the last block comes the next layer, or the next token's first one.
    const std::int64_t next_layer = (layer + 1) % config_->layers;
    const std::int64_t ahead = block + 1 < blocks() ? place(layer, block + 1) : place(next_layer, first);
    const void* memory = store_->read(place(layer, block), ahead);
    const Range all = range(block);
    const auto [k, v] = rows_of(memory, all.size(), *config_, options_.dtype);
    const std::int64_t begin = window == 0 ? all.begin : std::max(all.begin, query.position - window + 1);
    const std::array tiles{Tile{.q = {0, 1}, .k = {begin - all.begin, all.size()}}};
    part(k, v, tiles);
  }
  part(query.later_k_SGD, query.later_v_SGD, query.later_tiles);
  kernels::attention_merge_finished(context_->stream, parts, outputs_.as<float>(), lses_.as<float>(),
                                    query.out_1HD);
}

}  // namespace rondo
