// Forward of blockwise attention: online softmax (Milakov, Gimelshein 2018; Dao et al. 2022) with one query
// per lane, so that running maxima and sums are plain vectors: S^T[j][i] = k_j · q_i, O^T[e][i] = sum_j
// v_j[e] P^T[j][i].

#include "rondo/kernels/cpu/attention.tier.h"
#include "rondo/kernels/cpu/attention_parts.tier.h"
#include "rondo/kernels/cpu/gemm.tier.h"

namespace rondo::kernels::RONDO_TIER {
namespace {

/// Memory of a task and what it works on now.
struct Forward {
  const ForwardTask& task;
  const ScoreRule& rule;
  float* qt;      // [tile][D][64], scaled
  float* k;       // [key][D]
  float* v;       // [key][E]
  float* scores;  // [key][64], then probabilities
  float* factor;  // [64]: what the sums so far are multiplied by
  Part part;
};

/// S^T of the part: products, softcap, mask; in units of log 2.
void forward_scores(Forward& f, const float* qt, i64 k_row) {
  const Part& part = f.part;
  const i64 dim = f.task.q.dim, lane0 = part.lane_begin;
  product<Into::fresh>({.a = f.k + k_row * dim,
                        .a_row = dim,
                        .a_depth = 1,
                        .b = qt + lane0,
                        .b_stride = kTile,
                        .c = f.scores + lane0,
                        .c_stride = kTile,
                        .rows = part.keys,
                        .columns = part.lane_end - lane0,
                        .depth = dim});
  const float cap = f.rule.softcap;
  if (cap <= 0 && !part.masked) return;
  for (i64 j = 0; j < part.keys; ++j) {
    for (i64 lane = lane0; lane < part.lane_end; lane += kLanes) {
      float* s = f.scores + j * kTile + lane;
      vec x = load(s);
      if (cap > 0) x = tanh(x) * (cap * kLog2E);
      if (part.masked) x = sees(part, lane, j) ? x : splat(-kInfinity);
      store(s, x);
    }
  }
}

/// Scores become exp(score - new maximum); updates the running maximum and sum and sets `factor`.
template <int kColumns>
void forward_softmax(Forward& f, i64 lane, float* maxima, float* sums) {
  float* scores = f.scores + lane;
  vec old[kColumns], top[kColumns], shift[kColumns], sum[kColumns];
  for (int n = 0; n < kColumns; ++n) top[n] = old[n] = load(maxima + lane + n * kLanes);
  for (i64 j = 0; j < f.part.keys; ++j)
    for (int n = 0; n < kColumns; ++n) top[n] = max(load(scores + j * kTile + n * kLanes), top[n]);
  for (int n = 0; n < kColumns; ++n) {
    shift[n] =
        top[n] == -kInfinity ? vec{} : top[n];  // a row that has seen nothing: exp(-inf - 0), not -inf + inf
    sum[n] = vec{};
  }
  for (i64 j = 0; j < f.part.keys; ++j) {
    for (int n = 0; n < kColumns; ++n) {
      const vec p = exp2(load(scores + j * kTile + n * kLanes) - shift[n]);
      sum[n] += p;
      store(scores + j * kTile + n * kLanes, p);
    }
  }
  for (int n = 0; n < kColumns; ++n) {
    const i64 at = lane + n * kLanes;
    const vec factor = exp2(old[n] - shift[n]);
    store(f.factor + at, factor);
    store(maxima + at, top[n]);
    store(sums + at, load(sums + at) * factor + sum[n]);
  }
}

void forward_dropout(Forward& f, const TileBox& box, i64 origin) {
  DropoutLanes lanes;
  make_dropout_lanes(box, f.task.head, origin, lanes);
  for (i64 j = 0; j < f.part.keys; ++j) {
    const u32 position = k_position(box, f.part.k_begin + j);
    for (i64 lane = f.part.lane_begin; lane < f.part.lane_end; lane += kLanes) {
      float* p = f.scores + j * kTile + lane;
      store(p, load(p) * dropout_factor(f.rule.dropout, lanes, lane, position));
    }
  }
}

/// Adds the part of one query tile to its state: O^T[E][64], maxima[64], sums[64].
void forward_part(Forward& f, const TileBox& box, i64 origin, i64 k_row) {
  const i64 index = (origin - f.task.q_begin) / kTile, v_dim = f.task.v.dim;
  float* out = f.task.state + index * (v_dim + 2) * kTile;
  float *maxima = out + v_dim * kTile, *sums = maxima + kTile;
  forward_scores(f, f.qt + index * f.task.q.dim * kTile, k_row);
  i64 lane = f.part.lane_begin;
  for (; lane + 4 * kLanes <= f.part.lane_end; lane += 4 * kLanes) forward_softmax<4>(f, lane, maxima, sums);
  for (; lane < f.part.lane_end; lane += kLanes) forward_softmax<1>(f, lane, maxima, sums);
  if (f.rule.dropout.threshold != 0) forward_dropout(f, box, origin);
  const i64 lane0 = f.part.lane_begin;
  product<Into::scaled>({.a = f.v + k_row * v_dim,
                         .a_row = 1,
                         .a_depth = v_dim,
                         .b = f.scores + lane0,
                         .b_stride = kTile,
                         .c = out + lane0,
                         .c_stride = kTile,
                         .rows = v_dim,
                         .columns = f.part.lane_end - lane0,
                         .depth = f.part.keys},
                        f.factor + lane0);
}

/// All key blocks of one tile, each packed once for all query tiles of the task.
void forward_tile(Forward& f, const TileBox& box, const Extent& extent) {
  const ForwardTask& task = f.task;
  for (i64 k0 = extent.k_begin; k0 < extent.k_end; k0 += kKeyBlock) {
    const i64 keys = least(kKeyBlock, extent.k_end - k0);
    pack_rows(task.k, box.k_begin + k0, keys, task.k.dim, f.k);
    pack_rows(task.v, box.k_begin + k0, keys, task.v.dim, f.v);
    for (i64 origin = task.q_begin; origin < task.q_end; origin += kTile) {
      const Extent seen = visible_extent(box, {origin, least(origin + kTile, task.q_end), k0, k0 + keys});
      if (seen.empty()) continue;
      make_part(box, seen, origin, f.part);
      forward_part(f, box, origin, seen.k_begin - k0);
    }
  }
}

static_assert(kTile <= kKeyBlock, "pack_queries borrows the scratch of a key block");

void pack_queries(Forward& f) {
  const HeadView& q = f.task.q;
  for (i64 origin = f.task.q_begin; origin < f.task.q_end; origin += kTile) {
    const i64 count = least(kTile, f.task.q_end - origin);
    float* rows = f.k;  // K's scratch is free until the first key block
    pack_rows(q, origin, count, q.dim, rows);
    for (i64 n = count * q.dim; n < kTile * q.dim; ++n) rows[n] = 0;
    transpose(rows, q.dim, q.dim, query_factor(f.rule), f.qt + (origin - f.task.q_begin) * q.dim);
  }
}

}  // namespace

std::int64_t attention_forward_scratch(std::int64_t qk_dim, std::int64_t v_dim, std::int64_t queries) {
  return round_up(queries, kTile) * qk_dim + kKeyBlock * (qk_dim + v_dim) + kKeyBlock * kTile + kTile;
}

void attention_forward(const ForwardTask& task) {
  Scratch scratch{task.scratch};
  const i64 qk_dim = task.q.dim;
  Forward f{.task = task,
            .rule = *task.rule,
            .qt = scratch.take(round_up(task.q_end - task.q_begin, kTile) * qk_dim),
            .k = scratch.take(kKeyBlock * qk_dim),
            .v = scratch.take(kKeyBlock * task.v.dim),
            .scores = scratch.take(kKeyBlock * kTile),
            .factor = scratch.take(kTile),
            .part = {}};
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

}  // namespace rondo::kernels::RONDO_TIER
