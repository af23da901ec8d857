// Attention on the CPU: checks arguments and cuts the work into tasks, by shape alone. The arithmetic is in
// *.tier.cc.

#include <algorithm>
#include <deque>
#include <iterator>
#include <numeric>
#include <vector>

#include "rondo/core/error.h"
#include "rondo/kernels/cpu/attention_arguments.h"
#include "rondo/kernels/cpu/key_turns.h"
#include "rondo/kernels/cpu/tier.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {
namespace {

float* head_data(const Tensor& x, std::int64_t head) {
  return static_cast<float*>(x.data) + head * x.head_stride;
}

void check_backward(const AttentionBackward& args) {
  constexpr const char* operation = "attention_backward";
  check_attention_gradients(operation, args);
  check_attention_params(operation, args.params);
  check_argument((args.lse_HT != nullptr && args.delta_HT != nullptr) || args.q_THD.tokens == 0, operation,
                 "expected lse and delta, got null");
}

/// The order in which blocks of so many queries are handed out: those that see most keys first, so that the
/// last ones to end are small, and of equals the last, whose first keys are those that others come to last.
std::vector<std::int64_t> by_falling_work(const std::vector<TileBox>& boxes, std::int64_t q_tokens,
                                          std::int64_t queries) {
  std::vector<std::int64_t> seen(static_cast<std::size_t>((q_tokens + queries - 1) / queries));
  for (const TileBox& box : boxes) {
    for (std::int64_t q = box.q_begin; q < box.q_end; q += kQueryTile) {
      const std::int64_t i = q - box.q_begin, keys = box.k_end - box.k_begin;
      const std::int64_t first = std::max<std::int64_t>(0, i + box.lo), last = std::min(keys - 1, i + box.hi);
      seen[static_cast<std::size_t>(q / queries)] += std::max<std::int64_t>(0, last - first + 1);
    }
  }
  std::vector<std::int64_t> order(seen.size());
  std::iota(order.rbegin(), order.rend(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return seen[static_cast<std::size_t>(a)] > seen[static_cast<std::size_t>(b)];
  });
  return order;
}

/// The least key that some of these queries may see in each tile and all later ones, and that of no tile.
std::vector<std::int64_t> keys_left(const std::vector<TileBox>& boxes, Range queries) {
  std::vector<std::int64_t> keys(boxes.size() + 1, kAllKeys);
  for (std::size_t n = boxes.size(); n-- > 0;) {
    const TileBox& box = boxes[n];
    keys[n] = keys[n + 1];
    if (queries.begin >= box.q_end || box.q_begin >= queries.end) continue;
    const std::int64_t i = std::max(queries.begin, box.q_begin) - box.q_begin;
    keys[n] = std::min(keys[n], box.k_begin + std::max<std::int64_t>(0, i + box.lo));
  }
  return keys;
}

/// How backward is cut for each key head: a row is a chunk of queries of one of the heads that share it, with
/// all keys that it sees. dQ is the row's own; dK and dV get the parts of the rows in the rows' order.
struct BackwardRows {
  struct Chunk {
    Range queries;
    std::vector<std::int64_t> keys_left;
  };
  std::int64_t group, rows;
  std::vector<Chunk> chunks;  ///< in the rows' order: those that see most keys first

  BackwardRows(const std::vector<TileBox>& boxes, const ConstTensor& q, std::int64_t kv_heads)
      : group(q.heads / kv_heads) {
    std::int64_t queries = kBackwardQueries;
    if (q.heads == 1 && q.tokens <= queries) queries /= 2;  // something to share out
    for (const std::int64_t chunk : by_falling_work(boxes, q.tokens, queries)) {
      const Range range{chunk * queries, std::min((chunk + 1) * queries, q.tokens)};
      chunks.push_back({range, keys_left(boxes, range)});
    }
    rows = group * std::ssize(chunks);
  }
  const Chunk& chunk_of(std::int64_t row) const { return chunks[static_cast<std::size_t>(row / group)]; }
};

BackwardTask backward_task(const AttentionBackward& args, const ScoreRule& rule, std::int64_t head) {
  const std::int64_t kv_head = head / (args.q_THD.heads / args.k_SGD.heads), tokens = args.q_THD.tokens;
  return {.meanwhile = nullptr,
          .meanwhile_self = nullptr,
          .take_turn = nullptr,
          .give_turn = nullptr,
          .turn = nullptr,
          .q = head_view(args.q_THD, head),
          .k = head_view(args.k_SGD, kv_head),
          .v = head_view(args.v_SGE, kv_head),
          .dout = head_view(args.dout_THE, head),
          .rule = &rule,
          .head = static_cast<std::uint32_t>(head),
          .q_begin = 0,
          .q_end = tokens,
          .lse_T = args.lse_HT + head * tokens,
          .delta_T = args.delta_HT + head * tokens,
          .dq = head_data(args.dq_THD, head),
          .dk = head_data(args.dk_SGD, kv_head),
          .dv = head_data(args.dv_SGE, kv_head),
          .dq_token_stride = args.dq_THD.token_stride,
          .dk_token_stride = args.dk_SGD.token_stride,
          .dv_token_stride = args.dv_SGE.token_stride,
          .scratch = nullptr};
}

}  // namespace

void attention_forward(Stream& stream, const AttentionForward& args) {
  constexpr const char* operation = "attention_forward";
  const ConstTensor &q = args.q_THD, &k = args.k_SGD, &v = args.v_SGE;
  check_attention_inputs(operation, q, k, v);
  check_attention_params(operation, args.params);
  const AttentionState& state = args.state;
  check_argument(state.tokens == q.tokens && state.heads == q.heads && state.v_dim == v.dim, operation,
                 "expected a state of [{}, {}, {}], got [{}, {}, {}]", q.tokens, q.heads, v.dim, state.tokens,
                 state.heads, state.v_dim);
  check_argument(state.data != nullptr || q.tokens == 0, operation, "expected a state with memory, got null");
  const std::vector<TileBox> boxes = attention_boxes(operation, args.tiles, q.tokens, k.tokens);
  if (boxes.empty()) return;
  const ScoreRule rule = attention_rule(boxes, args.params);
  const Tier& kernels = tier(stream.isa());
  const std::int64_t queries = std::min(q.tokens, kForwardQueries), group = q.heads / k.heads;
  const std::int64_t head_elements = attention_state_elements(q.tokens, 1, v.dim);
  const std::int64_t tile_elements = attention_state_elements(kQueryTile, 1, v.dim);
  stream.reserve_scratch(kernels.attention_forward_scratch(q.dim, v.dim, queries) * size_of(DType::f32));
  const std::vector<std::int64_t> order = by_falling_work(boxes, q.tokens, kForwardQueries);
  const Meanwhile meanwhile = stream.pool().meanwhile();
  stream.pool().run(q.heads * std::ssize(order), [&](std::int64_t index, int worker) {
    const std::int64_t head = index % q.heads;
    const std::int64_t begin = order[static_cast<std::size_t>(index / q.heads)] * kForwardQueries;
    kernels.attention_forward(
        {.meanwhile = meanwhile.call,
         .meanwhile_self = meanwhile.self,
         .q = head_view(q, head),
         .k = head_view(k, head / group),
         .v = head_view(v, head / group),
         .rule = &rule,
         .head = static_cast<std::uint32_t>(head),
         .q_begin = begin,
         .q_end = std::min(begin + kForwardQueries, q.tokens),
         .state = state.data + head * head_elements + begin / kQueryTile * tile_elements,
         .scratch = reinterpret_cast<float*>(stream.scratch(worker))});
  });
}

void attention_backward(Stream& stream, const AttentionBackward& args) {
  check_backward(args);
  const ConstTensor &q = args.q_THD, &k = args.k_SGD;
  std::vector<TileBox> boxes = attention_boxes("attention_backward", args.tiles, q.tokens, k.tokens);
  if (boxes.empty()) return;
  // All rows go through the keys in one direction: none waits long for those before it.
  std::stable_sort(boxes.begin(), boxes.end(),
                   [](const TileBox& a, const TileBox& b) { return a.k_begin < b.k_begin; });
  const ScoreRule rule = attention_rule(boxes, args.params);
  const Tier& kernels = tier(stream.isa());
  stream.reserve_scratch(kernels.attention_backward_scratch(q.dim, args.v_SGE.dim, q.tokens) *
                         size_of(DType::f32));
  const Meanwhile meanwhile = stream.pool().meanwhile();
  const BackwardRows rows(boxes, q, k.heads);
  std::deque<KeyTurns> turns;  // of each key head
  for (std::int64_t head = 0; head < k.heads; ++head) turns.emplace_back(rows.rows);
  stream.pool().run(k.heads * rows.rows, [&](std::int64_t index, int worker) {
    const std::int64_t row = index / k.heads, kv_head = index % k.heads;
    const BackwardRows::Chunk& chunk = rows.chunk_of(row);
    BackwardTask task = backward_task(args, rule, kv_head * rows.group + row % rows.group);
    task.q_begin = chunk.queries.begin;
    task.q_end = chunk.queries.end;
    task.scratch = reinterpret_cast<float*>(stream.scratch(worker));
    task.meanwhile = meanwhile.call;
    task.meanwhile_self = meanwhile.self;
    if (stream.pool().threads() == 1) return kernels.attention_backward(task);
    RowTurn turn(turns[static_cast<std::size_t>(kv_head)], row, chunk.keys_left);
    task.take_turn = RowTurn::take;
    task.give_turn = RowTurn::give;
    task.turn = &turn;
    kernels.attention_backward(task);
  });
}

}  // namespace rondo::kernels
