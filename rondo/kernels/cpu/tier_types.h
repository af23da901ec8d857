#pragma once
// What baseline code and the tiers say to each other: plain structs and function pointers, no library types
// (cpu/tier.h). Legend: see kernels.h. Elements are float32 or bfloat16 (is_bf16); strides count elements.

#include <cstdint>

namespace rondo::kernels {

/// Queries that are computed together, one per vector lane; states are cut into tiles of this many tokens.
inline constexpr std::int64_t kQueryTile = 64;

/// One head of a tensor.
struct HeadView {
  const void* data;
  std::int64_t token_stride;
  std::int64_t dim;
  bool is_bf16;
};

/// rondo::Tile without its library types; lo and hi lie within ±Band::unbounded.
struct TileBox {
  std::int64_t q_begin, q_end, k_begin, k_end;
  std::int64_t lo, hi;
  std::int64_t q_position, k_position, stride;
  std::uint32_t sequence;
};

/// Dropout of one call; `threshold` = ceil(p * 2^32): a generator word below it drops. 0 switches it off.
struct DropoutRule {
  std::uint32_t threshold;
  std::uint32_t key0, key1;
  float keep_scale;  ///< 1 / (1 - p)
};

/// What one call says about scores, for every head.
struct ScoreRule {
  const TileBox* tiles;
  std::int64_t tile_count;
  float scale, softcap;
  DropoutRule dropout;
};

/// Forward of the queries [q_begin, q_end) of one head; q_begin is a multiple of kQueryTile.
struct ForwardTask {
  void (*meanwhile)(void*);  ///< core/meanwhile.h: to be called often; null: nothing
  void* meanwhile_self;
  HeadView q, k, v;
  const ScoreRule* rule;
  std::uint32_t head;
  std::int64_t q_begin, q_end;
  float* state;  ///< of the head's query tile q_begin / kQueryTile; the following tiles lie behind it
  float* scratch;
};

/// Backward of the queries [q_begin, q_end) of one head; q_begin is a multiple of kQueryTile. Gradients are
/// added to. Tasks that share keys may run at once if they take turns (key_turns.h); none share queries of
/// one head.
struct BackwardTask {
  void (*meanwhile)(void*);  ///< as in ForwardTask
  void* meanwhile_self;
  void (*take_turn)(void* self, std::int64_t key_end);  ///< before dK and dV are added to; null: it always is
  void (*give_turn)(void* self, std::int64_t tile, std::int64_t key_end);  ///< after
  void* turn;
  HeadView q, k, v, dout;
  const ScoreRule* rule;
  std::uint32_t head;
  std::int64_t q_begin, q_end;
  const float *lse_T, *delta_T;  ///< of the head
  float *dq, *dk, *dv;
  std::int64_t dq_token_stride, dk_token_stride, dv_token_stride;
  float* scratch;
};

inline constexpr std::int64_t kDecodePiece = 512;
/// Decoding: all heads of the queries [q_begin, q_end) of a tile against the keys [k_begin, k_end) counted
/// from its corner. q, k and v are of the first head.
struct DecodeTask {
  HeadView q, k, v;
  std::int64_t q_head_stride, k_head_stride, v_head_stride;
  std::int64_t kv_heads, group;  ///< group: query heads of a key/value head
  const ScoreRule* rule;
  const TileBox* box;
  std::int64_t q_begin, q_end, k_begin, k_end;
  std::int64_t piece;  ///< keys whose scores are held at a time: a multiple of 16 up to kDecodePiece
  float* partial;      ///< result, overwritten: out[query][head][E] unnormalised, maxima[query][head] of the
                       ///< scores in units of log 2, sums[query][head]
  float* scratch;
};

/// float32 elements of scratch that a task needs, for `queries` queries at a time.
using ScratchElements = std::int64_t (*)(std::int64_t qk_dim, std::int64_t v_dim, std::int64_t queries);

/// The functions of one instruction-set tier.
struct Tier {
  const char* name;  ///< as rondo::name_of(Isa)
  int lanes;         ///< float32 lanes of its vectors
  ScratchElements attention_forward_scratch;
  void (*attention_forward)(const ForwardTask&);
  ScratchElements attention_backward_scratch;
  void (*attention_backward)(const BackwardTask&);
  /// rows: queries times query heads of a task.
  std::int64_t (*attention_decode_scratch)(std::int64_t rows, std::int64_t qk_dim, std::int64_t v_dim);
  void (*attention_decode)(const DecodeTask&);
  /// words[n] = dropout_bits(key, sequence, head, q_positions[n], k_position) for n < kQueryTile
  /// (core/random.h).
  void (*dropout_words)(const DropoutRule& rule, std::uint32_t sequence, std::uint32_t head,
                        const std::uint32_t* q_positions, std::uint32_t k_position, std::uint32_t* words);
  /// In place on kQueryTile numbers: 2^x, tanh x (for tests of their accuracy).
  void (*exp2)(float* x);
  void (*tanh)(float* x);
};

// Block sizes: docs/kernels.md has the measurements behind them.
/// Queries of one forward task, and keys whose scores it holds at a time.
inline constexpr std::int64_t kForwardQueries = 8 * kQueryTile;
inline constexpr std::int64_t kForwardKeys = 128;
/// Most queries of a backward task, whose packed forms it holds, and keys kept in the second-level cache
/// while those stream past.
inline constexpr std::int64_t kBackwardQueries = 32 * kQueryTile;
inline constexpr std::int64_t kBackwardKeys = 256;
/// More than any key.
inline constexpr std::int64_t kAllKeys = INT64_MAX;
/// Keys of those whose scores are held at a time.
inline constexpr std::int64_t kBackwardBlock = 64;

}  // namespace rondo::kernels
