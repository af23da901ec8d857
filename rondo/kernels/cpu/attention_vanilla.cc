// Attention with all scores in memory: products of whole matrices, head by head, and a softmax over their
// rows. Each product is shared out to the threads; sums are made in one order whatever their number.

#include <algorithm>
#include <vector>

#include "rondo/kernels/cpu/attention_arguments.h"
#include "rondo/kernels/cpu/product.h"
#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {
namespace {

void check_params(const char* operation, const AttentionParams& params) {
  check_attention_params(operation, params);
  check_argument(params.softcap == 0, operation,
                 "expected no soft-cap where all scores are in memory, got {}; use blockwise attention",
                 params.softcap);
  check_argument(params.dropout.probability == 0, operation,
                 "expected no dropout where all scores are in memory, got {}; use blockwise attention",
                 params.dropout.probability);
}

/// Scores [H, T, S] have memory; so does the widened form of a head where storage is not float32.
void check_scores(const char* operation, const ConstTensor& q, const ConstTensor& k, const float* scores) {
  check_argument(scores != nullptr || q.tokens == 0 || k.tokens == 0, operation,
                 "expected memory for scores of [{}, {}, {}], got null", q.heads, q.tokens, k.tokens);
}
void check_widened(const char* operation, const ConstTensor& x, const float* widened) {
  check_argument(x.dtype == DType::f32 || widened != nullptr || x.tokens == 0, operation,
                 "expected memory to widen a head of {} in, got null", name_of(x.dtype));
}

/// The keys that query i sees, ascending.
std::vector<Range> visible_keys(const std::vector<TileBox>& boxes, std::int64_t i) {
  std::vector<Range> seen;
  for (const TileBox& box : boxes) {
    if (i < box.q_begin || i >= box.q_end) continue;
    const std::int64_t row = i - box.q_begin, keys = box.k_end - box.k_begin;
    const std::int64_t first = std::max<std::int64_t>(0, row + box.lo),
                       last = std::min(keys - 1, row + box.hi);
    if (first <= last) seen.push_back({box.k_begin + first, box.k_begin + last + 1});
  }
  std::sort(seen.begin(), seen.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  return seen;
}

void clear_hidden(float* row, std::int64_t keys, const std::vector<Range>& seen) {
  std::int64_t end = 0;
  for (const Range& range : seen) {
    std::fill(row + end, row + range.begin, 0.0f);
    end = range.end;
  }
  std::fill(row + end, row + keys, 0.0f);
}

/// A row of products becomes probabilities.
void softmax_row(const RowKernels& rows, float* row, std::int64_t keys, const std::vector<Range>& seen,
                 float scale) {
  clear_hidden(row, keys, seen);
  if (seen.empty()) return;
  float most = 0;
  for (const Range& range : seen) {
    rows.scale(row + range.begin, scale, range.size());
    const float here = rows.maximum(row + range.begin, range.size());
    most = &range == &seen.front() ? here : std::max(most, here);
  }
  double sum = 0;
  for (const Range& range : seen) sum += rows.exp_in_place(row + range.begin, most, range.size());
  for (const Range& range : seen) rows.scale(row + range.begin, static_cast<float>(1 / sum), range.size());
}

/// A row of the probabilities' gradients becomes that of the products.
void softmax_backward_row(const RowKernels& rows, const float* p, float* row, std::int64_t keys,
                          const std::vector<Range>& seen, float scale) {
  clear_hidden(row, keys, seen);
  double delta = 0;
  for (const Range& range : seen) delta += rows.dot(p + range.begin, row + range.begin, range.size());
  for (const Range& range : seen)
    rows.softmax_backward(p + range.begin, static_cast<float>(delta), scale, row + range.begin, range.size());
}

ConstTensor head_of(const ConstTensor& x, std::int64_t head) { return x.slice_heads({head, head + 1}); }
Tensor head_of(const Tensor& x, std::int64_t head) { return x.slice_heads({head, head + 1}); }

/// A head in float32: where it lies, or widened.
ConstTensor single_head(Stream& stream, const ConstTensor& x, std::int64_t head, float* widened) {
  if (x.dtype == DType::f32) return head_of(x, head);
  const Tensor to = view(widened, DType::f32, x.tokens, 1, x.dim);
  copy(stream, head_of(x, head), to);
  return to;
}

/// to_MN = a_MD · b_ND^T.
void product_of_rows(Stream& stream, const ConstTensor& a, const ConstTensor& b, float* to_MN) {
  product(stream, {.m = a.tokens,
                   .n = b.tokens,
                   .k = a.dim,
                   .dtype = a.dtype,
                   .a = a.data,
                   .a_row_stride = a.token_stride,
                   .b = {.data = b.data,
                         .is_bf16 = b.dtype == DType::bf16,
                         .across = false,
                         .stride = b.token_stride,
                         .lines = b.tokens,
                         .terms = b.dim},
                   .c = to_MN,
                   .c_row_stride = b.tokens});
}

/// to_TE = or += a_TS · b_SE, a and b float32.
void product_of_columns(Stream& stream, const float* a_TS, const ConstTensor& b, const Tensor& to,
                        Store store) {
  product(stream,
          {.m = to.tokens,
           .n = b.dim,
           .k = b.tokens,
           .a = a_TS,
           .a_row_stride = b.tokens,
           .b = {.data = b.data, .across = true, .stride = b.token_stride, .lines = b.dim, .terms = b.tokens},
           .c = to.data,
           .c_dtype = to.dtype,
           .c_row_stride = to.token_stride,
           .accumulate = store == Store::accumulate});
}

/// to_SE += a_TS^T · b_TE, all float32.
void product_over_queries(Stream& stream, const float* a_TS, const ConstTensor& b, const Tensor& to) {
  outer_product(stream, {.m = to.tokens,
                         .n = b.dim,
                         .k = b.tokens,
                         .a = a_TS,
                         .b = b.data,
                         .a_row_stride = to.tokens,
                         .b_row_stride = b.token_stride,
                         .c = static_cast<float*>(to.data),
                         .c_row_stride = to.token_stride});
}

/// One head's gradients. Its scores' gradients stand where those of its probabilities were.
void backward_head(Stream& stream, const AttentionVanillaBackward& args, const std::vector<TileBox>& boxes,
                   std::int64_t head) {
  const RowKernels& rows = row_kernels(stream.isa());
  const std::int64_t T = args.q_THD.tokens, S = args.k_SGD.tokens,
                     kv_head = head / (args.q_THD.heads / args.k_SGD.heads);
  const float* p = args.p_HTS + head * T * S;
  float* ds = args.ds_HTS + head * T * S;
  product_of_rows(stream, head_of(args.dout_THE, head), head_of(args.v_SGE, kv_head), ds);
  for_row_blocks(stream, T, S, [&](Range block, int) {
    for (std::int64_t i = block.begin; i < block.end; ++i)
      softmax_backward_row(rows, p + i * S, ds + i * S, S, visible_keys(boxes, i), args.params.scale);
  });
  const auto single = [&](const ConstTensor& x, std::int64_t of) {
    return single_head(stream, x, of, args.widened);
  };
  product_over_queries(stream, p, single(args.dout_THE, head), head_of(args.dv_SGE, kv_head));
  product_of_columns(stream, ds, single(args.k_SGD, kv_head), head_of(args.dq_THD, head), Store::accumulate);
  product_over_queries(stream, ds, single(args.q_THD, head), head_of(args.dk_SGD, kv_head));
}

void check_backward(const char* operation, const AttentionVanillaBackward& args) {
  check_attention_gradients(operation, args);
  check_params(operation, args.params);
  check_scores(operation, args.q_THD, args.k_SGD, args.p_HTS);
  check_scores(operation, args.q_THD, args.k_SGD, args.ds_HTS);
  check_widened(operation, args.q_THD, args.widened);
}

}  // namespace

void attention_probabilities(Stream& stream, const AttentionProbabilities& args) {
  constexpr const char* operation = "attention_probabilities";
  const ConstTensor &q = args.q_THD, &k = args.k_SGD;
  check_attention_inputs(operation, q, k, k);
  check_params(operation, args.params);
  check_scores(operation, q, k, args.p_HTS);
  const std::vector<TileBox> boxes = attention_boxes(operation, args.tiles, q.tokens, k.tokens);
  const RowKernels& rows = row_kernels(stream.isa());
  const std::int64_t group = q.heads / k.heads, T = q.tokens, S = k.tokens;
  for (std::int64_t head = 0; head < q.heads; ++head) {
    float* p = args.p_HTS + head * T * S;
    product_of_rows(stream, head_of(q, head), head_of(k, head / group), p);
    for_row_blocks(stream, T, S, [&](Range block, int) {
      for (std::int64_t i = block.begin; i < block.end; ++i)
        softmax_row(rows, p + i * S, S, visible_keys(boxes, i), args.params.scale);
    });
  }
}

void attention_vanilla_output(Stream& stream, const float* p_HTS, const ConstTensor& v_SGE,
                              const Tensor& out_THE, float* widened) {
  constexpr const char* operation = "attention_vanilla_output";
  check_attention_inputs(operation, out_THE, v_SGE, v_SGE);
  check_scores(operation, out_THE, v_SGE, p_HTS);
  check_widened(operation, v_SGE, widened);
  const std::int64_t group = out_THE.heads / v_SGE.heads;
  for (std::int64_t head = 0; head < out_THE.heads; ++head)
    product_of_columns(stream, p_HTS + head * out_THE.tokens * v_SGE.tokens,
                       single_head(stream, v_SGE, head / group, widened), head_of(out_THE, head),
                       Store::overwrite);
}

void attention_vanilla_backward(Stream& stream, const AttentionVanillaBackward& args) {
  constexpr const char* operation = "attention_vanilla_backward";
  check_backward(operation, args);
  const std::vector<TileBox> boxes =
      attention_boxes(operation, args.tiles, args.q_THD.tokens, args.k_SGD.tokens);
  for (std::int64_t head = 0; head < args.q_THD.heads; ++head) backward_head(stream, args, boxes, head);
}

}  // namespace rondo::kernels
