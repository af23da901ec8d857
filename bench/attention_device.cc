#include "bench/attention_device.h"

#include <cmath>

#include "bench/data.h"

namespace rondo::bench {

namespace {

AttentionShape shape_of(const AttentionCase& what) {
  return {.q_heads = what.heads,
          .kv_heads = what.kv_heads,
          .qk_dim = what.head_dim,
          .v_dim = what.head_dim,
          .dtype = what.dtype};
}

SequencePlan plan_of(const AttentionCase& what) {
  return {.tokens = what.ctx, .devices = what.ring.devices_in_all(), .layout = what.layout};
}

}  // namespace

AttentionDevice::AttentionDevice(Context& context, Communicator& communicator, const AttentionCase& what)
    : ring_(context, communicator, shape_of(what), what.exchange),
      places_(shard_places(plan_of(what), context.device)) {
  ring_.prepare(plan_of(what), what.mask);
  const auto allocate = [&](DType dtype, std::int64_t heads, std::int64_t dim) {
    return context.arena.allocate(Entry::attention, tokens() * heads * dim * size_of(dtype), "bench");
  };
  const auto make = [&](DType dtype, std::int64_t heads) {
    memory_.push_back(allocate(dtype, heads, what.head_dim));
    return memory_.back().tensor(dtype, tokens(), heads, what.head_dim);
  };
  q_ = make(what.dtype, what.heads), out_ = make(what.dtype, what.heads);
  dout_ = make(what.dtype, what.heads);
  k_ = make(what.dtype, what.kv_heads), v_ = make(what.dtype, what.kv_heads);
  dq_ = make(DType::f32, what.heads), dk_ = make(DType::f32, what.kv_heads);
  dv_ = make(DType::f32, what.kv_heads);
  lse_ = allocate(DType::f32, what.heads, 1);
  fill(q_, kQueries), fill(k_, kKeys), fill(v_, kValues), fill(dout_, kOutputGradients);
}

void AttentionDevice::fill(const Tensor& tensor, std::uint64_t stream) const {
  for (std::int64_t t = 0; t < tensor.tokens; ++t) {
    const std::int64_t global = places_[static_cast<std::size_t>(t)].global;
    reference::from_doubles(drawn_values(stream, global * tensor.row(), tensor.row(), tensor.dtype),
                            tensor.slice({t, t + 1}));
  }
}

void AttentionDevice::forward() {
  ring_.forward({.q_THD = q_,
                 .k_TGD = k_,
                 .v_TGE = v_,
                 .out_THE = out_,
                 .lse_HT = lse_.as<float>(),
                 .params = params(),
                 .lent = {},
                 .spare = {},
                 .label = "bench"});
}

void AttentionDevice::backward() {
  ring_.backward({.q_THD = q_,
                  .k_TGD = k_,
                  .v_TGE = v_,
                  .out_THE = out_,
                  .dout_THE = dout_,
                  .lse_HT = lse_.as<float>(),
                  .params = params(),
                  .dq_THD = dq_,
                  .dk_TGD = dk_,
                  .dv_TGE = dv_,
                  .spare = {},
                  .idle = {},
                  .label = "bench"});
}

kernels::AttentionParams AttentionDevice::params() const {
  return {.scale = 1 / std::sqrt(static_cast<float>(q_.dim))};
}

const Tensor& AttentionDevice::part(Part name) const {
  switch (name) {
    case Part::dq:
      return dq_;
    case Part::dk:
      return dk_;
    case Part::dv:
      return dv_;
    case Part::out:
      break;
  }
  return out_;
}

}  // namespace rondo::bench
