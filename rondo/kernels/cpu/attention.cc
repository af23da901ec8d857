// Attention on the CPU: checks arguments and cuts the work into tasks, by shape alone. The arithmetic is in
// *.tier.cc.

#include <algorithm>
#include <iterator>
#include <numeric>
#include <vector>

#include "rondo/core/error.h"
#include "rondo/kernels/cpu/attention_arguments.h"
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

/// How backward is cut. Rows are the chunks of queries of the heads that share keys, columns are ranges of
/// keys. dQ of a row and dK, dV of a column are sums over the others, so cells of one row or one column may
/// not run at once: wave w holds the cells (row, (row + w) mod side), each row and column at most once. Every
/// sum is then made in the order of the waves, whatever runs when.
struct BackwardCells {
  std::int64_t queries = kBackwardQueries, chunks, rows, columns, keys;

  BackwardCells(std::int64_t q_tokens, std::int64_t k_tokens, std::int64_t group, std::int64_t kv_heads) {
    // Enough cells in a wave to share out. Not more: each packs its queries anew, for at least 512 keys.
    constexpr std::int64_t kEnoughCells = 8, kLeastKeys = 512;
    if (group * kv_heads == 1 && q_tokens <= queries) queries /= 2;
    chunks = (q_tokens + queries - 1) / queries;
    rows = group * chunks;
    columns = std::clamp<std::int64_t>((kEnoughCells + kv_heads - 1) / kv_heads, 1,
                                       std::min(rows, (k_tokens + kLeastKeys - 1) / kLeastKeys));
    keys = (k_tokens + columns - 1) / columns;
  }
  std::int64_t waves() const { return std::max(rows, columns); }
};

BackwardTask backward_task(const AttentionBackward& args, const ScoreRule& rule, std::int64_t head) {
  const std::int64_t kv_head = head / (args.q_THD.heads / args.k_SGD.heads), tokens = args.q_THD.tokens;
  return {.meanwhile = nullptr,
          .meanwhile_self = nullptr,
          .q = head_view(args.q_THD, head),
          .k = head_view(args.k_SGD, kv_head),
          .v = head_view(args.v_SGE, kv_head),
          .dout = head_view(args.dout_THE, head),
          .rule = &rule,
          .head = static_cast<std::uint32_t>(head),
          .q_begin = 0,
          .q_end = tokens,
          .k_begin = 0,
          .k_end = args.k_SGD.tokens,
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

/// The order in which forward's blocks of queries are handed out: those that see most keys first, so that the
/// last ones to end are small. Every block's result is its own: the order changes no bit.
std::vector<std::int64_t> by_falling_work(const std::vector<TileBox>& boxes, std::int64_t q_tokens) {
  std::vector<std::int64_t> seen(
      static_cast<std::size_t>((q_tokens + kForwardQueries - 1) / kForwardQueries));
  for (const TileBox& box : boxes) {
    for (std::int64_t q = box.q_begin; q < box.q_end; q += kQueryTile) {
      const std::int64_t i = q - box.q_begin, keys = box.k_end - box.k_begin;
      const std::int64_t first = std::max<std::int64_t>(0, i + box.lo), last = std::min(keys - 1, i + box.hi);
      seen[static_cast<std::size_t>(q / kForwardQueries)] += std::max<std::int64_t>(0, last - first + 1);
    }
  }
  std::vector<std::int64_t> order(seen.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return seen[static_cast<std::size_t>(a)] > seen[static_cast<std::size_t>(b)];
  });
  return order;
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
  const std::vector<std::int64_t> order = by_falling_work(boxes, q.tokens);
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
  const std::vector<TileBox> boxes = attention_boxes("attention_backward", args.tiles, q.tokens, k.tokens);
  if (boxes.empty()) return;
  const ScoreRule rule = attention_rule(boxes, args.params);
  const Tier& kernels = tier(stream.isa());
  stream.reserve_scratch(kernels.attention_backward_scratch(q.dim, args.v_SGE.dim, q.tokens) *
                         size_of(DType::f32));
  const std::int64_t group = q.heads / k.heads;
  const Meanwhile meanwhile = stream.pool().meanwhile();
  const BackwardCells cells(q.tokens, k.tokens, group, k.heads);
  for (std::int64_t wave = 0; wave < cells.waves(); ++wave) {
    stream.pool().run(k.heads * cells.rows, [&](std::int64_t index, int worker) {
      const std::int64_t row = index / k.heads, kv_head = index % k.heads;
      const std::int64_t column = (row + wave) % cells.waves();
      if (column >= cells.columns) return;
      BackwardTask task = backward_task(args, rule, kv_head * group + row / cells.chunks);
      task.q_begin = row % cells.chunks * cells.queries;
      task.q_end = std::min(task.q_begin + cells.queries, q.tokens);
      task.k_begin = column * cells.keys;
      task.k_end = std::min(task.k_begin + cells.keys, k.tokens);
      task.scratch = reinterpret_cast<float*>(stream.scratch(worker));
      task.meanwhile = meanwhile.call;
      task.meanwhile_self = meanwhile.self;
      kernels.attention_backward(task);
    });
  }
}

}  // namespace rondo::kernels
