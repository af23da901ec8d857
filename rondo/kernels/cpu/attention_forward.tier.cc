// Forward of blockwise attention: online softmax (Milakov, Gimelshein 2018; Dao et al. 2022) with one query
// per lane, so that running maxima and sums are plain vectors: S^T[j][i] = k_j · q_i, O^T[e][i] = sum_j
// v_j[e] P^T[j][i].

#include "rondo/kernels/cpu/attention.tier.h"
#include "rondo/kernels/cpu/attention_parts.tier.h"
#include "rondo/kernels/cpu/gemm.tier.h"

namespace rondo::kernels::RONDO_TIER {
namespace {

/// Memory of a task and what it works on now. Words: element.tier.h.
template <class Element>
struct Forward {
  using word = typename Element::word;
  const ForwardTask& task;
  const ScoreRule& rule;
  i64 qk_words;   // of a row of q or k
  word* qt;       // [tile][qk_words][64]
  word* k;        // [key][qk_words]
  word* v;        // [key in words][E]
  float* scores;  // [key][64]
  word* p;        // [key in words][64]: probabilities, over the scores
  float* factor;  // [64]: what the sums so far are multiplied by
  float* top;     // [64]: the largest product of the part
  Part part;
  Ahead ahead;
};

/// S^T of the part: products, softcap and mask, and the largest of each column. Returns what makes them
/// scores in units of log 2.
template <class Element>
float forward_scores(Forward<Element>& f, const typename Element::word* qt, i64 k_row) {
  const Part& part = f.part;
  const i64 lane0 = part.lane_begin;
  for (i64 lane = lane0; lane < part.lane_end; lane += kLanes) store(f.top + lane, splat(-kInfinity));
  const bool plain = f.rule.softcap <= 0 && !part.masked;
  const Product2D<Element> scores{.a = f.k + k_row * f.qk_words,
                                  .a_row = f.qk_words,
                                  .a_depth = 1,
                                  .b = qt + lane0,
                                  .b_stride = kTile,
                                  .c = f.scores + lane0,
                                  .c_stride = kTile,
                                  .rows = part.keys,
                                  .columns = part.lane_end - lane0,
                                  .depth = f.qk_words,
                                  .ahead = &f.ahead};
  const float factor = score_factor(f.rule), cap = f.rule.softcap;
  if (plain) {
    product<Into::fresh_maxima>(scores, f.top + lane0);
    return factor;
  }
  product<Into::fresh>(scores);
  for (i64 lane = lane0; lane < part.lane_end; lane += kLanes) {
    vec top = load(f.top + lane);
    for (i64 j = 0; j < part.keys; ++j) {
      float* s = f.scores + j * kTile + lane;
      vec x = load(s);
      if (cap > 0) x = tanh(x * factor) * (cap * kLog2E);
      if (part.masked) x = sees(part, lane, j) ? x : splat(-kInfinity);
      top = max(x, top);
      store(s, x);
    }
    store(f.top + lane, top);
  }
  return cap > 0 ? 1.0f : factor;
}

/// Probabilities of some lanes and their sums. Pairs are of two keys, rounded, and what is summed is the
/// rounded ones: otherwise the result would be biased.
template <class Element, int kColumns, bool kFinite>
void probabilities(Forward<Element>& f, i64 lane, float factor, const vec (&shift)[kColumns],
                   vec (&sum)[kColumns]) {
  const float* scores = f.scores + lane;
  const auto probability = [&](i64 j, int n) {
    return exp2<Element::kPrecision, kFinite>(load(scores + j * kTile + n * kLanes) * factor - shift[n]);
  };
  constexpr i64 kStep = Element::kPerWord;
  for (i64 j = 0; j + kStep <= f.part.keys; j += kStep) {
    for (int n = 0; n < kColumns; ++n) {
      auto* out = f.p + j / kStep * kTile + lane + n * kLanes;
      if constexpr (kStep == 1) {
        const vec p = probability(j, n);
        store(out, p);
        sum[n] += p;
      } else {
        const uvec pair = Element::paired(probability(j, n), probability(j + 1, n));
        store(out, pair);
        sum[n] = Element::add_pairs(sum[n], pair);
      }
    }
  }
  if constexpr (kStep == 2) {
    if (f.part.keys % 2 == 0) return;
    for (int n = 0; n < kColumns; ++n) {
      const uvec pair = Element::paired(probability(f.part.keys - 1, n), vec{});
      store(f.p + f.part.keys / 2 * kTile + lane + n * kLanes, pair);
      sum[n] = Element::add_pairs(sum[n], pair);
    }
  }
}

/// Scores become exp(score - new maximum); updates the running maximum and sum and sets `factor`.
template <class Element, int kColumns>
void forward_softmax(Forward<Element>& f, i64 lane, float factor, float* maxima, float* sums) {
  vec old[kColumns], top[kColumns], shift[kColumns], sum[kColumns];
  for (int n = 0; n < kColumns; ++n) {
    old[n] = load(maxima + lane + n * kLanes);
    top[n] = max(load(f.top + lane + n * kLanes) * factor, old[n]);
    // A row that has seen nothing: exp(-inf - 0), not -inf + inf.
    shift[n] = top[n] == -kInfinity ? vec{} : top[n];
    sum[n] = vec{};
  }
  if (f.part.masked) {
    probabilities<Element, kColumns, false>(f, lane, factor, shift, sum);
  } else {
    probabilities<Element, kColumns, true>(f, lane, factor, shift, sum);
  }
  for (int n = 0; n < kColumns; ++n) {
    const i64 at = lane + n * kLanes;
    const vec keep = exp2(old[n] - shift[n]);
    store(f.factor + at, keep);
    store(maxima + at, top[n]);
    store(sums + at, load(sums + at) * keep + sum[n]);
  }
}

/// Probabilities meet v with some dropped; their sums are those of all. What is kept is not rounded again:
/// out is scaled instead (scale_lanes).
template <class Element>
void forward_dropout(Forward<Element>& f, const TileBox& box, i64 origin) {
  DropoutLanes lanes;
  make_dropout_lanes(box, f.task.head, origin, lanes);
  const auto keeps = [&](i64 j, i64 lane) {
    return dropout_keeps(f.rule.dropout, lanes, lane, k_position(box, f.part.k_begin + j));
  };
  for (i64 j = 0; j < f.part.keys; j += Element::kPerWord) {
    for (i64 lane = f.part.lane_begin; lane < f.part.lane_end; lane += kLanes) {
      u32* p = reinterpret_cast<u32*>(f.p) + j / Element::kPerWord * kTile + lane;
      uvec mask = keeps(j, lane);
      if constexpr (Element::kPerWord == 2) mask = (mask & 0xffffu) | (keeps(j + 1, lane) & 0xffff0000u);
      store(p, load(p) & mask);
    }
  }
}

/// rows[n][lane] *= scale for the lanes of the part.
inline void scale_lanes(const Part& part, float scale, i64 count, float* rows) {
  for (i64 n = 0; n < count; ++n)
    for (i64 lane = part.lane_begin; lane < part.lane_end; lane += kLanes)
      store(rows + n * kTile + lane, load(rows + n * kTile + lane) * scale);
}

/// Adds the part of one query tile to its state: O^T[E][64], maxima[64], sums[64].
template <class Element>
void forward_part(Forward<Element>& f, const TileBox& box, i64 origin, i64 k_row) {
  const i64 index = (origin - f.task.q_begin) / kTile, v_dim = f.task.v.dim;
  float* out = f.task.state + index * (v_dim + 2) * kTile;
  float *maxima = out + v_dim * kTile, *sums = maxima + kTile;
  const float factor = forward_scores(f, f.qt + index * f.qk_words * kTile, k_row);
  i64 lane = f.part.lane_begin;
  for (; lane + 4 * kLanes <= f.part.lane_end; lane += 4 * kLanes)
    forward_softmax<Element, 4>(f, lane, factor, maxima, sums);
  for (; lane < f.part.lane_end; lane += kLanes) forward_softmax<Element, 1>(f, lane, factor, maxima, sums);
  const bool drops = f.rule.dropout.threshold != 0;
  if (drops) {
    forward_dropout(f, box, origin);
    scale_lanes(f.part, 1 / f.rule.dropout.keep_scale, 1, f.factor);
  }
  const i64 lane0 = f.part.lane_begin;
  product<Into::scaled>(Product2D<Element>{.a = f.v + k_row / Element::kPerWord * v_dim,
                                           .a_row = 1,
                                           .a_depth = v_dim,
                                           .b = f.p + lane0,
                                           .b_stride = kTile,
                                           .c = out + lane0,
                                           .c_stride = kTile,
                                           .rows = v_dim,
                                           .columns = f.part.lane_end - lane0,
                                           .depth = words_of<Element>(f.part.keys),
                                           .ahead = &f.ahead},
                        f.factor + lane0);
  if (drops) scale_lanes(f.part, f.rule.dropout.keep_scale, v_dim, out);
}

/// Keys [begin, end) will be packed next. They come as late as there is time: earlier ones would make room
/// again before they are used.
inline Ahead keys_ahead(const ForwardTask& task, i64 begin, i64 end) {
  const auto rows = [&](const HeadView& x) {
    const i64 size = x.is_bf16 ? 2 : 4;
    return Ahead::Rows{row_of(x, begin), x.token_stride * size, x.dim * size};
  };
  const i64 tiles = (task.q_end - task.q_begin) / kTile, all = 2 * most(0, end - begin);
  const i64 steps = tiles * (kTile / (kMostColumns * kLanes)) * ((kForwardKeys + task.v.dim) / kMostRows);
  return {.source = {rows(task.k), rows(task.v)}, .sources = 2, .next = -most(0, steps - all), .end = all};
}

/// All key blocks of one tile, each packed once for all query tiles of the task.
template <class Element>
void forward_tile(Forward<Element>& f, const TileBox& box, const Extent& extent) {
  const ForwardTask& task = f.task;
  for (i64 k0 = extent.k_begin; k0 < extent.k_end; k0 += kForwardKeys) {
    if (task.meanwhile != nullptr) task.meanwhile(task.meanwhile_self);
    const i64 keys = least(kForwardKeys, extent.k_end - k0);
    Element::pack_rows(task.k, box.k_begin + k0, keys, f.qk_words, f.k);
    Element::pack_over_tokens(task.v, box.k_begin + k0, keys, task.v.dim, f.v);
    const i64 next = k0 + keys;
    f.ahead = keys_ahead(task, box.k_begin + next, box.k_begin + least(next + kForwardKeys, extent.k_end));
    for (i64 origin = task.q_begin; origin < task.q_end; origin += kTile) {
      Extent seen = visible_extent(box, {origin, least(origin + kTile, task.q_end), k0, k0 + keys});
      if (seen.empty()) continue;
      seen.k_begin -= (seen.k_begin - k0) % Element::kPerWord;
      make_part(box, seen, origin, f.part);
      forward_part(f, box, origin, seen.k_begin - k0);
    }
  }
}

static_assert(kTile <= kForwardKeys, "pack_queries borrows the scratch of a key block");

template <class Element>
void pack_queries(Forward<Element>& f) {
  const HeadView& q = f.task.q;
  for (i64 origin = f.task.q_begin; origin < f.task.q_end; origin += kTile) {
    const i64 count = least(kTile, f.task.q_end - origin);
    auto* rows = f.k;  // K's scratch is free until the first key block
    Element::pack_rows(q, origin, count, f.qk_words, rows);
    for (i64 n = count * f.qk_words; n < kTile * f.qk_words; ++n) rows[n] = 0;
    transpose_queries<Element>(f.rule, rows, f.qk_words, f.qk_words,
                               f.qt + (origin - f.task.q_begin) * f.qk_words);
  }
}

template <class Element>
void forward_task(const ForwardTask& task) {
  Scratch scratch{task.scratch};
  const i64 qk_words = words_of<Element>(task.q.dim);
  Forward<Element> f{.task = task,
                     .rule = *task.rule,
                     .qk_words = qk_words,
                     .qt = scratch.take_words<Element>(round_up(task.q_end - task.q_begin, kTile) * qk_words),
                     .k = scratch.take_words<Element>(kForwardKeys * qk_words),
                     .v = scratch.take_words<Element>(words_of<Element>(kForwardKeys) * task.v.dim),
                     .scores = scratch.take(kForwardKeys * kTile),
                     .p = nullptr,
                     .factor = scratch.take(kTile),
                     .top = scratch.take(kTile),
                     .part = {},
                     .ahead = {}};
  f.p = reinterpret_cast<typename Element::word*>(f.scores);
  bool packed = false;
  for (i64 n = 0; n < f.rule.tile_count; ++n) {
    const TileBox& box = f.rule.tiles[n];
    const Extent seen = visible_extent(box, {task.q_begin, task.q_end, 0, box.k_end - box.k_begin});
    if (seen.empty()) continue;
    if (!packed) pack_queries(f);
    packed = true;
    forward_tile(f, box, seen);
  }
}

}  // namespace

std::int64_t attention_forward_scratch(std::int64_t qk_dim, std::int64_t v_dim, std::int64_t queries) {
  return round_up(queries, kTile) * qk_dim + kForwardKeys * (qk_dim + v_dim) + kForwardKeys * kTile +
         2 * kTile;
}

void attention_forward(const ForwardTask& task) {
  with_element(task.q, [&]<class E>(E) { forward_task<E>(task); });
}

}  // namespace rondo::kernels::RONDO_TIER
