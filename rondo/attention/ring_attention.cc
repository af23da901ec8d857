#include "rondo/attention/ring_attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "rondo/attention/gradient_lane.h"

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
}

void RingAttention::prepare(const SequencePlan& plan, const Mask& mask) {
  check_argument(plan.devices == communicator_->devices(), "ring attention",
                 "expected a plan for the ring's {} devices, got one for {}", communicator_->devices(),
                 plan.devices);
  schedule_ = make_schedule(plan, mask, communicator_->device());
  shard_tokens_.clear();
  for (int device = 0; device < plan.devices; ++device) shard_tokens_.push_back(shard_tokens(plan, device));
  max_shard_tokens_ = *std::max_element(shard_tokens_.begin(), shard_tokens_.end());
  BlockPool::Shape block{max_shard_tokens_, shape_.kv_heads, shape_.qk_dim, shape_.v_dim, shape_.dtype};
  kv_pool_.resize(block);
  global_.prepare(plan, schedule_, block);
  block.dtype = DType::f32;
  gradient_pool_.resize(block);

  grow(state_, kernels::attention_state_elements(tokens(), shape_.q_heads, shape_.v_dim), "attention state");

  // The same buffers for every ring of two or more, so that memory per device depends neither on its length
  // nor on where this sequence's documents end: the next one's may travel.
  kv_pool_.reserve(pairs_that_arrive());
}

void RingAttention::forget_tiles() {
  for (Step& step : schedule_.steps) step.tiles.clear();
}

void RingAttention::grow(Buffer& buffer, std::int64_t elements, const char* what) {
  const std::int64_t bytes = elements * size_of(DType::f32);
  if (buffer.bytes() >= bytes) return;
  buffer = Buffer();
  buffer = context_->arena.allocate(Entry::attention, bytes, what);
}

void RingAttention::reserve_backward(std::size_t pairs_in_idle_memory) {
  grow(delta_, shape_.q_heads * tokens(), "delta");
  gradient_pool_.reserve(GradientLane::pairs(*communicator_) - static_cast<int>(pairs_in_idle_memory));
}

int RingAttention::pairs_that_arrive() const {
  // Of those that a full ring needs the call has one already, lent or spare.
  const int P = communicator_->devices(), before = (communicator_->device() + P - 1) % P;
  if (P == 1 || hands_views(*communicator_, exchange_, before)) return 0;
  return 1 + readers_after(*communicator_, exchange_, Direction::down);
}

std::vector<KeyValues> RingAttention::idle_gradient_pairs(const std::vector<IdleMemory>& idle) const {
  // Forward's running maxima, sums and outputs have become out and lse, from which backward computes again:
  // until the next forward clears it, nothing reads the state.
  std::vector<IdleMemory> all{{state_.as<std::byte>(), static_cast<std::size_t>(state_.bytes())}};
  all.insert(all.end(), idle.begin(), idle.end());
  return gradient_pool_.pairs_in(all, GradientLane::pairs(*communicator_));
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

// ---- Forward ----

namespace {

class ForwardVisitor final : public RingVisitor {
 public:
  ForwardVisitor(Context& context, const RingAttention::Forward& args, const kernels::AttentionState& state)
      : context_(context), args_(args), state_(state) {}

  void begin(int) override {}
  void end(int) override {}
  void compute(const Step& step, const ConstKeyValues& block) override {
    const DeviceTrace::Span span(
        context_.trace, "compute",
        context_.trace.enabled() ? fmt::format("{}: forward, hop {}", args_.label, step.distance) : "");
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

}  // namespace

void RingAttention::forward(const Forward& args) {
  check(args);
  const kernels::AttentionState state{state_.as<float>(), tokens(), shape_.q_heads, shape_.v_dim};
  kernels::attention_state_clear(context_->stream, state);
  ForwardVisitor visitor(*context_, args, state);
  const ConstKeyValues own = contiguous(args.k_TGD, args.v_TGE);
  if (!global_.empty()) {
    const ConstKeyValues block = global_.gather(own);
    if (const Step* step = schedule_.global_step()) visitor.compute(*step, block);
  }
  if (args.lent.k_SGD.data != nullptr) kv_pool_.give(args.lent);
  counters_.kv_hops += loop(args.label).run(own, args.spare, last_distance(), visitor);
  kv_pool_.end_loan();
  kernels::attention_state_finish(context_->stream, state, args.out_THE, args.lse_HT);
}

// ---- Arguments ----

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
