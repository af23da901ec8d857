#include "rondo/attention/ring_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace rondo {

RingAttention::RingAttention(Context& context, Communicator& communicator, const AttentionShape& shape,
                             Exchange exchange)
    : context_(&context),
      communicator_(&communicator),
      shape_(shape),
      exchange_(exchange),
      kv_pool_(context, "travelling keys and values"),
      gradient_pool_(context, "travelling gradients"),
      global_(context, communicator) {
  constexpr const char* op = "ring attention";
  check_argument(shape.kv_heads >= 1 && shape.q_heads >= 1 && shape.q_heads % shape.kv_heads == 0, op,
                 "expected query heads that are a multiple of the key/value heads, got {} and {}",
                 shape.q_heads, shape.kv_heads);
  for (const std::int64_t dim : {shape.qk_dim, shape.v_dim})
    check_argument(dim >= 4 && dim <= 256, op, "expected head sizes from 4 to 256, got {}", dim);
  check_argument(exchange == Exchange::copy || communicator.can_share(), op,
                 "expected devices of one process for --exchange share, got separate processes; use copy");
}

void RingAttention::prepare(const SequencePlan& plan, const Mask& mask) {
  check_argument(plan.devices == communicator_->devices(), "ring attention",
                 "expected a plan for the ring's {} devices, got one for {}", communicator_->devices(),
                 plan.devices);
  schedule_ = make_schedule(plan, mask, context_->device);
  shard_tokens_.clear();
  for (int device = 0; device < plan.devices; ++device) shard_tokens_.push_back(shard_tokens(plan, device));
  max_shard_tokens_ = *std::max_element(shard_tokens_.begin(), shard_tokens_.end());
  BlockPool::Shape block{max_shard_tokens_, shape_.kv_heads, shape_.qk_dim, shape_.v_dim, shape_.dtype};
  kv_pool_.resize(block);
  global_.prepare(plan, schedule_, block);
  block.dtype = DType::f32;
  gradient_pool_.resize(block);
  // The same buffers for every ring of two or more, so that memory per device does not depend on its length.
  if (last_distance() > 0) {
    if (exchange_ == Exchange::copy) kv_pool_.reserve(1);
    gradient_pool_.reserve(2);
  }

  const auto grow = [this](Buffer& buffer, std::int64_t elements, const char* what) {
    const std::int64_t bytes = elements * size_of(DType::f32);
    if (buffer.bytes() >= bytes) return;
    buffer = Buffer();
    buffer = context_->arena.allocate(Entry::attention, bytes, what);
  };
  grow(state_, kernels::attention_state_elements(tokens(), shape_.q_heads, shape_.v_dim), "attention state");
  grow(delta_, shape_.q_heads * tokens(), "delta");
}

int RingAttention::last_distance() const {
  // The same on every device, so that gradients on their way home find their owner still in the loop.
  int farthest = 0;
  for (const Schedule::Reach& reach : schedule_.reach) farthest = std::max({farthest, reach.down, reach.up});
  return farthest;
}

RingLoop RingAttention::loop(std::string_view label) {
  return {*context_, *communicator_, schedule_, shard_tokens_, kv_pool_, exchange_, CallId{++calls_}, label};
}

ConstKeyValues RingAttention::contiguous(const ConstTensor& k_TGD, const ConstTensor& v_TGE) {
  const bool travels = communicator_->devices() > 1;
  if (!travels || (k_TGD.contiguous() && v_TGE.contiguous())) return {k_TGD, v_TGE};
  if (packed_.bytes() < k_TGD.bytes() + v_TGE.bytes()) {
    packed_ = Buffer();
    packed_ =
        context_->arena.allocate(Entry::exchange, k_TGD.bytes() + v_TGE.bytes(), "packed keys and values");
  }
  const Tensor k = view(packed_.data(), shape_.dtype, k_TGD.tokens, shape_.kv_heads, shape_.qk_dim);
  const Tensor v =
      view(packed_.as<char>() + k_TGD.bytes(), shape_.dtype, v_TGE.tokens, shape_.kv_heads, shape_.v_dim);
  kernels::copy(context_->stream, k_TGD, k);
  kernels::copy(context_->stream, v_TGE, v);
  return {k, v};
}

// ---- Forward
// ----------------------------------------------------------------------------------------------------------

namespace {

class ForwardVisitor final : public RingVisitor {
 public:
  ForwardVisitor(Context& context, const RingAttention::Forward& args, const kernels::AttentionState& state)
      : context_(context), args_(args), state_(state) {}

  void begin(int) override {}
  void end(int) override {}
  void compute(const Step& step, const ConstKeyValues& block) override {
    const DeviceTrace::Span span(context_.trace, "compute",
                                 context_.trace.enabled() ? fmt::format("{}: forward", args_.label) : "");
    kernels::attention_forward(context_.stream, {.q_THD = args_.q_THD,
                                                 .k_SGD = block.k_SGD,
                                                 .v_SGE = block.v_SGE,
                                                 .tiles = step.tiles,
                                                 .params = args_.params,
                                                 .state = state_});
  }

 private:
  Context& context_;
  const RingAttention::Forward& args_;
  kernels::AttentionState state_;
};

const Step* global_step(const Schedule& schedule) {
  for (const Step& step : schedule.steps)
    if (step.kv.is_global()) return &step;
  return nullptr;
}

}  // namespace

void RingAttention::forward(const Forward& args) {
  check(args);
  const kernels::AttentionState state{state_.as<float>(), tokens(), shape_.q_heads, shape_.v_dim};
  kernels::attention_state_clear(context_->stream, state);
  ForwardVisitor visitor(*context_, args, state);
  const ConstKeyValues own = contiguous(args.k_TGD, args.v_TGE);
  if (!global_.empty()) {
    const ConstKeyValues block = global_.gather(own);
    if (const Step* step = global_step(schedule_)) visitor.compute(*step, block);
  }
  if (args.lent.k_SGD.data != nullptr) kv_pool_.give(args.lent);
  counters_.kv_hops += loop(args.label).run(own, {}, last_distance(), visitor);
  kv_pool_.end_loan();
  kernels::attention_state_finish(context_->stream, state, args.out_THE, args.lse_HT);
}

// ---- Backward
// ---------------------------------------------------------------------------------------------------------

namespace {

/// Moves the sum of a block's gradients after the block: the device at distance n adds its share to what the
/// devices before it have summed, and passes the sum on while distance n + 1 is computed; the last one sends
/// it home.
class GradientLane {
 public:
  GradientLane(const RingLoop& loop, BlockPool& pool, Direction direction, const KeyValues& own)
      : loop_(loop), pool_(pool), direction_(direction), own_(own) {}

  /// Posts what moves while `distance` is computed and makes room for this distance's gradients.
  void begin(int distance) {
    distance_ = distance;
    const int P = loop_.communicator.devices(), me = loop_.schedule.device;
    const int before = (me + P - hop_step()) % P, after = (me + hop_step()) % P;
    if (distance == 0) return;
    if (outgoing_.k_SGD.data != nullptr) {
      const int last = reach(outgoing_owner_);
      const bool home = last == distance - 1;
      post_send(home ? outgoing_owner_ : after, distance, home);
    }
    const int owner = block_at(distance);
    if (owner >= 0) {
      partial_ = first_tokens(pool_.take(), loop_.shard_tokens[static_cast<std::size_t>(owner)]);
      kernels::fill_zero(loop_.context.stream, partial_.k_SGD);
      kernels::fill_zero(loop_.context.stream, partial_.v_SGE);
      if (distance >= 2) post_receive(receives_, before, distance, false, partial_);
    }
    if (reach(me) > 0 && distance == reach(me) + 1)
      post_receive(home_receives_, (me + reach(me) * hop_step()) % P, distance, true, own_);
  }

  const KeyValues& partial() const { return partial_; }

  /// Finishes the receives of this distance; returns how many exchanges that were.
  int finish_receives() {
    return wait_for(receives_, "receive gradients") + wait_for(home_receives_, "receive own gradients");
  }

  void finish_sends() {
    wait_for(sends_, "send gradients");
    if (outgoing_.k_SGD.data != nullptr) pool_.give(full(outgoing_));
    outgoing_ = partial_;
    outgoing_owner_ = partial_.k_SGD.data != nullptr ? block_at(distance_) : -1;
    partial_ = {};
  }

 private:
  using Requests = std::array<RequestPtr, 2>;

  int hop_step() const { return direction_ == Direction::down ? 1 : loop_.communicator.devices() - 1; }
  int reach(int owner) const {
    const Schedule::Reach& reach = loop_.schedule.reach[static_cast<std::size_t>(owner)];
    return direction_ == Direction::down ? reach.down : reach.up;
  }
  /// Owner of the block that is here at `distance`, or -1.
  int block_at(int distance) const {
    const int P = loop_.communicator.devices();
    if (distance >= P) return -1;
    const int back = direction_ == Direction::down ? P - distance : distance;
    const int owner = (loop_.schedule.device + back) % P;
    return reach(owner) >= distance ? owner : -1;
  }
  /// The pool's pairs go back in full capacity.
  KeyValues full(KeyValues pair) const {
    pair.k_SGD.tokens = pair.v_SGE.tokens =
        *std::max_element(loop_.shard_tokens.begin(), loop_.shard_tokens.end());
    return pair;
  }
  void post_send(int to, int distance, bool home) {
    sends_[0] = loop_.communicator.send(
        to, loop_.call.tag(MessageKind::key_gradients, direction_, distance, home), outgoing_.k_SGD);
    sends_[1] = loop_.communicator.send(
        to, loop_.call.tag(MessageKind::value_gradients, direction_, distance, home), outgoing_.v_SGE);
  }
  void post_receive(Requests& requests, int from, int distance, bool home, const KeyValues& into) {
    requests[0] = loop_.communicator.receive_add(
        from, loop_.call.tag(MessageKind::key_gradients, direction_, distance, home), into.k_SGD);
    requests[1] = loop_.communicator.receive_add(
        from, loop_.call.tag(MessageKind::value_gradients, direction_, distance, home), into.v_SGE);
  }
  int wait_for(Requests& requests, const char* what) {
    if (!requests[0]) return 0;
    const std::string doing = fmt::format("{}: {}, hop {}", loop_.label, what, distance_);
    for (RequestPtr& request : requests) loop_.communicator.wait(*request, doing.c_str());
    requests = {};
    return 1;
  }

  const RingLoop& loop_;
  BlockPool& pool_;
  Direction direction_;
  KeyValues own_, partial_, outgoing_;
  int outgoing_owner_ = -1, distance_ = 0;
  Requests sends_, receives_, home_receives_;
};

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
    compute(step, block,
            step.distance == 0 ? own_ : (step.arrives == Direction::down ? down_ : up_).partial());
  }
  void compute(const Step& step, const ConstKeyValues& block, const KeyValues& gradients) {
    const DeviceTrace::Span span(context_.trace, "compute",
                                 context_.trace.enabled() ? fmt::format("{}: backward", args_.label) : "");
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
  kernels::attention_delta(stream, args.dout_THE, args.out_THE, delta_.as<float>());
  for (const Tensor& gradient : {args.dq_THD, args.dk_TGD, args.dv_TGE}) kernels::fill_zero(stream, gradient);

  const RingLoop ring = loop(args.label);
  BackwardVisitor visitor(ring, gradient_pool_, args, delta_.as<float>());
  const ConstKeyValues own = contiguous(args.k_TGD, args.v_TGE);
  if (!global_.empty()) {
    const ConstKeyValues block = global_.gather(own);
    const KeyValues gradients = global_.cleared_gradients();
    if (const Step* step = global_step(schedule_)) visitor.compute(*step, block, gradients);
    global_.reduce_into({args.dk_TGD, args.dv_TGE});
  }
  // One distance more than the keys and values travel: the last sums go home.
  counters_.kv_hops += ring.run(own, args.spare, last_distance() + 1, visitor);
  counters_.gradient_hops += visitor.received();
  kv_pool_.end_loan();
  gradient_pool_.end_loan();
}

// ---- Arguments
// --------------------------------------------------------------------------------------------------------

namespace {

void check_shape(const ConstTensor& tensor, const char* name, std::int64_t tokens, std::int64_t heads,
                 std::int64_t dim, DType dtype) {
  check_argument(
      tensor.tokens == tokens && tensor.heads == heads && tensor.dim == dim && tensor.dtype == dtype,
      "ring attention", "expected {} of shape [{}, {}, {}] in {}, got [{}, {}, {}] in {}", name, tokens,
      heads, dim, name_of(dtype), tensor.tokens, tensor.heads, tensor.dim, name_of(tensor.dtype));
}

}  // namespace

void RingAttention::check(const Forward& args) const {
  check_argument(!shard_tokens_.empty(), "ring attention", "expected prepare() before forward(), got none");
  check_shape(args.q_THD, "q", tokens(), shape_.q_heads, shape_.qk_dim, shape_.dtype);
  check_shape(args.k_TGD, "k", tokens(), shape_.kv_heads, shape_.qk_dim, shape_.dtype);
  check_shape(args.v_TGE, "v", tokens(), shape_.kv_heads, shape_.v_dim, shape_.dtype);
  check_shape(args.out_THE, "out", tokens(), shape_.q_heads, shape_.v_dim, shape_.dtype);
}

void RingAttention::check(const Backward& args) const {
  check_argument(!shard_tokens_.empty(), "ring attention", "expected prepare() before backward(), got none");
  check_shape(args.q_THD, "q", tokens(), shape_.q_heads, shape_.qk_dim, shape_.dtype);
  check_shape(args.k_TGD, "k", tokens(), shape_.kv_heads, shape_.qk_dim, shape_.dtype);
  check_shape(args.v_TGE, "v", tokens(), shape_.kv_heads, shape_.v_dim, shape_.dtype);
  check_shape(args.out_THE, "out", tokens(), shape_.q_heads, shape_.v_dim, shape_.dtype);
  check_shape(args.dout_THE, "dout", tokens(), shape_.q_heads, shape_.v_dim, shape_.dtype);
  check_shape(args.dq_THD, "dq", tokens(), shape_.q_heads, shape_.qk_dim, DType::f32);
  check_shape(args.dk_TGD, "dk", tokens(), shape_.kv_heads, shape_.qk_dim, DType::f32);
  check_shape(args.dv_TGE, "dv", tokens(), shape_.kv_heads, shape_.v_dim, DType::f32);
  check_argument(args.dk_TGD.contiguous() && args.dv_TGE.contiguous(), "ring attention",
                 "expected contiguous dk and dv, got strided ones");
  check_argument(args.lse_HT != nullptr || tokens() == 0, "ring attention",
                 "expected the lse that forward() gave, got null");
}

}  // namespace rondo
