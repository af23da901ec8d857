#include "rondo/plan/kernel_rates.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <vector>

#include "rondo/kernels/kernels.h"

namespace rondo {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kTokens = 1024, kBlock = 512;  // of an attention tile's side; of a product
constexpr std::int64_t kMostHeads = 8;

/// Memory of one tensor with ordinary values in it.
class Filled {
 public:
  Filled(Context& context, DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t dim)
      : buffer_(context.arena.allocate(Entry::data, tokens * heads * dim * size_of(dtype), "kernels' rates")),
        tensor_(buffer_.tensor(dtype, tokens, heads, dim)) {
    std::vector<float> row(static_cast<std::size_t>(heads * dim));
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::size_t n = 0; n < row.size(); ++n)
        row[n] = 0.01f * static_cast<float>((static_cast<std::size_t>(t) * 31 + n * 17) % 101) - 0.5f;
      kernels::copy(context.stream, view(static_cast<const void*>(row.data()), DType::f32, 1, heads, dim),
                    tensor_.slice({t, t + 1}));
    }
  }
  const Tensor& operator*() const { return tensor_; }
  float* floats() const { return buffer_.as<float>(); }

 private:
  Buffer buffer_;
  Tensor tensor_;
};

/// Operations a second of `work`, done again and again until the time is up; once before, to warm up.
double rate(double operations, double seconds, const std::function<void()>& work) {
  work();
  const auto begin = Clock::now();
  double elapsed = 0;
  std::int64_t times = 0;
  while (elapsed < seconds || times < 2) {
    work();
    ++times;
    elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return operations * static_cast<double>(times) / elapsed;
}

/// Attention of one square tile without a mask.
void measure_attention(Context& context, Communicator& communicator, const ModelConfig& model, DType dtype,
                       double seconds, KernelRates& rates) {
  const std::int64_t group = model.q_heads / model.kv_heads, D = model.head_dim,
                     G = std::clamp<std::int64_t>(kMostHeads / group, 1, model.kv_heads), H = G * group;
  const Filled q(context, dtype, kTokens, H, D), k(context, dtype, kTokens, G, D),
      v(context, dtype, kTokens, G, D), out(context, dtype, kTokens, H, D);
  const Filled dq(context, DType::f32, kTokens, H, D), dk(context, DType::f32, kTokens, G, D),
      dv(context, DType::f32, kTokens, G, D), lse(context, DType::f32, H, 1, kTokens),
      delta(context, DType::f32, H, 1, kTokens);
  const Filled state_memory(context, DType::f32, kernels::attention_state_elements(kTokens, H, D), 1, 1);
  const kernels::AttentionState state{state_memory.floats(), kTokens, H, D};
  const std::array tiles{Tile{.q = {0, kTokens}, .k = {0, kTokens}}};
  const kernels::AttentionParams params{.scale = 1.0f / static_cast<float>(D)};
  Stream& stream = context.stream;
  const double products = 2.0 * static_cast<double>(kTokens * kTokens * H * D);
  communicator.barrier();
  rates.attention_forward = rate(2 * products, seconds, [&] {
    kernels::attention_state_clear(stream, state);
    kernels::attention_forward(
        stream, {.q_THD = *q, .k_SGD = *k, .v_SGE = *v, .tiles = tiles, .params = params, .state = state});
  });
  kernels::attention_state_finish(stream, state, *out, lse.floats());
  kernels::attention_delta(stream, *out, *out, delta.floats());
  communicator.barrier();
  rates.attention_backward = rate(5 * products, seconds, [&] {
    kernels::attention_backward(stream, {.q_THD = *q,
                                         .k_SGD = *k,
                                         .v_SGE = *v,
                                         .dout_THE = *out,
                                         .lse_HT = lse.floats(),
                                         .delta_HT = delta.floats(),
                                         .tiles = tiles,
                                         .params = params,
                                         .dq_THD = *dq,
                                         .dk_SGD = *dk,
                                         .dv_SGE = *dv});
  });
}

/// The three products with one of the feed-forward part's matrices, which are most of a layer's.
void measure_products(Context& context, Communicator& communicator, const ModelConfig& model, DType dtype,
                      double seconds, KernelRates& rates) {
  const std::int64_t C = model.width, F = std::min<std::int64_t>(model.ffn, 4096);
  const Filled x(context, dtype, kBlock, 1, C), w(context, dtype, F, 1, C), y(context, dtype, kBlock, 1, F),
      dx(context, DType::f32, kBlock, 1, C), dw(context, DType::f32, F, 1, C);
  using kernels::WeightUse;
  Stream& stream = context.stream;
  const auto packed = [&](WeightUse use) {
    return context.arena.allocate(Entry::packed_weights,
                                  kernels::packed_weight_bytes(stream.isa(), dtype, F, C, use), "packed");
  };
  const Buffer forward = packed(WeightUse::forward), backward = packed(WeightUse::backward_input);
  const kernels::PackedWeight w_forward =
      kernels::pack_weight(stream, *w, WeightUse::forward, forward.data());
  const kernels::PackedWeight w_backward =
      kernels::pack_weight(stream, *w, WeightUse::backward_input, backward.data());
  communicator.barrier();
  rates.linear = rate(6.0 * static_cast<double>(kBlock * C * F), seconds, [&] {
    kernels::linear_forward(stream, *x, w_forward, *y, kernels::Store::overwrite);
    kernels::linear_backward_input(stream, *y, w_backward, *dx, kernels::Store::overwrite);
    kernels::linear_backward_weight(stream, *y, *x, *dw);
  });
}

}  // namespace

KernelRates measure_kernels(Context& context, Communicator& communicator, const ModelConfig& model,
                            DType dtype, double seconds) {
  check_config(model, "plan");
  KernelRates own;
  measure_attention(context, communicator, model, dtype, seconds / 3, own);
  measure_products(context, communicator, model, dtype, seconds / 3, own);
  std::vector<KernelRates> all(static_cast<std::size_t>(communicator.devices()));
  communicator.all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all)));
  for (const KernelRates& other : all)
    for (const auto member :
         {&KernelRates::attention_forward, &KernelRates::attention_backward, &KernelRates::linear})
      own.*member = std::min(own.*member, other.*member);
  return own;
}

void apply(const KernelRates& rates, DType dtype, Hardware& hardware) {
  const double peak = hardware.peak(dtype);
  hardware.attention_efficiency = rates.attention_forward / peak;
  hardware.attention_backward_efficiency = rates.attention_backward / peak;
  hardware.linear_efficiency = rates.linear / peak;
}

}  // namespace rondo
