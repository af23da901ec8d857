#include "rondo/attention/decode.h"

#include <algorithm>

namespace rondo {

DecodeAttention::DecodeAttention(Context& context, Communicator& communicator, const AttentionShape& shape,
                                 std::int64_t most_tokens)
    : context_(&context), communicator_(&communicator), shape_(shape), most_tokens_(most_tokens) {
  const auto allocate = [&](std::int64_t floats, const char* what) {
    return context.arena.allocate(Entry::exchange, floats * size_of(DType::f32), what);
  };
  if (communicator.devices() == 1) return;
  const std::int64_t rows = most_tokens * shape.q_heads, part = rows * (shape.v_dim + 1);
  own_ = allocate(part, "own part of a merge");
  all_ = allocate(part * communicator.devices(), "all parts of a merge");
  parts_ = allocate(part * communicator.devices(), "sorted parts of a merge");
}

void DecodeAttention::operator()(const Args& args) {
  Stream& stream = context_->stream;
  const std::int64_t T = args.q_THD.tokens, rows = T * shape_.q_heads;
  check_argument(T <= most_tokens_, "decode", "expected at most {} new tokens, got {}", most_tokens_, T);
  kernels::AttentionDecode decode{.q_THD = args.q_THD,
                                  .k_SGD = args.k_SGD,
                                  .v_SGE = args.v_SGE,
                                  .tiles = args.tiles,
                                  .params = args.params,
                                  .out_THE = args.out_THE};
  if (communicator_->devices() == 1) {
    kernels::attention_decode(stream, decode);
    return;
  }
  // One message: the output in float32, then the lse.
  const std::int64_t values = rows * shape_.v_dim, part = values + rows;
  decode.out_THE = own_.tensor(DType::f32, T, shape_.q_heads, shape_.v_dim);
  decode.lse_HT = own_.as<float>() + values;
  kernels::attention_decode(stream, decode);
  const auto devices = static_cast<std::size_t>(communicator_->devices());
  const auto bytes = static_cast<std::size_t>(part * size_of(DType::f32));
  communicator_->all_gather({own_.as<std::byte>(), bytes}, {all_.as<std::byte>(), bytes * devices});
  // All outputs first, then all lse: what the merge reads.
  float* outputs = parts_.as<float>();
  float* lses = outputs + values * static_cast<std::int64_t>(devices);
  for (std::int64_t device = 0; device < communicator_->devices(); ++device) {
    const float* from = all_.as<float>() + device * part;
    kernels::copy(stream, view(from, DType::f32, 1, 1, values),
                  view(outputs + device * values, DType::f32, 1, 1, values));
    kernels::copy(stream, view(from + values, DType::f32, 1, 1, rows),
                  view(lses + device * rows, DType::f32, 1, 1, rows));
  }
  kernels::attention_merge_finished(stream, communicator_->devices(), outputs, lses, args.out_THE);
}

}  // namespace rondo
