// The sharded cache against a list of which token lies where.

#include "rondo/infer/kv_cache.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "rondo/core/error.h"
#include "rondo/reference/convert.h"

namespace rondo {
namespace {

constexpr std::int64_t kBlock = KvCache::kBlockTokens;

ModelConfig small_config() {
  return {.vocabulary = 8,
          .width = 8,
          .ffn = 8,
          .layers = 2,
          .q_heads = 2,
          .kv_heads = 2,
          .head_dim = 4,
          .rope_scaling = {},
          .eos = {}};
}

/// The caches of all devices of a ring, one after the other in one thread: none of it communicates.
class Caches {
 public:
  Caches(int devices, std::int64_t capacity, DType dtype = DType::f32) : dtype_(dtype) {
    for (int device = 0; device < devices; ++device) {
      contexts_.push_back(std::make_unique<Context>(ContextOptions{.device = device}));
      caches_.push_back(std::make_unique<KvCache>(*contexts_.back(), config_, dtype, devices, capacity));
    }
  }
  KvCache& operator[](int device) { return *caches_[static_cast<std::size_t>(device)]; }
  int devices() const { return static_cast<int>(caches_.size()); }

  /// A token's keys or values: numbers that tell layer, token, head, element and kind apart, exact in
  /// bfloat16.
  static double number(std::int64_t layer, std::int64_t token, std::int64_t element, bool value) {
    return static_cast<double>((layer * 97 + token * 31 + element * 7 + (value ? 3 : 0)) % 251);
  }
  Buffer rows(int device, const std::vector<std::int64_t>& tokens, std::int64_t layer, bool value) {
    const auto count = static_cast<std::int64_t>(tokens.size());
    Buffer buffer = contexts_[static_cast<std::size_t>(device)]->arena.allocate(
        Entry::data, std::max<std::int64_t>(count, 1) * 8 * size_of(dtype_), "rows");
    std::vector<double> values;
    for (const std::int64_t token : tokens)
      for (std::int64_t e = 0; e < 8; ++e) values.push_back(number(layer, token, e, value));
    reference::from_doubles(values, buffer.tensor(dtype_, count, 2, 4));
    return buffer;
  }
  void enter(const SequencePlan& plan) {
    for (int device = 0; device < devices(); ++device) {
      KvCache& cache = (*this)[device];
      cache.enter_prompt(plan);
      std::vector<std::int64_t> tokens;
      for (const TokenPlace& place : shard_places(plan, device)) tokens.push_back(place.global);
      const auto count = static_cast<std::int64_t>(tokens.size());
      for (std::int64_t layer = 0; layer < 2; ++layer) {
        const Buffer k = rows(device, tokens, layer, false), v = rows(device, tokens, layer, true);
        cache.store_prompt(layer, k.tensor(dtype_, count, 2, 4), v.tensor(dtype_, count, 2, 4));
      }
    }
  }
  int append() {
    const std::int64_t token = caches_.front()->tokens();
    int owner = -1;
    for (int device = 0; device < devices(); ++device) {
      const int said = (*this)[device].append();
      EXPECT_TRUE(device == 0 || said == owner) << "devices disagree about token " << token;
      owner = said;
    }
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      const Buffer k = rows(owner, {token}, layer, false), v = rows(owner, {token}, layer, true);
      (*this)[owner].store_appended(layer, k.tensor(dtype_, 1, 2, 4), v.tensor(dtype_, 1, 2, 4));
    }
    return owner;
  }

  /// Sorted rows of all keys, then all values, that the visible tiles name, over all devices.
  std::multimap<std::vector<double>, std::vector<double>> visible(std::int64_t layer, std::int64_t position,
                                                                  const Mask& mask) {
    std::multimap<std::vector<double>, std::vector<double>> found;
    for (int device = 0; device < devices(); ++device) {
      const KvCache& cache = (*this)[device];
      for (const Tile& tile : cache.visible_tiles(position, mask)) {
        EXPECT_EQ(tile.q, (Range{0, 1}));
        EXPECT_EQ(tile.band, Band{});
        EXPECT_LT(tile.k.begin, tile.k.end);
        for (std::int64_t row = tile.k.begin; row < tile.k.end; ++row)
          found.emplace(reference::to_doubles(cache.keys(layer).slice({row, row + 1})),
                        reference::to_doubles(cache.values(layer).slice({row, row + 1})));
      }
    }
    return found;
  }

 private:
  ModelConfig config_ = small_config();
  DType dtype_;
  std::vector<std::unique_ptr<Context>> contexts_;
  std::vector<std::unique_ptr<KvCache>> caches_;
};

/// Every cached token that the mask lets `position` see, exactly once over all devices, and nothing else.
void expect_visible(Caches& caches, std::int64_t position, const Mask& mask) {
  for (const std::int64_t layer : {0, 1}) {
    std::multimap<std::vector<double>, std::vector<double>> expected;
    for (std::int64_t token = 0; token < std::min(position + 1, caches[0].tokens()); ++token) {
      if (mask.window > 0 && position - token >= mask.window && token >= mask.first_k) continue;
      std::vector<double> k, v;
      for (std::int64_t e = 0; e < 8; ++e) {
        k.push_back(Caches::number(layer, token, e, false));
        v.push_back(Caches::number(layer, token, e, true));
      }
      expected.emplace(k, v);
    }
    // Tokens 251 apart look alike, on both sides alike: the counts tell them apart.
    ASSERT_EQ(caches.visible(layer, position, mask), expected)
        << "layer " << layer << ", position " << position << ", window " << mask.window << ", first "
        << mask.first_k;
  }
}

const Mask kMasks[] = {{},
                       {.causal = true, .window = 1, .first_k = 0},
                       {.causal = true, .window = 1, .first_k = 3},
                       {.causal = true, .window = 5, .first_k = 1},
                       {.causal = true, .window = 40, .first_k = 2},
                       {.causal = true, .window = 300, .first_k = 260},
                       {.causal = true, .window = 10000, .first_k = 10000}};

TEST(KvCache, QueriesSeeEachTokenOfThePromptAndTheAnswerOnce) {
  for (const int devices : {1, 2, 3, 5}) {
    for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
      for (const std::int64_t prompt : {1, 3, 7, 256, 700}) {
        SCOPED_TRACE(testing::Message() << devices << " " << name_of(layout) << " " << prompt);
        Caches caches(devices, prompt + 20);
        caches.enter({.tokens = prompt, .devices = devices, .layout = layout});
        EXPECT_EQ(caches[0].tokens(), prompt);
        for (int n = 0; n < 20; ++n) caches.append();
        for (const Mask& mask : kMasks)
          for (const std::int64_t position : {prompt + 19, prompt + 5, prompt / 2})
            expect_visible(caches, position, mask);
      }
    }
  }
}

TEST(KvCache, UnevenAndEmptySharesOfAPrompt) {
  for (const Layout layout : {Layout::contiguous, Layout::zigzag}) {
    for (const std::vector<double>& weights : {std::vector<double>{1, 0, 3}, {0, 1, 0}, {2, 5, 1}}) {
      Caches caches(3, 1200);
      caches.enter({.tokens = 333, .devices = 3, .layout = layout, .weights = weights});
      for (int n = 0; n < 300; ++n) caches.append();
      for (const Mask& mask : kMasks) expect_visible(caches, 632, mask);
    }
  }
}

TEST(KvCache, Bfloat16) {
  Caches caches(2, 300, DType::bf16);
  caches.enter({.tokens = 270, .devices = 2, .layout = Layout::zigzag});
  for (int n = 0; n < 30; ++n) caches.append();
  for (const Mask& mask : kMasks) expect_visible(caches, 299, mask);
}

TEST(KvCache, ANewBlockGoesToTheEmptiestDevice) {
  Caches caches(3, 5 * kBlock);
  // 300 tokens on device 0 are two blocks, 150 on each of the others one.
  caches.enter({.tokens = 600, .devices = 3, .layout = Layout::contiguous, .weights = {2, 1, 1}});
  EXPECT_EQ(caches[0].blocks(0), 2);
  EXPECT_EQ(caches[0].blocks(1), 1);
  EXPECT_EQ(caches[0].blocks(2), 1);
  std::vector<int> owners;
  for (std::int64_t n = 0; n < 2 * kBlock + 1; ++n) {
    const int owner = caches.append();
    if (n % kBlock == 0) owners.push_back(owner);
    ASSERT_EQ(owner, owners.back()) << "token " << n << " left a block that was not full";
  }
  EXPECT_EQ(owners, (std::vector<int>{1, 2, 0}));  // ties go to the lower device
  EXPECT_EQ(caches[2].blocks(0), 3);
  expect_visible(caches, 600 + 2 * kBlock, {});
}

TEST(KvCache, EveryTokenOfTheCapacityHasRoom) {
  for (const int devices : {1, 2, 3, 4}) {
    for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
      for (const std::int64_t capacity : {1, 255, 257, 1030}) {
        for (const std::int64_t prompt : {std::int64_t{1}, capacity / 2, capacity - 1, capacity}) {
          if (prompt < 1) continue;
          SCOPED_TRACE(testing::Message()
                       << devices << " " << name_of(layout) << " " << capacity << " " << prompt);
          ModelConfig config = small_config();
          Context context({});
          KvCache cache(context, config, DType::f32, devices, capacity);
          EXPECT_EQ(cache.capacity(), capacity);
          cache.enter_prompt({.tokens = prompt, .devices = devices, .layout = layout});
          for (std::int64_t n = prompt; n < capacity; ++n) cache.append();
          EXPECT_EQ(cache.tokens(), capacity);
          try {
            cache.append();
            ADD_FAILURE() << "no error";
          } catch (const ArgumentError& error) {
            EXPECT_NE(std::string(error.what()).find(std::to_string(capacity)), std::string::npos)
                << error.what();
          }
          EXPECT_EQ(cache.tokens(), capacity);
        }
      }
    }
  }
}

TEST(KvCache, MemoryIsReservedUpFrontAndEnteredInTheLedger) {
  const ModelConfig config = small_config();
  Context context({});
  KvCache cache(context, config, DType::bf16, 2, 1000);
  const std::int64_t before = context.ledger.current(Entry::kv_cache);
  // 500 tokens of a device are two blocks, and two more for the ends of pieces: keys and values of 2 layers.
  EXPECT_EQ(before, 2 * 2 * 4 * kBlock * 2 * 4 * 2);
  for (int n = 0; n < 1000; ++n) cache.append();
  EXPECT_EQ(context.ledger.current(Entry::kv_cache), before);
  Context limited({.memory_limit = before - 1});
  EXPECT_THROW(KvCache(limited, config, DType::bf16, 2, 1000), MemoryLimitError);
  EXPECT_EQ(limited.ledger.total(), 0);
}

TEST(KvCache, WhatDoesNotFitIsRefusedAndChangesNothing) {
  const ModelConfig config = small_config();
  Context context({});
  EXPECT_THROW(KvCache(context, config, DType::f32, 2, 0), ArgumentError);
  KvCache cache(context, config, DType::f32, 4, 2000);
  EXPECT_THROW(cache.enter_prompt({.tokens = 2001, .devices = 4}), ArgumentError);
  EXPECT_THROW(cache.enter_prompt({.tokens = 10, .devices = 3}), ArgumentError);
  // All of it on one device, which has room for its share of the capacity.
  EXPECT_THROW(cache.enter_prompt({.tokens = 2000, .devices = 4, .weights = {0, 0, 1, 0}}), ArgumentError);
  EXPECT_EQ(cache.tokens(), 0);
  for (int device = 0; device < 4; ++device) EXPECT_EQ(cache.blocks(device), 0);
  EXPECT_TRUE(cache.visible_tiles(5, {}).empty());
  cache.enter_prompt({.tokens = 2000, .devices = 4});
  EXPECT_EQ(cache.tokens(), 2000);
}

}  // namespace
}  // namespace rondo
