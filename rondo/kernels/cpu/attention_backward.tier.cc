// Backward of blockwise attention: probabilities are recomputed from the scores and the global lse (Dao et
// al. 2022, section B.2; derivation in docs/maths.md). Lanes are queries for S^T, P^T and dS^T; the sums over
// queries read those row by row. Two levels of blocking: kBackwardKeys keys with their gradients stay in the
// second-level cache while the packed query tiles of a chunk of kBackwardQueries stream past them.

#include "rondo/kernels/cpu/attention.tier.h"
#include "rondo/kernels/cpu/attention_parts.tier.h"
#include "rondo/kernels/cpu/gemm.tier.h"

namespace rondo::kernels::RONDO_TIER {
namespace {

/// Packed queries of one chunk of one head, and the keys that pass over them.
struct Backward {
  const BackwardTask& task;
  const ScoreRule& rule;
  i64 qk_dim, v_dim, qk_stride, v_stride;  // strides: dims rounded up to whole vectors
  float *q, *qt, *dout, *doutt, *dqt;      // [query][stride] and, transposed, [tile][dim][64]
  float *lse, *delta;                      // [query]; lse in units of log 2, +infinity: gives nothing
  float *k, *v, *dk, *dv;                  // [key][stride]
  float *p, *ds;                           // [key][64]
  i64 head, q_begin, q_end;                // head within the group; tokens of the chunk
  Part part;
};

/// Rows whose lse is -infinity are packed as zeros, so that nothing of them (not even a NaN) reaches the
/// keys.
void pack_row(const HeadView& x, i64 token, i64 stride, bool nothing, float* out) {
  if (!nothing) return pack_rows(x, token, 1, stride, out);
  for (i64 d = 0; d < stride; ++d) out[d] = 0;
}

HeadView head_of(HeadView x, i64 head_stride, i64 head) {
  x.data = static_cast<const char*>(x.data) + head * head_stride * (x.is_bf16 ? 2 : 4);
  return x;
}

void pack_chunk(Backward& w) {
  const BackwardTask& task = w.task;
  const HeadView q = head_of(task.q, task.q_head_stride, w.head);
  const HeadView dout = head_of(task.dout, task.dout_head_stride, w.head);
  const i64 count = w.q_end - w.q_begin;
  for (i64 n = 0; n < round_up(count, kTile); ++n) {
    const i64 token = w.q_begin + n, at = w.head * task.q_tokens + token;
    const bool nothing = n >= count || task.lse_HT[at] == -kInfinity;
    w.lse[n] = nothing ? kInfinity : task.lse_HT[at] * kLog2E;
    w.delta[n] = nothing ? 0 : task.delta_HT[at];
    pack_row(q, token, w.qk_stride, nothing, w.q + n * w.qk_stride);
    pack_row(dout, token, w.v_stride, nothing, w.dout + n * w.v_stride);
  }
  for (i64 n = 0; n < count; n += kTile) {
    transpose(w.q + n * w.qk_stride, w.qk_stride, w.qk_dim, query_factor(w.rule), w.qt + n * w.qk_dim);
    transpose(w.dout + n * w.v_stride, w.v_stride, w.v_dim, 1.0f, w.doutt + n * w.v_dim);
  }
  for (i64 n = 0; n < round_up(count, kTile) * w.qk_dim; ++n) w.dqt[n] = 0;
}

/// Adds the chunk's dQ to the caller's.
void flush_queries(const Backward& w) {
  float* dq = w.task.dq + w.head * w.task.dq_head_stride;
  for (i64 token = w.q_begin; token < w.q_end; ++token) {
    const i64 n = token - w.q_begin;
    const float* column = w.dqt + n / kTile * kTile * w.qk_dim + n % kTile;
    float* row = dq + token * w.task.dq_token_stride;
    for (i64 d = 0; d < w.qk_dim; ++d) row[d] += w.rule.scale * column[d * kTile];
  }
}

void load_keys(Backward& w, i64 token, i64 keys) {
  pack_rows(w.task.k, token, keys, w.qk_stride, w.k);
  pack_rows(w.task.v, token, keys, w.v_stride, w.v);
  for (i64 n = 0; n < keys * w.qk_stride; ++n) w.dk[n] = 0;
  for (i64 n = 0; n < keys * w.v_stride; ++n) w.dv[n] = 0;
}

void flush_keys(const Backward& w, i64 token, i64 keys) {
  for (i64 j = 0; j < keys; ++j) {
    float* dk = w.task.dk + (token + j) * w.task.dk_token_stride;
    float* dv = w.task.dv + (token + j) * w.task.dv_token_stride;
    for (i64 d = 0; d < w.qk_dim; ++d) dk[d] += w.rule.scale * w.dk[j * w.qk_stride + d];
    for (i64 e = 0; e < w.v_dim; ++e) dv[e] += w.dv[j * w.v_stride + e];
  }
}

/// Scores and dP become the probabilities that met v (after dropout) and dS, in place. kPlain: no softcap,
/// mask or dropout.
template <bool kPlain>
void score_gradients(const Backward& w, const TileBox& box, i64 origin) {
  const Part& part = w.part;
  const float cap = w.rule.softcap;
  const bool drops = w.rule.dropout.threshold != 0;
  const u32 head = w.task.first_head + static_cast<u32>(w.head);
  const float *lse = w.lse + (origin - w.q_begin), *delta = w.delta + (origin - w.q_begin);
  DropoutLanes lanes = {};
  if (!kPlain && drops) make_dropout_lanes(box, head, origin, lanes);
  for (i64 j = 0; j < part.keys; ++j) {
    for (i64 lane = part.lane_begin; lane < part.lane_end; lane += kLanes) {
      float *p_at = w.p + j * kTile + lane, *ds_at = w.ds + j * kTile + lane;
      vec s = load(p_at), dp = load(ds_at), slope = splat(1.0f);
      if (!kPlain && cap > 0) {
        const vec t = tanh(s);
        slope = 1.0f - t * t;
        s = t * (cap * kLog2E);
      }
      vec p = exp2(s - load(lse + lane));
      if (!kPlain && part.masked) p = sees(part, lane, j) ? p : vec{};
      vec kept = p;
      if (!kPlain && drops) {
        const vec factor = dropout_factor(w.rule.dropout, lanes, lane, k_position(box, part.k_begin + j));
        dp *= factor;
        kept *= factor;
      }
      vec ds = p * (dp - load(delta + lane));
      if (!kPlain) ds *= slope;
      store(p_at, kept);
      store(ds_at, ds);
    }
  }
}

/// The five products of one part; k_row counts from the first loaded key.
void backward_part(Backward& w, const TileBox& box, i64 origin, i64 k_row) {
  const i64 lane0 = w.part.lane_begin, lanes = w.part.lane_end - lane0, keys = w.part.keys;
  const i64 n = origin - w.q_begin;
  const float *k = w.k + k_row * w.qk_stride, *v = w.v + k_row * w.v_stride;
  product<Into::fresh>({.a = k,
                        .a_row = w.qk_stride,
                        .a_depth = 1,
                        .b = w.qt + n * w.qk_dim + lane0,
                        .b_stride = kTile,
                        .c = w.p + lane0,
                        .c_stride = kTile,
                        .rows = keys,
                        .columns = lanes,
                        .depth = w.qk_dim});
  product<Into::fresh>({.a = v,
                        .a_row = w.v_stride,
                        .a_depth = 1,
                        .b = w.doutt + n * w.v_dim + lane0,
                        .b_stride = kTile,
                        .c = w.ds + lane0,
                        .c_stride = kTile,
                        .rows = keys,
                        .columns = lanes,
                        .depth = w.v_dim});
  if (w.part.masked || w.rule.softcap > 0 || w.rule.dropout.threshold != 0) {
    score_gradients<false>(w, box, origin);
  } else {
    score_gradients<true>(w, box, origin);
  }
  product<Into::sum>({.a = w.p + lane0,
                      .a_row = kTile,
                      .a_depth = 1,
                      .b = w.dout + (n + lane0) * w.v_stride,
                      .b_stride = w.v_stride,
                      .c = w.dv + k_row * w.v_stride,
                      .c_stride = w.v_stride,
                      .rows = keys,
                      .columns = w.v_stride,
                      .depth = lanes});
  product<Into::sum>({.a = w.ds + lane0,
                      .a_row = kTile,
                      .a_depth = 1,
                      .b = w.q + (n + lane0) * w.qk_stride,
                      .b_stride = w.qk_stride,
                      .c = w.dk + k_row * w.qk_stride,
                      .c_stride = w.qk_stride,
                      .rows = keys,
                      .columns = w.qk_stride,
                      .depth = lanes});
  product<Into::sum>({.a = k,
                      .a_row = 1,
                      .a_depth = w.qk_stride,
                      .b = w.ds + lane0,
                      .b_stride = kTile,
                      .c = w.dqt + n * w.qk_dim + lane0,
                      .c_stride = kTile,
                      .rows = w.qk_dim,
                      .columns = lanes,
                      .depth = keys});
}

/// One tile against the chunk, kBackwardKeys keys at a time.
void backward_tile(Backward& w, const TileBox& box, const Extent& extent) {
  for (i64 first = extent.k_begin; first < extent.k_end; first += kBackwardKeys) {
    const i64 loaded = least(kBackwardKeys, extent.k_end - first);
    load_keys(w, box.k_begin + first, loaded);
    for (i64 origin = w.q_begin; origin < w.q_end; origin += kTile) {
      for (i64 k0 = first; k0 < first + loaded; k0 += kKeyBlock) {
        const i64 k1 = least(k0 + kKeyBlock, first + loaded);
        const Extent seen = visible_extent(box, {origin, least(origin + kTile, w.q_end), k0, k1});
        if (seen.empty()) continue;
        make_part(box, seen, origin, w.part);
        backward_part(w, box, origin, seen.k_begin - first);
      }
    }
    flush_keys(w, box.k_begin + first, loaded);
  }
}

void backward_chunk(Backward& w) {
  bool packed = false;
  for (i64 n = 0; n < w.rule.tile_count; ++n) {
    const TileBox& box = w.rule.tiles[n];
    const Extent seen = visible_extent(box, {w.q_begin, w.q_end, 0, box.k_end - box.k_begin});
    if (seen.empty()) continue;
    if (!packed) pack_chunk(w);
    packed = true;
    backward_tile(w, box, seen);
  }
  if (packed) flush_queries(w);
}

/// Lays the arrays of a task out in its scratch; attention_backward_scratch counts them.
Backward lay_out(const BackwardTask& task, const ScoreRule& rule, Scratch& scratch, i64 queries) {
  const i64 rows = round_up(queries, kTile), qk = task.q.dim, v = task.v.dim;
  const i64 qk_stride = round_up(qk, kLanes), v_stride = round_up(v, kLanes);
  return {.task = task,
          .rule = rule,
          .qk_dim = qk,
          .v_dim = v,
          .qk_stride = qk_stride,
          .v_stride = v_stride,
          .q = scratch.take(rows * qk_stride),
          .qt = scratch.take(rows * qk),
          .dout = scratch.take(rows * v_stride),
          .doutt = scratch.take(rows * v),
          .dqt = scratch.take(rows * qk),
          .lse = scratch.take(rows),
          .delta = scratch.take(rows),
          .k = scratch.take(kBackwardKeys * qk_stride),
          .v = scratch.take(kBackwardKeys * v_stride),
          .dk = scratch.take(kBackwardKeys * qk_stride),
          .dv = scratch.take(kBackwardKeys * v_stride),
          .p = scratch.take(kKeyBlock * kTile),
          .ds = scratch.take(kKeyBlock * kTile),
          .head = 0,
          .q_begin = 0,
          .q_end = 0,
          .part = {}};
}

}  // namespace

std::int64_t attention_backward_scratch(std::int64_t qk_dim, std::int64_t v_dim, std::int64_t queries) {
  const i64 rows = round_up(least(queries, kBackwardQueries), kTile);
  const i64 qk_stride = round_up(qk_dim, 16), v_stride = round_up(v_dim, 16);
  return rows * (3 * qk_stride + 2 * v_stride + 2) + 2 * kBackwardKeys * (qk_stride + v_stride) +
         2 * kKeyBlock * kTile;
}

void attention_backward(const BackwardTask& task) {
  Scratch scratch{task.scratch};
  Backward w = lay_out(task, *task.rule, scratch, least(task.q_tokens, kBackwardQueries));
  for (w.head = 0; w.head < task.group; ++w.head) {
    for (w.q_begin = 0; w.q_begin < task.q_tokens; w.q_begin += kBackwardQueries) {
      w.q_end = least(w.q_begin + kBackwardQueries, task.q_tokens);
      backward_chunk(w);
    }
  }
}

}  // namespace rondo::kernels::RONDO_TIER
