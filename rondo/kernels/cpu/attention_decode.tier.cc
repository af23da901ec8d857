// Attention of a few queries over many keys, where the time goes into reading keys and values: each is read
// once, in the order of memory (token by token, all heads of it), for all queries and heads that need it.
// A piece of keys at a time: scores of all rows, their softmax (online, as in Milakov, Gimelshein 2018), then
// the piece's values. A row is one query of one query head.

#include "rondo/kernels/cpu/attention.tier.h"
#include "rondo/kernels/cpu/decode_products.tier.h"

namespace rondo::kernels::RONDO_TIER {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr i64 kLargestHead = 256;
constexpr i64 kMostTokens = 8;  ///< of a block
constexpr i64 kAhead = 8192;    ///< bytes between what is read and what is asked for

inline i64 least(i64 a, i64 b) { return a < b ? a : b; }
inline i64 most(i64 a, i64 b) { return a > b ? a : b; }
inline i64 round_up(i64 count, i64 multiple) { return (count + multiple - 1) / multiple * multiple; }

/// Keys or values of a task.
struct Rows {
  const char* data;  ///< of key 0 of the tile, first head
  i64 token_bytes, head_bytes, heads;
  i64 dim, row_bytes, units;
  bool is_bf16;
  bool staged;  ///< no whole registers: rows are copied block by block, as float32 with zeros behind them
};

Rows rows_of(const HeadView& x, i64 head_stride, i64 heads, i64 first_token) {
  const i64 size = x.is_bf16 ? 2 : 4;
  const bool staged = x.dim * size % kRegisterBytes != 0;
  return {.data = static_cast<const char*>(x.data) + first_token * x.token_stride * size,
          .token_bytes = x.token_stride * size,
          .head_bytes = head_stride * size,
          .heads = heads,
          .dim = x.dim,
          .row_bytes = x.dim * size,
          .units = staged ? (x.dim + kLanes - 1) / kLanes : x.dim * size / kRegisterBytes,
          .is_bf16 = x.is_bf16,
          .staged = staged};
}

/// The block of `count` keys at `key`, where it can be read as whole registers: in place, or copied, with
/// zeros for the keys that are missing.
template <i64 kTokens>
Block block_of(const Rows& x, i64 head, i64 key, i64 count, char* stage) {
  const char* data = x.data + key * x.token_bytes + head * x.head_bytes;
  if (!x.staged && count == kTokens) return {data, x.token_bytes, x.units};
  const i64 stride = x.units * kRegisterBytes;
  for (i64 n = 0; n < count; ++n, data += x.token_bytes) {
    char* to = stage + n * stride;
    if (x.staged) {
      float* row = reinterpret_cast<float*>(to);
      widen(data, x.is_bf16, x.dim, row);
      for (i64 d = x.dim; d < x.units * kLanes; ++d) row[d] = 0;
    } else {
      __builtin_memcpy(to, data, static_cast<unsigned long>(x.row_bytes));
    }
  }
  __builtin_memset(stage + count * stride, 0, static_cast<unsigned long>((kTokens - count) * stride));
  return {stage, stride, x.units};
}

/// How a pass over keys or values asks for what lies further on: each head for its share of a block, in the
/// order of memory. Tokens whose heads do not fill most of their memory are left to the processor.
struct Pace {
  i64 later, share, step;

  /// `tokens` of a block; `passes`: how often each of its lines is read.
  Pace(const Rows& x, i64 tokens, i64 passes) {
    const bool dense = x.token_bytes <= 2 * x.heads * x.row_bytes;
    later = (tokens - 1) * x.token_bytes + kAhead, share = tokens * x.token_bytes / x.heads;
    step = dense ? share / (tokens * x.units * passes) : 0;
  }
  InOrder from(const char* here, i64 head) const { return {here + later + head * share, step}; }
};

/// Memory of a task.
struct Decode {
  const DecodeTask& task;
  i64 group_rows;  ///< rows that read one key/value head
  float* q;        // [row][kRowStride], in the order of the keys' format
  float* out;      // [row][kRowStride], in the order of the values' format
  float* scores;   // [row][kScoreStride]
  float *maxima, *sums;
  char* stage;  // a block, whole registers
  i64 rows() const { return task.kv_heads * group_rows; }
};

/// A piece of keys or values, worked on in blocks of kTokens.
template <int kTokens>
struct Piece {
  Decode d;  // copies: behind references they would be read again after every store
  Rows x;
  i64 begin, keys;
  Pace pace;

  const char* here(i64 at) const { return x.data + (begin + at) * x.token_bytes; }
  i64 count(i64 at) const { return least(kTokens, keys - at); }
  Block block(i64 head, i64 at) const { return block_of<kTokens>(x, head, begin + at, count(at), d.stage); }
  InOrder ahead(i64 head, i64 at) const { return pace.from(here(at), head); }
};

template <class Format, int kTokens>
void score_head(const Piece<kTokens>& piece, i64 head, i64 at) {
  const i64 rows = piece.d.group_rows, first = head * rows;
  const Block keys = piece.block(head, at);
  InOrder ahead = piece.ahead(head, at);
  for_row_tiles<kScoreRows<kTokens>>(rows, [&](i64 row, auto count) {
    score_rows<Format, kTokens, count, 1>(piece.d.q + (first + row) * kRowStride, keys, 0,
                                          piece.d.scores + (first + row) * kScoreStride + at, ahead);
  });
}

/// Scores where kRows rows read each head: of as many heads at once as fill a vector.
template <class Format, int kTokens, int kRows>
void score_heads(const Piece<kTokens>& piece) {
  constexpr int kHeads = kScoreRows<kTokens> / kRows;
  const Rows& x = piece.x;
  const i64 together = x.staged ? 0 : x.heads / kHeads * kHeads;
  for (i64 at = 0; at < piece.keys; at += kTokens) {
    i64 head = 0;
    for (; head < together && piece.count(at) == kTokens; head += kHeads) {
      InOrder ahead = piece.ahead(head, at);
      const i64 row = head * kRows;
      score_rows<Format, kTokens, kRows, kHeads>(piece.d.q + row * kRowStride, piece.block(head, at),
                                                 x.head_bytes, piece.d.scores + row * kScoreStride + at,
                                                 ahead);
    }
    for (; head < x.heads; ++head) score_head<Format>(piece, head, at);
  }
}

template <class Format, int kTokens>
void keys_of_piece(const Decode& d, const Rows& k, i64 begin, i64 keys) {
  const i64 rows = d.group_rows;
  const Piece<kTokens> piece{d, k, begin, keys, Pace(k, kTokens, row_tiles<kScoreRows<kTokens>>(rows))};
  if (rows == 1) return score_heads<Format, kTokens, 1>(piece);
  if constexpr (kScoreRows<kTokens> >= 4) {
    if (rows == 2) return score_heads<Format, kTokens, 2>(piece);
  }
  if constexpr (kScoreRows<kTokens> >= 8) {
    if (rows == 4) return score_heads<Format, kTokens, 4>(piece);
  }
  for (i64 at = 0; at < keys; at += kTokens)
    for (i64 head = 0; head < k.heads; ++head) score_head<Format>(piece, head, at);
}

template <class Format, int kTokens>
void values_of_piece(const Decode& d, const Rows& v, i64 begin, i64 keys) {
  const Piece<kTokens> piece{d, v, begin, keys, Pace(v, kTokens, row_tiles<kValueRows>(d.group_rows))};
  for (i64 at = 0; at < keys; at += kTokens)
    for (i64 head = 0; head < v.heads; ++head) {
      const i64 row = head * d.group_rows;
      value_block<Format, kTokens>(d.scores + row * kScoreStride + at / Format::kKeys, d.group_rows,
                                   piece.block(head, at), d.out + row * kRowStride, piece.ahead(head, at));
    }
}

// Blocks of few tokens are read nearly in the order of memory, those of more save loads and stores of sums.
// Measured: pages of 4 KiB that are read side by side slow memory down.

template <class Format>
void any_keys_of_piece(const Decode& d, const Rows& k, i64 begin, i64 keys) {
  k.token_bytes > (3 << 10) ? keys_of_piece<Format, 1>(d, k, begin, keys)
                            : keys_of_piece<Format, 2>(d, k, begin, keys);
}
template <class Format>
void any_values_of_piece(const Decode& d, const Rows& v, i64 begin, i64 keys) {
  constexpr int kKeys = Format::kKeys;
  if (v.token_bytes <= kKeys * (1 << 9)) return values_of_piece<Format, 8>(d, v, begin, keys);
  if (v.token_bytes <= kKeys * (2 << 10)) return values_of_piece<Format, 4>(d, v, begin, keys);
  v.token_bytes <= (8 << 10) ? values_of_piece<Format, 2>(d, v, begin, keys)
                             : values_of_piece<Format, kKeys>(d, v, begin, keys);
}

/// Stores probabilities as the values' format reads them and returns them as stored.
template <class Format>
vec store_probabilities(float* scores, i64 j, vec p) {
#if defined(__AVX512BF16__)
  if constexpr (Format::kKeys == 2) {
    const auto halves = (__m256i)_mm512_cvtneps_pbh((__m512)p);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(scores + j / 2), halves);
    return (vec)((uvec)_mm512_maskz_cvtepu16_epi32(kAll, halves) << 16);
  }
#endif
  store(scores + j, p);
  return p;
}

/// What of the piece's scores a row sees: [begin, end), counted from the piece's first key.
struct Seen {
  i64 begin, end;
};

/// Products become scores in units of log 2, unseen ones -infinity; returns the largest.
float mask_row(const ScoreRule& rule, float* scores, i64 padded, const Seen& seen) {
  static constexpr i32 kOrder[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const float cap = rule.softcap, factor = cap > 0 ? rule.scale / cap : rule.scale * kLog2E;
  const bool masked = seen.begin > 0 || seen.end < padded;
  const ivec order = load(kOrder);
  const ivec first = splat(static_cast<i32>(seen.begin)), last = splat(static_cast<i32>(seen.end) - 1);
  vec top = splat(-kInfinity);
  for (i64 j = 0; j < padded; j += kLanes) {
    vec x = load(scores + j) * factor;
    if (cap > 0) x = tanh(x) * (cap * kLog2E);
    if (masked) {
      const ivec key = order + static_cast<i32>(j);
      x = (key >= first) & (key <= last) ? x : splat(-kInfinity);
    }
    top = max(x, top);
    store(scores + j, x);
  }
  return largest_lane(top)[0];
}

/// Products become probabilities under the row's running maximum; returns what the sums so far are to be
/// multiplied by.
template <class Format>
float softmax_row(const ScoreRule& rule, float* scores, i64 padded, const Seen& seen, float& maximum,
                  float& sum) {
  const float old = maximum, top = mask_row(rule, scores, padded, seen);
  maximum = top > old ? top : old;
  const float shift = maximum == -kInfinity ? 0 : maximum;  // nothing seen: exp(-inf - 0), not -inf + inf
  vec total{};
  for (i64 j = 0; j < padded; j += kLanes)
    total += store_probabilities<Format>(scores, j, exp2<Format::kPrecision>(load(scores + j) - shift));
  const float factor = exp2(splat(old - shift))[0];
  sum = sum * factor + sum_of_lanes(total)[0];
  return factor;
}

template <class Format>
void softmax_piece(Decode& d, const Rows& v, i64 begin, i64 keys) {
  const TileBox& box = *d.task.box;
  for (i64 row = 0; row < d.rows(); ++row) {
    const i64 i = d.task.q_begin + row % d.group_rows / d.task.group - box.q_begin;
    const Seen seen{most(0, least(keys, i + box.lo - begin)), most(0, least(keys, i + box.hi + 1 - begin))};
    const float factor = softmax_row<Format>(*d.task.rule, d.scores + row * kScoreStride,
                                             round_up(keys, kLanes), seen, d.maxima[row], d.sums[row]);
    float* out = d.out + row * kRowStride;
    for (i64 n = 0; n < v.units * Format::kVectors; ++n)
      store(out + n * kLanes, load(out + n * kLanes) * factor);
  }
}

/// A row's query, counted from the task's first, and its query head.
struct RowPlace {
  i64 query, head;
};
RowPlace place_of(const Decode& d, i64 row) {
  const i64 n = row % d.group_rows;
  return {n / d.task.group, row / d.group_rows * d.task.group + n % d.task.group};
}

template <class Format>
void pack_queries(Decode& d, const Rows& k) {
  const HeadView& q = d.task.q;
  const i64 size = q.is_bf16 ? 2 : 4, padded = round_up(q.dim, kLanes);
  i64 order[kLargestHead + kLanes];
  for (i64 e = 0; e < padded; ++e) order[e] = Format::place(e);
  for (i64 row = 0; row < d.rows(); ++row) {
    const RowPlace place = place_of(d, row);
    const i64 at = (d.task.q_begin + place.query) * q.token_stride + place.head * d.task.q_head_stride;
    const char* from = static_cast<const char*>(q.data) + at * size;
    float* to = d.q + row * kRowStride;
    if (Format::kKeys == 2) {  // pairs meet pairs: as they are
      __builtin_memcpy(to, from, static_cast<unsigned long>(k.row_bytes));
      continue;
    }
    float natural[kLargestHead];
    widen(from, q.is_bf16, q.dim, natural);
    for (i64 e = 0; e < padded; ++e) to[order[e]] = e < q.dim ? natural[e] : 0;
  }
}

/// The task's partial result: out[row][E], maxima, sums, with rows in the order [query][head].
template <class Format>
void write_partial(const Decode& d, const Rows& v) {
  const i64 heads = d.task.kv_heads * d.task.group;
  float *maxima = d.task.partial + d.rows() * v.dim, *sums = maxima + d.rows();
  i64 order[kLargestHead];
  for (i64 e = 0; e < v.dim; ++e) order[e] = Format::place(e);
  for (i64 row = 0; row < d.rows(); ++row) {
    const RowPlace place = place_of(d, row);
    const i64 at = place.query * heads + place.head;
    const float* from = d.out + row * kRowStride;
    float* to = d.task.partial + at * v.dim;
    for (i64 e = 0; e < v.dim; ++e) to[e] = from[order[e]];
    maxima[at] = d.maxima[row];
    sums[at] = d.sums[row];
  }
}

template <class KeyFormat, class ValueFormat>
void run(Decode& d, const Rows& k, const Rows& v) {
  const DecodeTask& task = d.task;
  pack_queries<KeyFormat>(d, k);
  for (i64 row = 0; row < d.rows(); ++row) {
    d.maxima[row] = -kInfinity;
    d.sums[row] = 0;
    for (i64 e = 0; e < kRowStride; ++e) d.out[row * kRowStride + e] = 0;
  }
  for (i64 begin = task.k_begin; begin < task.k_end; begin += task.piece) {
    const i64 keys = least(task.piece, task.k_end - begin);
    any_keys_of_piece<KeyFormat>(d, k, begin, keys);
    softmax_piece<ValueFormat>(d, v, begin, keys);
    any_values_of_piece<ValueFormat>(d, v, begin, keys);
  }
  write_partial<ValueFormat>(d, v);
}

template <class KeyFormat, class Format>
void run_with_keys(Decode& d, const Rows& k, const Rows& v) {
  v.staged ? run<KeyFormat, FloatRows>(d, k, v) : run<KeyFormat, Format>(d, k, v);
}
/// Format: of rows that are not staged.
template <class Format>
void run_format(Decode& d, const Rows& k, const Rows& v) {
  k.staged ? run_with_keys<FloatRows, Format>(d, k, v) : run_with_keys<Format, Format>(d, k, v);
}

/// Where a task's memory lies within its scratch, in float32.
struct Layout {
  i64 q, out, scores, maxima, sums, stage, end;
};
Layout layout_of(i64 rows, i64 qk_dim, i64 v_dim) {
  i64 next = 0;
  const auto take = [&next](i64 count) {
    const i64 at = next;
    next += round_up(count, 16);
    return at;
  };
  return {.q = take(rows * kRowStride),
          .out = take(rows * kRowStride),
          .scores = take(rows * kScoreStride),
          .maxima = take(rows),
          .sums = take(rows),
          .stage = take(kMostTokens * round_up(most(qk_dim, v_dim), kLanes)),
          .end = next};
}

}  // namespace

std::int64_t attention_decode_scratch(std::int64_t rows, std::int64_t qk_dim, std::int64_t v_dim) {
  return layout_of(rows, qk_dim, v_dim).end;
}

void attention_decode(const DecodeTask& task) {
  const i64 group_rows = (task.q_end - task.q_begin) * task.group;
  const Layout l = layout_of(task.kv_heads * group_rows, task.q.dim, task.v.dim);
  Decode d{.task = task,
           .group_rows = group_rows,
           .q = task.scratch + l.q,
           .out = task.scratch + l.out,
           .scores = task.scratch + l.scores,
           .maxima = task.scratch + l.maxima,
           .sums = task.scratch + l.sums,
           .stage = reinterpret_cast<char*>(task.scratch + l.stage)};
  const Rows k = rows_of(task.k, task.k_head_stride, task.kv_heads, task.box->k_begin);
  const Rows v = rows_of(task.v, task.v_head_stride, task.kv_heads, task.box->k_begin);
#if defined(__AVX512BF16__)
  k.is_bf16 ? run_format<PairRows>(d, k, v) : run_format<FloatRows>(d, k, v);
#else
  k.is_bf16 ? run_format<HalfRows>(d, k, v) : run_format<FloatRows>(d, k, v);
#endif
}

}  // namespace rondo::kernels::RONDO_TIER
