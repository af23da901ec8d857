#include "bench/attention_work.h"

#include <cmath>

#include "bench/data.h"
#include "rondo/core/error.h"

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
  return {.tokens = what.ctx, .devices = what.ring.devices, .layout = what.layout};
}

}  // namespace

/// One device's tensors and its ring.
struct AttentionWork::Device {
  Device(Context& context, Communicator& communicator, const AttentionCase& given)
      : what(given),
        ring(context, communicator, shape_of(given), given.exchange),
        places(shard_places(plan_of(given), context.device)) {
    ring.prepare(plan_of(given), given.mask);
    const std::int64_t T = ring.tokens();
    const auto allocate = [&](DType dtype, std::int64_t heads, std::int64_t dim) {
      return context.arena.allocate(Entry::attention, T * heads * dim * size_of(dtype), "bench");
    };
    const auto make = [&](DType dtype, std::int64_t heads) {
      memory.push_back(allocate(dtype, heads, what.head_dim));
      return memory.back().tensor(dtype, T, heads, what.head_dim);
    };
    q = make(what.dtype, what.heads), out = make(what.dtype, what.heads), dout = make(what.dtype, what.heads);
    k = make(what.dtype, what.kv_heads), v = make(what.dtype, what.kv_heads);
    dq = make(DType::f32, what.heads), dk = make(DType::f32, what.kv_heads);
    dv = make(DType::f32, what.kv_heads);
    lse = allocate(DType::f32, what.heads, 1);
    fill(q, kQueries), fill(k, kKeys), fill(v, kValues), fill(dout, kOutputGradients);
  }

  void fill(const Tensor& tensor, std::uint64_t stream) const {
    for (std::int64_t t = 0; t < tensor.tokens; ++t) {
      const std::int64_t global = places[static_cast<std::size_t>(t)].global;
      reference::from_doubles(drawn_values(stream, global * tensor.row(), tensor.row(), tensor.dtype),
                              tensor.slice({t, t + 1}));
    }
  }

  void forward() {
    ring.forward({.q_THD = q,
                  .k_TGD = k,
                  .v_TGE = v,
                  .out_THE = out,
                  .lse_HT = lse.as<float>(),
                  .params = params(),
                  .lent = {},
                  .label = "bench"});
  }
  void backward() {
    ring.backward({.q_THD = q,
                   .k_TGD = k,
                   .v_TGE = v,
                   .out_THE = out,
                   .dout_THE = dout,
                   .lse_HT = lse.as<float>(),
                   .params = params(),
                   .dq_THD = dq,
                   .dk_TGD = dk,
                   .dv_TGE = dv,
                   .spare = {},
                   .label = "bench"});
  }
  kernels::AttentionParams params() const {
    return {.scale = 1 / std::sqrt(static_cast<float>(what.head_dim))};
  }
  const Tensor& part(Part name) const {
    switch (name) {
      case Part::out:
        return out;
      case Part::dq:
        return dq;
      case Part::dk:
        return dk;
      case Part::dv:
        return dv;
    }
    return out;
  }

  AttentionCase what;
  RingAttention ring;
  std::vector<TokenPlace> places;
  std::vector<Buffer> memory;
  Buffer lse;
  Tensor q, k, v, out, dout, dq, dk, dv;
};

AttentionWork::AttentionWork(const AttentionCase& what)
    : case_(what), team_(what.ring), devices_(static_cast<std::size_t>(what.ring.devices)) {
  check_argument(what.ctx >= 1, "bench", "expected a sequence of at least 1 token, got {}", what.ctx);
  team_.run([this](Context& context, Communicator& communicator) {
    devices_[static_cast<std::size_t>(context.device)] =
        std::make_unique<Device>(context, communicator, case_);
  });
  homes_.resize(static_cast<std::size_t>(what.ctx));
  for (std::size_t device = 0; device < devices_.size(); ++device) {
    const auto& places = devices_[device]->places;
    for (std::size_t local = 0; local < places.size(); ++local)
      homes_[static_cast<std::size_t>(places[local].global)] = {static_cast<int>(device),
                                                                static_cast<std::int64_t>(local)};
  }
}

AttentionWork::~AttentionWork() = default;

void AttentionWork::run(Pass pass, int repeats) {
  team_.run([&](Context& context, Communicator&) {
    Device& device = *devices_[static_cast<std::size_t>(context.device)];
    for (int n = 0; n < repeats; ++n) {
      if (pass != Pass::backward) device.forward();
      if (pass != Pass::forward) device.backward();
    }
  });
}

std::vector<double> AttentionWork::rows(Part part, std::int64_t head,
                                        std::span<const std::int64_t> tokens) const {
  std::vector<double> values;
  for (const std::int64_t token : tokens) {
    const Home& home = homes_[static_cast<std::size_t>(token)];
    const Tensor& tensor = devices_[static_cast<std::size_t>(home.device)]->part(part);
    const std::vector<double> row =
        reference::to_doubles(tensor.slice({home.local, home.local + 1}).slice_heads({head, head + 1}));
    values.insert(values.end(), row.begin(), row.end());
  }
  return values;
}

std::vector<double> AttentionWork::lse(std::int64_t head, std::span<const std::int64_t> tokens) const {
  std::vector<double> values;
  for (const std::int64_t token : tokens) {
    const Home& home = homes_[static_cast<std::size_t>(token)];
    const Device& device = *devices_[static_cast<std::size_t>(home.device)];
    values.push_back(device.lse.as<float>()[head * device.ring.tokens() + home.local]);
  }
  return values;
}

}  // namespace rondo::bench
