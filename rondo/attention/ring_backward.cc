#include <fmt/format.h>

#include "rondo/attention/gradient_lane.h"
#include "rondo/attention/ring_attention.h"

namespace rondo {

namespace {

class BackwardVisitor final : public RingVisitor {
 public:
  BackwardVisitor(const RingLoop& loop, BlockPool& pool, const RingAttention::Backward& args,
                  const float* delta_HT)
      : context_(loop.context),
        args_(args),
        delta_HT_(delta_HT),
        own_{args.dk_TGD, args.dv_TGE},
        down_(loop, pool, Direction::down, own_),
        up_(loop, pool, Direction::up, own_) {}

  void begin(int distance) override {
    down_.begin(distance);
    up_.begin(distance);
  }
  void compute(const Step& step, const ConstKeyValues& block) override {
    if (step.distance == 0) return compute(step, block, own_);
    GradientLane& lane = step.arrives == Direction::down ? down_ : up_;
    for (const Range& part : lane.parts()) {
      const Step step_of_part{.kv = step.kv,
                              .arrives = step.arrives,
                              .distance = step.distance,
                              .tiles = tiles_on_keys(step.tiles, part)};
      compute(step_of_part, {block.k_SGD.slice(part), block.v_SGE.slice(part)},
              {lane.partial().k_SGD.slice(part), lane.partial().v_SGE.slice(part)});
      lane.part_done();
    }
  }
  void compute(const Step& step, const ConstKeyValues& block, const KeyValues& gradients) {
    const DeviceTrace::Span span(
        context_.trace, "compute",
        context_.trace.enabled() ? fmt::format("{}: backward, hop {}", args_.label, step.distance) : "");
    kernels::attention_backward(context_.stream, {.q_THD = args_.q_THD,
                                                  .k_SGD = block.k_SGD,
                                                  .v_SGE = block.v_SGE,
                                                  .dout_THE = args_.dout_THE,
                                                  .lse_HT = args_.lse_HT,
                                                  .delta_HT = delta_HT_,
                                                  .tiles = step.tiles,
                                                  .params = args_.params,
                                                  .dq_THD = args_.dq_THD,
                                                  .dk_SGD = gradients.k_SGD,
                                                  .dv_SGE = gradients.v_SGE});
  }
  void end(int) override {
    received_ += down_.finish_receives() + up_.finish_receives();
    down_.finish_sends();
    up_.finish_sends();
  }
  int received() const { return received_; }

 private:
  Context& context_;
  const RingAttention::Backward& args_;
  const float* delta_HT_;
  KeyValues own_;
  GradientLane down_, up_;
  int received_ = 0;
};

}  // namespace

void RingAttention::backward(const Backward& args) {
  check(args);
  Stream& stream = context_->stream;
  const std::vector<KeyValues> idle_pairs = idle_gradient_pairs(args.idle);
  reserve_backward(idle_pairs.size());
  kernels::attention_delta(stream, args.dout_THE, args.out_THE, delta_.as<float>());
  for (const Tensor& gradient : {args.dq_THD, args.dk_TGD, args.dv_TGE}) kernels::fill_zero(stream, gradient);

  const RingLoop ring = loop(args.label);
  BackwardVisitor visitor(ring, gradient_pool_, args, delta_.as<float>());
  const ConstKeyValues own = contiguous(args.k_TGD, args.v_TGE);
  if (!global_.empty()) {
    const ConstKeyValues block = global_.gather(own);
    const KeyValues gradients = global_.cleared_gradients();
    if (const Step* step = schedule_.global_step()) visitor.compute(*step, block, gradients);
    global_.reduce_into({args.dk_TGD, args.dv_TGE});
  }
  for (const KeyValues& pair : idle_pairs) gradient_pool_.give(pair);
  // One distance more than the keys and values travel: the last sums go home.
  counters_.kv_hops += ring.run(own, args.spare, last_distance() + 1, visitor);
  counters_.gradient_hops += visitor.received();
  kv_pool_.end_loan();
  gradient_pool_.end_loan();
}

}  // namespace rondo
