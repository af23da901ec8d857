// Backward of blockwise attention: probabilities are recomputed from the scores and the global lse (Dao et
// al. 2022, section B.2; derivation in docs/maths.md). Lanes are queries for S^T, P^T and dS^T; the sums over
// queries read those row by row. Two levels of blocking: kBackwardKeys keys with their gradients stay in the
// second-level cache while the packed query tiles of a chunk of kBackwardQueries stream past them.

#include "rondo/kernels/cpu/attention.tier.h"
#include "rondo/kernels/cpu/attention_parts.tier.h"
#include "rondo/kernels/cpu/gemm.tier.h"

namespace rondo::kernels::RONDO_TIER {
namespace {

/// Packed queries of the task and the keys that pass over them. Words: element.tier.h. Strides are dims
/// rounded up to whole vectors.
template <class Element>
struct Backward {
  using word = typename Element::word;
  const BackwardTask& task;
  const ScoreRule& rule;
  i64 qk_dim, v_dim, qk_stride, v_stride, qk_words, v_words;
  word *q, *dout;      // factors of sums over queries: [query in words][stride]
  word *qt, *doutt;    // factors of sums over the head: [tile][words][64]
  float* dqt;          // [tile][qk_dim][64]
  float *lse, *delta;  // [query]; lse in units of log 2, +infinity: gives nothing
  word *k, *v;         // factors of sums over the head: [key][words]
  word* k_over_keys;   // factor of sums over keys: [key in words][qk_dim]
  float *dk, *dv;      // [key][stride]
  float *p, *ds;       // [key][64]
  word *p_rows,
      *ds_rows;        // the same as factors of sums over queries: [key][64 in words], in rows of 64 words
  word* ds_over_keys;  // factor of sums over keys: [key in words][64]
  word* rows;          // [64][words]
  Part part;
  Ahead ahead;
};

/// The rows of one tile as words. Rows whose lse is -infinity, and those behind the last query, are packed as
/// zeros, so that nothing of them (not even a NaN) reaches the keys.
template <class Element>
HeadView pack_tile(Backward<Element>& w, const HeadView& x, i64 origin, i64 words) {
  for (i64 lane = 0; lane < kTile; ++lane) {
    auto* row = w.rows + lane * words;
    const i64 token = origin + lane;
    if (token < w.task.q_end && w.task.lse_T[token] != -kInfinity) {
      Element::pack_rows(x, token, 1, words, row);
    } else {
      for (i64 d = 0; d < words; ++d) row[d] = 0;
    }
  }
  return {.data = w.rows,
          .token_stride = words * Element::kPerWord,
          .dim = x.dim,
          .is_bf16 = Element::kPerWord == 2};
}

template <class Element>
void pack_queries(Backward<Element>& w) {
  const BackwardTask& task = w.task;
  for (i64 origin = task.q_begin; origin < task.q_end; origin += kTile) {
    const i64 n = origin - task.q_begin;
    for (i64 lane = 0; lane < kTile; ++lane) {
      const i64 token = origin + lane;
      const bool nothing = token >= task.q_end || task.lse_T[token] == -kInfinity;
      w.lse[n + lane] = nothing ? kInfinity : task.lse_T[token] * kLog2E;
      w.delta[n + lane] = nothing ? 0 : task.delta_T[token];
    }
    const HeadView q = pack_tile(w, task.q, origin, w.qk_words);
    transpose_queries<Element>(w.rule, w.rows, w.qk_words, w.qk_words, w.qt + n * w.qk_words);
    Element::pack_over_tokens(q, 0, kTile, w.qk_stride, w.q + n / Element::kPerWord * w.qk_stride);
    const HeadView dout = pack_tile(w, task.dout, origin, w.v_words);
    transpose(Transpose<typename Element::word>{w.rows, w.v_words, kTile, w.v_words, w.doutt + n * w.v_words,
                                                kTile});
    Element::pack_over_tokens(dout, 0, kTile, w.v_stride, w.dout + n / Element::kPerWord * w.v_stride);
  }
  for (i64 n = 0; n < round_up(task.q_end - task.q_begin, kTile) * w.qk_dim; ++n) w.dqt[n] = 0;
}

/// to[d] += factor * from[d]
inline void add_row(const float* from, float factor, i64 count, float* to) {
  i64 d = 0;
  for (; d + kLanes <= count; d += kLanes) store(to + d, load(to + d) + load(from + d) * factor);
  for (; d < count; ++d) to[d] += factor * from[d];
}

/// Adds the task's dQ to the caller's.
template <class Element>
void flush_queries(const Backward<Element>& w) {
  const BackwardTask& task = w.task;
  float* rows = w.p;  // free between parts
  static_assert(kBackwardBlock >= kTile);
  for (i64 origin = task.q_begin; origin < task.q_end; origin += kTile) {
    const float* tile = w.dqt + (origin - task.q_begin) * w.qk_dim;
    // A few columns at a time: [64][64] is what fits.
    for (i64 d = 0; d < w.qk_dim; d += kTile) {
      const i64 columns = least(kTile, w.qk_dim - d);
      transpose(Transpose<float>{tile + d * kTile, kTile, columns, kTile, rows, kTile});
      for (i64 token = origin; token < least(origin + kTile, task.q_end); ++token)
        add_row(rows + (token - origin) * kTile, w.rule.scale, columns,
                task.dq + token * task.dq_token_stride + d);
    }
  }
}

template <class Element>
void load_keys(Backward<Element>& w, i64 token, i64 keys) {
  Element::pack_rows(w.task.k, token, keys, w.qk_words, w.k);
  Element::pack_rows(w.task.v, token, keys, w.v_words, w.v);
  if constexpr (Element::kPerWord > 1)
    Element::pack_over_tokens(w.task.k, token, keys, w.qk_dim, w.k_over_keys);
  for (i64 n = 0; n < keys * w.qk_stride; ++n) w.dk[n] = 0;
  for (i64 n = 0; n < keys * w.v_stride; ++n) w.dv[n] = 0;
}

template <class Element>
void flush_keys(const Backward<Element>& w, i64 token, i64 keys) {
  for (i64 j = 0; j < keys; ++j) {
    add_row(w.dk + j * w.qk_stride, w.rule.scale, w.qk_dim, w.task.dk + (token + j) * w.task.dk_token_stride);
    add_row(w.dv + j * w.v_stride, 1, w.v_dim, w.task.dv + (token + j) * w.task.dv_token_stride);
  }
}

/// The probabilities that met v (after dropout) and dS, of one row of scores.
struct Gradients {
  vec kept, ds;
};

/// What a row of scores is turned into gradients with. kPlain: no softcap, mask or dropout.
template <class Element, bool kPlain>
struct GradientRule {
  const Backward<Element>& w;
  const TileBox& box;
  const float *lse, *delta;  // of the tile's lanes
  float factor;
  DropoutLanes lanes;

  Gradients operator()(i64 j, i64 lane) const {
    const Part& part = w.part;
    vec s = load(w.p + j * kTile + lane) * factor, dp = load(w.ds + j * kTile + lane), slope = splat(1.0f);
    if (!kPlain && w.rule.softcap > 0) {
      const vec t = tanh(s);
      slope = 1.0f - t * t;
      s = t * (w.rule.softcap * kLog2E);
    }
    vec p = exp2<Element::kPrecision>(s - load(lse + lane));
    if (!kPlain && part.masked) p = sees(part, lane, j) ? p : vec{};
    vec kept = p;
    if (!kPlain && w.rule.dropout.threshold != 0) {
      const vec drop = dropout_keeps(w.rule.dropout, lanes, lane, k_position(box, part.k_begin + j)) != 0
                           ? splat(w.rule.dropout.keep_scale)
                           : vec{};
      dp *= drop;
      kept *= drop;
    }
    vec ds = p * (dp - load(delta + lane));
    if (!kPlain) ds *= slope;
    return {kept, ds};
  }
};

/// Scores and dP become the factors of the three sums that follow.
template <bool kPlain, class Element>
void score_gradients(const Backward<Element>& w, const TileBox& box, i64 origin) {
  const i64 n = origin - w.task.q_begin;
  GradientRule<Element, kPlain> gradients{w, box, w.lse + n, w.delta + n, score_factor(w.rule), {}};
  if (!kPlain && w.rule.dropout.threshold != 0) make_dropout_lanes(box, w.task.head, origin, gradients.lanes);
  for (i64 j = 0; j < w.part.keys; j += Element::kPerWord) {
    for (i64 lane = w.part.lane_begin; lane < w.part.lane_end; lane += kLanes) {
      const Gradients first = gradients(j, lane);
      if constexpr (Element::kPerWord == 1) {
        store(w.p_rows + j * kTile + lane, first.kept);
        store(w.ds_rows + j * kTile + lane, first.ds);
      } else {
        const i64 at = j * kTile + lane / 2;
        Element::store_neighbours(w.p_rows + at, first.kept);
        Element::store_neighbours(w.ds_rows + at, first.ds);
        Gradients second{};
        if (j + 1 < w.part.keys) {
          second = gradients(j + 1, lane);
          Element::store_neighbours(w.p_rows + at + kTile, second.kept);
          Element::store_neighbours(w.ds_rows + at + kTile, second.ds);
        }
        store(w.ds_over_keys + j / 2 * kTile + lane, Element::paired(first.ds, second.ds));
      }
    }
  }
}

/// Products of keys with the queries or with dout: [key][64] from sums over the head.
template <class Element>
void over_head(Backward<Element>& w, const typename Element::word* keys, const typename Element::word* lanes,
               i64 words, float* c) {
  const i64 lane0 = w.part.lane_begin;
  product<Into::fresh>(Product2D<Element>{.a = keys,
                                          .a_row = words,
                                          .a_depth = 1,
                                          .b = lanes + lane0,
                                          .b_stride = kTile,
                                          .c = c + lane0,
                                          .c_stride = kTile,
                                          .rows = w.part.keys,
                                          .columns = w.part.lane_end - lane0,
                                          .depth = words,
                                          .ahead = &w.ahead});
}

/// dK or dV from sums over the queries of the part.
template <class Element>
void over_queries(Backward<Element>& w, const typename Element::word* rows,
                  const typename Element::word* queries, i64 stride, float* c) {
  product<Into::sum>(Product2D<Element>{.a = rows + w.part.lane_begin / Element::kPerWord,
                                        .a_row = kTile,
                                        .a_depth = 1,
                                        .b = queries,
                                        .b_stride = stride,
                                        .c = c,
                                        .c_stride = stride,
                                        .rows = w.part.keys,
                                        .columns = stride,
                                        .depth = (w.part.lane_end - w.part.lane_begin) / Element::kPerWord,
                                        .ahead = &w.ahead});
}

/// The five products of one part; k_row counts from the first loaded key.
template <class Element>
void backward_part(Backward<Element>& w, const TileBox& box, i64 origin, i64 k_row) {
  const i64 n = origin - w.task.q_begin, lane0 = w.part.lane_begin, lanes = w.part.lane_end - lane0;
  over_head(w, w.k + k_row * w.qk_words, w.qt + n * w.qk_words, w.qk_words, w.p);
  over_head(w, w.v + k_row * w.v_words, w.doutt + n * w.v_words, w.v_words, w.ds);
  if (w.part.masked || w.rule.softcap > 0 || w.rule.dropout.threshold != 0) {
    score_gradients<false>(w, box, origin);
  } else {
    score_gradients<true>(w, box, origin);
  }
  const i64 query = (n + lane0) / Element::kPerWord;
  over_queries(w, w.p_rows, w.dout + query * w.v_stride, w.v_stride, w.dv + k_row * w.v_stride);
  over_queries(w, w.ds_rows, w.q + query * w.qk_stride, w.qk_stride, w.dk + k_row * w.qk_stride);
  product<Into::sum>(Product2D<Element>{.a = w.k_over_keys + k_row / Element::kPerWord * w.qk_dim,
                                        .a_row = 1,
                                        .a_depth = w.qk_dim,
                                        .b = w.ds_over_keys + lane0,
                                        .b_stride = kTile,
                                        .c = w.dqt + n * w.qk_dim + lane0,
                                        .c_stride = kTile,
                                        .rows = w.qk_dim,
                                        .columns = lanes,
                                        .depth = words_of<Element>(w.part.keys),
                                        .ahead = &w.ahead});
}

/// What is packed of the query tile at n comes next.
template <class Element>
Ahead queries_ahead(const Backward<Element>& w, i64 n) {
  constexpr i64 kBytes = 512, kWord = sizeof(float);
  const i64 word_row = n / Element::kPerWord, rows = kTile * most(w.qk_dim, w.v_dim) * kWord / kBytes;
  const auto block = [](const void* begin) { return Ahead::Rows{begin, kBytes, kBytes}; };
  return {.source = {block(w.qt + n * w.qk_words), block(w.doutt + n * w.v_words),
                     block(w.dout + word_row * w.v_stride), block(w.q + word_row * w.qk_stride),
                     block(w.dqt + n * w.qk_dim)},
          .sources = 5,
          .next = 0,
          .end = 5 * rows};
}

/// One tile, kBackwardKeys keys at a time.
template <class Element>
void backward_tile(Backward<Element>& w, i64 tile, const Extent& extent) {
  const TileBox& box = w.rule.tiles[tile];
  const BackwardTask& task = w.task;
  for (i64 first = extent.k_begin; first < extent.k_end; first += kBackwardKeys) {
    const i64 loaded = least(kBackwardKeys, extent.k_end - first);
    load_keys(w, box.k_begin + first, loaded);
    for (i64 origin = task.q_begin; origin < task.q_end; origin += kTile) {
      if (task.meanwhile != nullptr) task.meanwhile(task.meanwhile_self);
      w.ahead = queries_ahead(w, origin + kTile - task.q_begin);
      for (i64 k0 = first; k0 < first + loaded; k0 += kBackwardBlock) {
        const i64 k1 = least(k0 + kBackwardBlock, first + loaded);
        Extent seen = visible_extent(box, {origin, least(origin + kTile, task.q_end), k0, k1});
        if (seen.empty()) continue;
        seen.k_begin -= (seen.k_begin - first) % Element::kPerWord;
        make_part(box, seen, origin, w.part);
        backward_part(w, box, origin, seen.k_begin - first);
      }
    }
    const i64 key_end = box.k_begin + first + loaded;
    if (task.take_turn != nullptr) task.take_turn(task.turn, key_end);
    flush_keys(w, box.k_begin + first, loaded);
    const bool last = first + loaded == extent.k_end;
    if (task.give_turn != nullptr) task.give_turn(task.turn, tile, last ? kAllKeys : key_end);
  }
}

/// Lays the arrays of a task out in its scratch; attention_backward_scratch counts them.
template <class Element>
Backward<Element> lay_out(const BackwardTask& task) {
  const i64 rows = round_up(task.q_end - task.q_begin, kTile), qk = task.q.dim, v = task.v.dim;
  const i64 qk_stride = round_up(qk, kLanes), v_stride = round_up(v, kLanes);
  const i64 qk_words = words_of<Element>(qk), v_words = words_of<Element>(v);
  Scratch scratch{task.scratch};
  const auto words = [&](i64 count) { return scratch.take_words<Element>(count); };
  Backward<Element> w{.task = task,
                      .rule = *task.rule,
                      .qk_dim = qk,
                      .v_dim = v,
                      .qk_stride = qk_stride,
                      .v_stride = v_stride,
                      .qk_words = qk_words,
                      .v_words = v_words,
                      .q = words(words_of<Element>(rows) * qk_stride),
                      .dout = words(words_of<Element>(rows) * v_stride),
                      .qt = words(rows * qk_words),
                      .doutt = words(rows * v_words),
                      .dqt = scratch.take(rows * qk),
                      .lse = scratch.take(rows),
                      .delta = scratch.take(rows),
                      .k = words(kBackwardKeys * qk_words),
                      .v = words(kBackwardKeys * v_words),
                      .k_over_keys = words(Element::kPerWord > 1 ? kBackwardKeys / 2 * qk : 0),
                      .dk = scratch.take(kBackwardKeys * qk_stride),
                      .dv = scratch.take(kBackwardKeys * v_stride),
                      .p = scratch.take(kBackwardBlock * kTile),
                      .ds = scratch.take(kBackwardBlock * kTile),
                      .p_rows = nullptr,
                      .ds_rows = nullptr,
                      .ds_over_keys = words(Element::kPerWord > 1 ? kBackwardBlock / 2 * kTile : 0),
                      .rows = words(kTile * most(qk_words, v_words)),
                      .part = {},
                      .ahead = {}};
  w.p_rows = reinterpret_cast<typename Element::word*>(w.p);
  w.ds_rows = reinterpret_cast<typename Element::word*>(w.ds);
  if constexpr (Element::kPerWord == 1) w.k_over_keys = w.k, w.ds_over_keys = w.ds_rows;
  return w;
}

template <class Element>
void backward_task(const BackwardTask& task) {
  Backward<Element> w = lay_out<Element>(task);
  bool packed = false;
  for (i64 n = 0; n < w.rule.tile_count; ++n) {
    const TileBox& box = w.rule.tiles[n];
    const Extent seen = visible_extent(box, {task.q_begin, task.q_end, 0, box.k_end - box.k_begin});
    if (seen.empty()) continue;
    if (!packed) pack_queries(w);
    packed = true;
    backward_tile(w, n, seen);
  }
  if (packed) flush_queries(w);
}

}  // namespace

// In float32 words, which pairs of bfloat16 never exceed.
std::int64_t attention_backward_scratch(std::int64_t qk_dim, std::int64_t v_dim, std::int64_t queries) {
  const i64 rows = round_up(least(queries, kBackwardQueries), kTile);
  const i64 qk_stride = round_up(qk_dim, 16), v_stride = round_up(v_dim, 16);
  return rows * (3 * qk_stride + 2 * v_stride + 2) + 2 * kBackwardKeys * (qk_stride + v_stride) +
         2 * kBackwardBlock * kTile + kTile * (qk_stride + v_stride);
}

void attention_backward(const BackwardTask& task) {
  with_element(task.q, [&]<class Element>(Element) { backward_task<Element>(task); });
}

}  // namespace rondo::kernels::RONDO_TIER
