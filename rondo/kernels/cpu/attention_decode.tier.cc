// Attention of a few queries over many keys, where the time goes into reading keys and values: each is read
// once, in the order of memory (token by token, all heads of it), for all queries and heads that need it.
// A piece of keys at a time: scores of all rows, their softmax (online, as in Milakov, Gimelshein 2018), then
// the piece's values. A row is one query of one query head.

#include "rondo/kernels/cpu/attention.tier.h"
#include "rondo/kernels/cpu/decode_parts.tier.h"

namespace rondo::kernels::RONDO_TIER {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr i64 kBlock = 16;  ///< keys that are worked on together; whole vectors

inline i64 least(i64 a, i64 b) { return a < b ? a : b; }
inline i64 most(i64 a, i64 b) { return a > b ? a : b; }
inline i64 round_up(i64 count, i64 multiple) { return (count + multiple - 1) / multiple * multiple; }

/// Keys or values as the loops read them: `units` registers for each row.
struct Rows {
  const char* data;  ///< of key 0 of the tile, first head
  i64 token_bytes, head_bytes;
  i64 dim, row_bytes, units;
  bool
      staged;  ///< rows that are no whole registers are copied (as float32, with zeros behind) block by block
  bool is_bf16;
};

template <class Format>
Rows rows_of(const HeadView& x, i64 head_stride, i64 first_token) {
  const i64 size = x.is_bf16 ? 2 : 4;
  const bool staged = x.dim * size % kRegisterBytes != 0;
  return {.data = static_cast<const char*>(x.data) + first_token * x.token_stride * size,
          .token_bytes = x.token_stride * size,
          .head_bytes = head_stride * size,
          .dim = x.dim,
          .row_bytes = x.dim * size,
          .units = staged ? (x.dim + kLanes - 1) / kLanes : x.dim * size / kRegisterBytes,
          .staged = staged,
          .is_bf16 = x.is_bf16};
}

/// Memory of a task.
struct Decode {
  const DecodeTask& task;
  i64 queries, group_rows;  ///< rows that read one key/value head
  i64 q_stride, out_stride, score_stride;
  float* q;       // [row][q_stride], in the order of the keys' format
  float* out;     // [row][out_stride], in the order of the values' format
  float* scores;  // [row][score_stride]
  float *maxima, *sums;
  char* stage;  // [kBlock][staged row]
};

/// Rows of a block where they can be read as whole registers: in place, or copied.
struct Block {
  const char* data;
  i64 stride;
};
Block block_of(const Rows& x, i64 head, i64 key, i64 count, char* stage) {
  const char* data = x.data + key * x.token_bytes + head * x.head_bytes;
  if (!x.staged && count == kBlock) return {data, x.token_bytes};
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
  __builtin_memset(stage + count * stride, 0, static_cast<unsigned long>((kBlock - count) * stride));
  return {stage, stride};
}

template <class Format, int kRows, int kAhead>
void score_rows(const float* q, i64 q_stride, const Block& keys, i64 units, float* scores, i64 score_stride) {
  constexpr int kKeys = kLanes / kRows, kTogether = kKeys < 4 ? kKeys : 4;
  for (i64 j = 0; j < kBlock; j += kKeys) {
    vec sums[kLanes];
#pragma GCC unroll 16
    for (int first = 0; first < kKeys; first += kTogether) {
      const char* row = keys.data + (j + first) * keys.stride;
      vec sum[kRows][kTogether] = {};
      for (i64 n = 0; n < units; ++n) {
        typename Format::Unit unit[kTogether];
#pragma GCC unroll 16
        for (int i = 0; i < kTogether; ++i) {
          const char* p = row + i * keys.stride + n * kRegisterBytes;
          if (kAhead != 0) __builtin_prefetch(p + kAhead * keys.stride, 0, 3);
          unit[i] = Format::load_unit(p);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
          for (int i = 0; i < kTogether; ++i)
            sum[r][i] = Format::dot(sum[r][i], q + r * q_stride + n * Format::kQuery * kLanes, unit[i]);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
        for (int i = 0; i < kTogether; ++i) sums[r * kKeys + first + i] = sum[r][i];
    }
    float lanes[kLanes];
    store(lanes, sums_of<kLanes / 2>(sums));
    for (int r = 0; r < kRows; ++r)
      __builtin_memcpy(scores + r * score_stride + j, lanes + r * kKeys, kKeys * sizeof(float));
  }
}

template <class Format>
void score_block(const Decode& d, i64 head, const Block& keys, i64 units, i64 at) {
  const float* q = d.q + head * d.group_rows * d.q_stride;
  float* scores = d.scores + head * d.group_rows * d.score_stride + at;
  for (i64 row = 0; row < d.group_rows;) {
    const i64 left = d.group_rows - row;
    const float* from = q + row * d.q_stride;
    float* to = scores + row * d.score_stride;
    if (left >= 4) {
      score_rows<Format, 4, 0>(from, d.q_stride, keys, units, to, d.score_stride);
      row += 4;
    } else if (left >= 2) {
      score_rows<Format, 2, 0>(from, d.q_stride, keys, units, to, d.score_stride);
      row += 2;
    } else {
      score_rows<Format, 1, 0>(from, d.q_stride, keys, units, to, d.score_stride);
      row += 1;
    }
  }
}

template <class Format, int kRows, int kKeys>
void add_values(const float* p, i64 p_stride, const Block& values, i64 units, float* out, i64 out_stride) {
  constexpr int kVectors = Format::kVectors;
  for (i64 j = 0; j < kBlock; j += kKeys) {
    const char* row = values.data + j * values.stride;
    vec weight[kRows][kKeys];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int i = 0; i < kKeys; ++i) weight[r][i] = splat(p[r * p_stride + j + i]);
    for (i64 n = 0; n < units; ++n) {
      float* to = out + n * kVectors * kLanes;
      vec sum[kRows][kVectors];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r)
        for (int part = 0; part < kVectors; ++part) sum[r][part] = load(to + r * out_stride + part * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kKeys; ++i) {
        const typename Format::Unit unit = Format::load_unit(row + i * values.stride + n * kRegisterBytes);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
          for (int part = 0; part < kVectors; ++part) sum[r][part] += weight[r][i] * Format::part(unit, part);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r)
        for (int part = 0; part < kVectors; ++part) store(to + r * out_stride + part * kLanes, sum[r][part]);
    }
  }
}

template <class Format>
void value_block(const Decode& d, i64 head, const Block& values, i64 units, i64 at) {
  constexpr bool kWide = kRegisters == 32;
  const float* p = d.scores + head * d.group_rows * d.score_stride + at;
  float* out = d.out + head * d.group_rows * d.out_stride;
  for (i64 row = 0; row < d.group_rows;) {
    const i64 left = d.group_rows - row;
    const float* from = p + row * d.score_stride;
    float* to = out + row * d.out_stride;
    if (left >= 4) {
      add_values<Format, 4, kWide ? 4 : 2>(from, d.score_stride, values, units, to, d.out_stride);
      row += 4;
    } else if (left >= 2) {
      add_values<Format, 2, kWide ? 8 : 4>(from, d.score_stride, values, units, to, d.out_stride);
      row += 2;
    } else {
      add_values<Format, 1, 8>(from, d.score_stride, values, units, to, d.out_stride);
      row += 1;
    }
  }
}

/// What of the piece's scores a row sees: [begin, end), counted from the piece's first key.
struct Seen {
  i64 begin, end;
};

/// Products become probabilities under the row's running maximum; unseen ones become 0. Returns what the sums
/// so far are to be multiplied by.
float softmax_row(const ScoreRule& rule, float* scores, i64 padded, const Seen& seen, float& maximum,
                  float& sum) {
  const float cap = rule.softcap, factor = cap > 0 ? rule.scale / cap : rule.scale * kLog2E;
  static constexpr i32 kOrder[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const ivec order = load(kOrder);
  const ivec first = splat(static_cast<i32>(seen.begin)), last = splat(static_cast<i32>(seen.end) - 1);
  vec top = splat(-kInfinity);
  for (i64 j = 0; j < padded; j += kLanes) {
    const ivec key = order + static_cast<i32>(j);
    vec x = load(scores + j) * factor;
    if (cap > 0) x = tanh(x) * (cap * kLog2E);
    x = (key >= first) & (key <= last) ? x : splat(-kInfinity);
    top = max(x, top);
    store(scores + j, x);
  }
  const float old = maximum;
  const float lane = largest_lane(top);
  maximum = lane > old ? lane : old;
  const float shift = maximum == -kInfinity ? 0 : maximum;  // nothing seen: exp(-inf - 0), not -inf + inf
  vec total{};
  for (i64 j = 0; j < padded; j += kLanes) {
    const vec p = exp2(load(scores + j) - shift);
    total += p;
    store(scores + j, p);
  }
  float factors[kLanes];
  store(factors, exp2(splat(old - shift)));
  sum = sum * factors[0] + sum_of_lanes(total);
  return factors[0];
}

void softmax_piece(Decode& d, i64 piece_begin, i64 keys, i64 padded) {
  const TileBox& box = *d.task.box;
  const i64 group = d.task.group;
  for (i64 head = 0; head < d.task.kv_heads; ++head) {
    for (i64 n = 0; n < d.group_rows; ++n) {
      const i64 row = head * d.group_rows + n, i = d.task.q_begin + n / group - box.q_begin;
      const Seen seen{most(0, least(keys, i + box.lo - piece_begin)),
                      most(0, least(keys, i + box.hi + 1 - piece_begin))};
      const float factor = softmax_row(*d.task.rule, d.scores + row * d.score_stride, padded, seen,
                                       d.maxima[row], d.sums[row]);
      float* out = d.out + row * d.out_stride;
      for (i64 e = 0; e < d.out_stride; e += kLanes) store(out + e, load(out + e) * factor);
    }
  }
}

template <class Format>
void keys_of_piece(Decode& d, const Rows& k, i64 begin, i64 keys) {
  for (i64 at = 0; at < keys; at += kBlock) {
    const i64 count = least(kBlock, keys - at);
    for (i64 head = 0; head < d.task.kv_heads; ++head) {
      const Block block = block_of(k, head, begin + at, count, d.stage);
      if (k.staged) {
        score_block<FloatRows>(d, head, block, k.units, at);
      } else {
        score_block<Format>(d, head, block, k.units, at);
      }
    }
  }
}

template <class Format>
void values_of_piece(Decode& d, const Rows& v, i64 begin, i64 keys) {
  for (i64 at = 0; at < keys; at += kBlock) {
    const i64 count = least(kBlock, keys - at);
    for (i64 head = 0; head < d.task.kv_heads; ++head) {
      const Block block = block_of(v, head, begin + at, count, d.stage);
      if (v.staged) {
        value_block<FloatRows>(d, head, block, v.units, at);
      } else {
        value_block<Format>(d, head, block, v.units, at);
      }
    }
  }
}

/// Row `row` of the queries: its token (counted from the task's first) and its query head.
struct RowPlace {
  i64 query, head;
};
RowPlace place_of(const Decode& d, i64 row) {
  const i64 n = row % d.group_rows;
  return {n / d.task.group, row / d.group_rows * d.task.group + n % d.task.group};
}

void pack_queries(Decode& d, const Rows& k, bool pairs) {
  const HeadView& q = d.task.q;
  const i64 size = q.is_bf16 ? 2 : 4;
  for (i64 row = 0; row < d.task.kv_heads * d.group_rows; ++row) {
    const RowPlace place = place_of(d, row);
    const char* from =
        static_cast<const char*>(q.data) +
        ((d.task.q_begin + place.query) * q.token_stride + place.head * d.task.q_head_stride) * size;
    float* to = d.q + row * d.q_stride;
    if (pairs && !k.staged) {
      __builtin_memcpy(to, from, static_cast<unsigned long>(q.dim * 2));
      continue;
    }
    float natural[256];
    widen(from, q.is_bf16, q.dim, natural);
    const bool halves = q.is_bf16 && !k.staged;
    for (i64 n = 0; n < d.q_stride; ++n) {
      const i64 block = n / (2 * kLanes) * 2 * kLanes, within = n % (2 * kLanes);
      const i64 source = halves ? block + within % kLanes * 2 + within / kLanes : n;
      to[n] = source < q.dim ? natural[source] : 0;
    }
  }
}

/// The task's partial result: out[row][E], maxima, sums, with rows in the order [query][head].
void write_partial(const Decode& d, const Rows& v) {
  const DecodeTask& task = d.task;
  const i64 heads = task.kv_heads * task.group, rows = d.queries * heads;
  float *maxima = task.partial + rows * v.dim, *sums = maxima + rows;
  const bool halves = v.is_bf16 && !v.staged;
  for (i64 row = 0; row < rows; ++row) {
    const RowPlace place = place_of(d, row);
    const i64 at = place.query * heads + place.head;
    const float* from = d.out + row * d.out_stride;
    float* to = task.partial + at * v.dim;
    for (i64 e = 0; e < v.dim; ++e) {
      const i64 block = e / (2 * kLanes) * 2 * kLanes, within = e % (2 * kLanes);
      to[e] = from[halves ? block + within % 2 * kLanes + within / 2 : e];
    }
    maxima[at] = d.maxima[row];
    sums[at] = d.sums[row];
  }
}

template <class KeyFormat, class ValueFormat>
void run(const DecodeTask& task, Decode& d, const Rows& k, const Rows& v) {
  for (i64 row = 0; row < task.kv_heads * d.group_rows; ++row) {
    d.maxima[row] = -kInfinity;
    d.sums[row] = 0;
    for (i64 e = 0; e < d.out_stride; ++e) d.out[row * d.out_stride + e] = 0;
  }
  for (i64 begin = task.k_begin; begin < task.k_end; begin += task.piece) {
    const i64 keys = least(task.piece, task.k_end - begin);
    keys_of_piece<KeyFormat>(d, k, begin, keys);
    softmax_piece(d, begin, keys, round_up(keys, kBlock));
    values_of_piece<ValueFormat>(d, v, begin, keys);
  }
  write_partial(d, v);
}

/// Offsets of a task's scratch, in float32.
struct Layout {
  i64 q_stride, out_stride, score_stride;
  i64 q, out, scores, maxima, sums, stage, end;
};
Layout layout_of(i64 rows, i64 qk_dim, i64 v_dim, i64 piece) {
  Layout l{
      .q_stride = round_up(qk_dim, kLanes), .out_stride = round_up(v_dim, kLanes), .score_stride = piece};
  i64 next = 0;
  const auto take = [&next](i64 count) {
    const i64 at = next;
    next += round_up(count, 16);
    return at;
  };
  l.q = take(rows * l.q_stride);
  l.out = take(rows * l.out_stride);
  l.scores = take(rows * l.score_stride);
  l.maxima = take(rows);
  l.sums = take(rows);
  l.stage = take(kBlock * round_up(most(qk_dim, v_dim), kLanes));
  l.end = next;
  return l;
}

}  // namespace

std::int64_t attention_decode_scratch(std::int64_t rows, std::int64_t qk_dim, std::int64_t v_dim,
                                      std::int64_t piece) {
  return layout_of(rows, qk_dim, v_dim, piece).end;
}

void attention_decode(const DecodeTask& task) {
  const i64 queries = task.q_end - task.q_begin, group_rows = queries * task.group;
  const Layout l = layout_of(task.kv_heads * group_rows, task.q.dim, task.v.dim, task.piece);
  Decode d{.task = task,
           .queries = queries,
           .group_rows = group_rows,
           .q_stride = l.q_stride,
           .out_stride = l.out_stride,
           .score_stride = l.score_stride,
           .q = task.scratch + l.q,
           .out = task.scratch + l.out,
           .scores = task.scratch + l.scores,
           .maxima = task.scratch + l.maxima,
           .sums = task.scratch + l.sums,
           .stage = reinterpret_cast<char*>(task.scratch + l.stage)};
  const Rows k = rows_of<FloatRows>(task.k, task.k_head_stride, task.box->k_begin);
  const Rows v = rows_of<FloatRows>(task.v, task.v_head_stride, task.box->k_begin);
#if defined(__AVX512BF16__)
  pack_queries(d, k, task.k.is_bf16);
  if (task.k.is_bf16) return run<PairRows, HalfRows>(task, d, k, v);
#else
  pack_queries(d, k, false);
  if (task.k.is_bf16) return run<HalfRows, HalfRows>(task, d, k, v);
#endif
  run<FloatRows, FloatRows>(task, d, k, v);
}

}  // namespace rondo::kernels::RONDO_TIER
