// Decode attention: cuts tiles into spans of keys by shape alone, and merges what the spans found in their
// order (the split over keys is that of Flash-Decoding, Dao et al. 2023). The arithmetic over keys is in
// attention_decode.tier.cc.

#include <algorithm>
#include <cmath>
#include <limits>

#include "rondo/core/error.h"
#include "rondo/kernels/cpu/attention_arguments.h"
#include "rondo/kernels/cpu/tier.h"

namespace rondo::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLn2 = 0.69314718055994530942;

/// Queries of a tile that share one pass over its keys.
constexpr std::int64_t kQueries = 8;
/// Spans that all keys are cut into, at most, beside one for each tile and pass.
constexpr std::int64_t kSpans = 64;
/// Bytes of keys and values that are worth a task; bytes of scores that stay in its second-level cache.
constexpr std::int64_t kSpanBytes = 256 << 10, kScoreBytes = 128 << 10;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// Some queries of a tile against some of its keys (counted from the tile's corner).
struct Span {
  std::size_t box;
  std::int64_t q_begin, q_end, k_begin, k_end;
  std::int64_t partial;  ///< where its result lies: out[query][head][E], maxima[query][head], sums
};

struct Plan {
  std::vector<Span> spans;
  std::int64_t piece = 0, rows = 0, partial_elements = 0, most_partial_elements = 0;
};

void check(const AttentionDecode& args) {
  constexpr const char* operation = "attention_decode";
  const ConstTensor &q = args.q_THD, &v = args.v_SGE;
  check_attention_inputs(operation, q, args.k_SGD, v);
  check_attention_params(operation, args.params);
  check_argument(args.params.dropout.probability == 0, operation,
                 "expected no dropout (decoding never trains), got a probability of {}",
                 args.params.dropout.probability);
  check_attention_tensor(operation, "out", args.out_THE, q.tokens, q.heads, v.dim);
  check_argument(args.out_THE.dtype == DType::f32 || args.out_THE.dtype == q.dtype, operation,
                 "expected out in float32 or {}, got {}", name_of(q.dtype), name_of(args.out_THE.dtype));
}

/// One pass of up to kQueries queries over the keys that any of them sees.
std::vector<Span> passes_of(const std::vector<TileBox>& boxes) {
  std::vector<Span> passes;
  for (std::size_t n = 0; n < boxes.size(); ++n) {
    const TileBox& box = boxes[n];
    for (std::int64_t q = box.q_begin; q < box.q_end; q += kQueries) {
      const std::int64_t end = std::min(q + kQueries, box.q_end);
      const std::int64_t first = std::max<std::int64_t>(0, q - box.q_begin + box.lo);
      const std::int64_t last = std::min(box.k_end - box.k_begin, end - box.q_begin + box.hi);
      if (first < last) passes.push_back({n, q, end, first, last, 0});
    }
  }
  return passes;
}

Plan plan_of(const AttentionDecode& args, const std::vector<TileBox>& boxes) {
  const std::int64_t heads = args.q_THD.heads, D = args.q_THD.dim, E = args.v_SGE.dim;
  const std::int64_t bytes = args.k_SGD.heads * size_of(args.k_SGD.dtype);  // of one element of all heads
  Plan plan;
  std::int64_t keys = 0, queries = 0;
  const std::vector<Span> passes = passes_of(boxes);
  for (const Span& pass : passes) {
    keys += pass.k_end - pass.k_begin;
    queries = std::max(queries, pass.q_end - pass.q_begin);
  }
  plan.rows = heads * queries;
  const std::int64_t row_elements = E + 2, most_partial = plan.rows * row_elements;
  plan.piece = std::clamp<std::int64_t>(kScoreBytes / (plan.rows * 4 + 1), 16, kDecodePiece) / 16 * 16;
  // Long enough that reading a span outweighs merging its result.
  const std::int64_t least = std::max(kSpanBytes, 32 * most_partial * 4) / (bytes * (D + E)) + 1;
  const std::int64_t span = round_up(std::max(least, keys / kSpans + 1), plan.piece);
  for (const Span& pass : passes) {
    for (std::int64_t k = pass.k_begin; k < pass.k_end; k += span) {
      plan.spans.push_back(pass);
      plan.spans.back().k_begin = k;
      plan.spans.back().k_end = std::min(k + span, pass.k_end);
      plan.spans.back().partial = plan.partial_elements;
      plan.partial_elements += (pass.q_end - pass.q_begin) * heads * row_elements;
    }
  }
  // A growing cache never asks for more.
  plan.most_partial_elements = (kSpans + static_cast<std::int64_t>(passes.size())) * most_partial;
  return plan;
}

/// The spans of each query, in order: of query t they are order[first[t]] ... order[first[t + 1] - 1].
struct SpansOfQueries {
  std::vector<std::size_t> first, order;

  SpansOfQueries(const std::vector<Span>& spans, std::int64_t queries)
      : first(static_cast<std::size_t>(queries) + 2, 0) {
    for_each(spans, [this](std::size_t query, std::size_t) { ++first[query + 2]; });
    for (std::size_t n = 2; n < first.size(); ++n) first[n] += first[n - 1];
    order.resize(first.back());
    for_each(spans, [this](std::size_t query, std::size_t span) { order[first[query + 1]++] = span; });
  }

 private:
  template <class Body>
  static void for_each(const std::vector<Span>& spans, const Body& body) {
    for (std::size_t n = 0; n < spans.size(); ++n)
      for (std::int64_t q = spans[n].q_begin; q < spans[n].q_end; ++q) body(static_cast<std::size_t>(q), n);
  }
};

/// One row of one span's result.
struct PartialRow {
  const float* out;
  float maximum, sum;
};

class Merge {
 public:
  Merge(const AttentionDecode& args, const Plan& plan, const float* partials)
      : args_(args), plan_(plan), partials_(partials), spans_(plan.spans, args.q_THD.tokens) {}

  void row(std::int64_t query, std::int64_t head) const {
    const auto begin = spans_.first[static_cast<std::size_t>(query)];
    const auto end = spans_.first[static_cast<std::size_t>(query) + 1];
    float top = -kInfinity, sum = 0;
    for (std::size_t n = begin; n < end; ++n) top = std::max(top, partial(n, query, head).maximum);
    const float shift = top == -kInfinity ? 0 : top;
    const std::int64_t E = args_.out_THE.dim;
    float out[256] = {};
    for (std::size_t n = begin; n < end; ++n) {
      const PartialRow from = partial(n, query, head);
      const float factor = std::exp2(from.maximum - shift);
      sum += from.sum * factor;
      for (std::int64_t e = 0; e < E; ++e) out[e] += from.out[e] * factor;
    }
    write(query, head, out, sum == 0 ? 0.0f : 1 / sum);
    if (args_.lse_HT == nullptr) return;
    const double lse = top * kLn2 + std::log(static_cast<double>(sum));
    args_.lse_HT[head * args_.q_THD.tokens + query] = sum == 0 ? -kInfinity : static_cast<float>(lse);
  }

 private:
  PartialRow partial(std::size_t n, std::int64_t query, std::int64_t head) const {
    const Span& span = plan_.spans[spans_.order[n]];
    const std::int64_t heads = args_.q_THD.heads, E = args_.out_THE.dim;
    const std::int64_t rows = (span.q_end - span.q_begin) * heads, at = (query - span.q_begin) * heads + head;
    const float* out = partials_ + span.partial;
    const float* maxima = out + rows * E;
    return {out + at * E, maxima[at], maxima[rows + at]};
  }
  void write(std::int64_t query, std::int64_t head, const float* values, float factor) const {
    const Tensor& out = args_.out_THE;
    const std::int64_t at = query * out.token_stride + head * out.head_stride;
    if (out.dtype == DType::f32) {
      float* to = static_cast<float*>(out.data) + at;
      for (std::int64_t e = 0; e < out.dim; ++e) to[e] = values[e] * factor;
    } else {
      bfloat16* to = static_cast<bfloat16*>(out.data) + at;
      for (std::int64_t e = 0; e < out.dim; ++e) to[e] = to_bfloat16(values[e] * factor);
    }
  }

  const AttentionDecode& args_;
  const Plan& plan_;
  const float* partials_;
  SpansOfQueries spans_;
};

}  // namespace

void attention_decode(Stream& stream, const AttentionDecode& args) {
  check(args);
  const ConstTensor &q = args.q_THD, &k = args.k_SGD, &v = args.v_SGE;
  const std::vector<TileBox> boxes = attention_boxes("attention_decode", args.tiles, q.tokens, k.tokens);
  const ScoreRule rule = attention_rule(boxes, args.params);
  const Plan plan = plan_of(args, boxes);
  const Tier& kernels = tier(stream.isa());
  const std::int64_t scratch = kernels.attention_decode_scratch(plan.rows, q.dim, v.dim);
  if (!plan.spans.empty())
    stream.reserve_scratch((scratch + plan.most_partial_elements) * size_of(DType::f32));
  // Behind the first worker's own scratch.
  float* partials = plan.spans.empty() ? nullptr : reinterpret_cast<float*>(stream.scratch(0)) + scratch;
  stream.pool().run(static_cast<std::int64_t>(plan.spans.size()), [&](std::int64_t index, int worker) {
    const Span& span = plan.spans[static_cast<std::size_t>(index)];
    kernels.attention_decode({.q = head_view(q, 0),
                              .k = head_view(k, 0),
                              .v = head_view(v, 0),
                              .q_head_stride = q.head_stride,
                              .k_head_stride = k.head_stride,
                              .v_head_stride = v.head_stride,
                              .kv_heads = k.heads,
                              .group = q.heads / k.heads,
                              .rule = &rule,
                              .box = &boxes[span.box],
                              .q_begin = span.q_begin,
                              .q_end = span.q_end,
                              .k_begin = span.k_begin,
                              .k_end = span.k_end,
                              .piece = plan.piece,
                              .partial = partials + span.partial,
                              .scratch = reinterpret_cast<float*>(stream.scratch(worker))});
  });
  const Merge merge(args, plan, partials);
  const std::int64_t group = q.heads / k.heads;
  stream.pool().run(q.tokens * k.heads, [&](std::int64_t index, int) {
    const std::int64_t query = index / k.heads, first = index % k.heads * group;
    for (std::int64_t head = first; head < first + group; ++head) merge.row(query, head);
  });
}

}  // namespace rondo::kernels
