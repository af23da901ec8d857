#include "tests/support/ring_case.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <mutex>

#include "rondo/comm/device_group.h"
#include "rondo/core/random.h"
#include "rondo/reference/convert.h"

namespace rondo::test {

namespace {

PhiloxKey layer_key(const RingProblem& problem) { return dropout_key(problem.seed, 3, 5); }

std::int64_t document_of(const RingProblem& problem, std::int64_t token) {
  const auto& starts = problem.document_starts;
  if (starts.empty()) return 0;
  return std::upper_bound(starts.begin(), starts.end(), token) - starts.begin() - 1;
}

std::int64_t position_of(const RingProblem& problem, std::int64_t token) {
  return problem.document_starts.empty()
             ? token
             : token - problem.document_starts[static_cast<std::size_t>(document_of(problem, token))];
}

float scale_of(const RingProblem& problem) { return 1 / std::sqrt(static_cast<float>(problem.shape.qk_dim)); }

/// The rows of `global` ([tokens, row] doubles) that stand at `places`, in a device's memory.
Tensor local_rows(const Buffer& buffer, DType dtype, const std::vector<double>& global, std::int64_t heads,
                  std::int64_t dim, const std::vector<TokenPlace>& places) {
  const std::int64_t row = heads * dim;
  std::vector<double> local;
  for (const TokenPlace& place : places)
    local.insert(local.end(), global.begin() + place.global * row, global.begin() + (place.global + 1) * row);
  const Tensor tensor = buffer.tensor(dtype, static_cast<std::int64_t>(places.size()), heads, dim);
  reference::from_doubles(local, tensor);
  return tensor;
}

void scatter(const Tensor& local, const std::vector<TokenPlace>& places, std::vector<double>& global) {
  const std::vector<double> values = reference::to_doubles(local);
  const auto row = static_cast<std::size_t>(local.row());
  for (std::size_t n = 0; n < places.size(); ++n)
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(n * row), row,
                global.begin() + places[n].global * static_cast<std::ptrdiff_t>(row));
}

}  // namespace

bool visible(const RingProblem& problem, std::int64_t query, std::int64_t key) {
  const Mask& mask = problem.mask;
  if (document_of(problem, query) != document_of(problem, key)) return false;
  if (mask.causal && key > query) return false;
  if (mask.window == 0) return true;
  const std::int64_t ahead = query - key;
  const bool in_window = mask.causal ? ahead < mask.window : std::abs(ahead) < mask.window;
  return in_window || position_of(problem, key) < mask.first_k;
}

reference::AttentionProblem reference_problem(const RingProblem& problem, std::vector<double>* dout) {
  const AttentionShape& shape = problem.shape;
  const auto random = [&](std::int64_t heads, std::int64_t dim, std::uint64_t stream) {
    return reference::rounded(reference::standard_normal(problem.tokens * heads * dim, problem.seed, stream),
                              shape.dtype);
  };
  reference::AttentionProblem full;
  full.q_tokens = full.k_tokens = problem.tokens;
  full.q_heads = shape.q_heads;
  full.kv_heads = shape.kv_heads;
  full.qk_dim = shape.qk_dim;
  full.v_dim = shape.v_dim;
  full.scale = scale_of(problem);
  full.softcap = problem.softcap;
  full.q_THD = random(shape.q_heads, shape.qk_dim, 1);
  full.k_SGD = random(shape.kv_heads, shape.qk_dim, 2);
  full.v_SGE = random(shape.kv_heads, shape.v_dim, 3);
  full.visible = [problem](std::int64_t i, std::int64_t j) { return visible(problem, i, j); };
  if (problem.dropout > 0) {
    full.keep = [problem](std::int64_t head, std::int64_t i, std::int64_t j) {
      const auto bits =
          dropout_bits(layer_key(problem), static_cast<std::uint32_t>(document_of(problem, i)),
                       static_cast<std::uint32_t>(head), static_cast<std::uint32_t>(position_of(problem, i)),
                       static_cast<std::uint32_t>(position_of(problem, j)));
      return bits < problem.dropout * 0x1p32 ? 0.0 : 1.0 / (1.0 - static_cast<double>(problem.dropout));
    };
  }
  *dout = random(shape.q_heads, shape.v_dim, 4);
  return full;
}

RingResult run_reference(const RingProblem& problem) {
  std::vector<double> dout;
  const reference::AttentionProblem full = reference_problem(problem, &dout);
  reference::AttentionResult forward = reference::attention_forward(full);
  // delta is taken from the output as it is stored: so does the reference of the rounded problem.
  reference::AttentionGradients gradients = reference::attention_backward(full, dout);
  return {std::move(forward.out_THE), std::move(gradients.dq_THD), std::move(gradients.dk_SGD),
          std::move(gradients.dv_SGE), std::move(forward.lse_HT)};
}

RingResult run_on_ring(const RingProblem& problem, const RingRun& run) {
  std::vector<double> dout_global;
  const reference::AttentionProblem full = reference_problem(problem, &dout_global);
  const AttentionShape& s = problem.shape;
  const SequencePlan plan{problem.tokens, run.devices, run.layout, problem.document_starts, run.weights};
  RingResult result;
  result.out.resize(full.q_THD.size() / static_cast<std::size_t>(s.qk_dim) *
                    static_cast<std::size_t>(s.v_dim));
  result.exchange_bytes.resize(static_cast<std::size_t>(run.devices));
  result.dq.resize(full.q_THD.size());
  result.dk.resize(full.k_SGD.size());
  result.dv.resize(full.v_SGE.size());
  std::mutex mutex;
  run_ring({.devices = run.devices / (run.processes ? run.processes->size() : 1),
            .threads = run.threads,
            .timeout = std::chrono::seconds(120),
            .processes = run.processes},
           [&](Context& context, Communicator& communicator) {
             RingAttention ring(context, communicator, s, run.exchange);
             for (const std::int64_t tokens : run.earlier_tokens)
               ring.prepare(
                   {.tokens = tokens, .devices = run.devices, .layout = run.layout, .weights = run.weights},
                   problem.mask);
             ring.prepare(plan, problem.mask);
             const std::vector<TokenPlace> places = shard_places(plan, context.device);
             std::vector<double> out_global(result.out.size());
             const std::int64_t T = ring.tokens(), capacity = ring.max_shard_tokens();
             const auto allocate = [&](std::int64_t tokens, std::int64_t heads, std::int64_t dim) {
               return context.arena.allocate(Entry::attention, tokens * heads * dim * 4 + 4, "test");
             };
             const Buffer q = allocate(T, s.q_heads, s.qk_dim), k = allocate(capacity, s.kv_heads, s.qk_dim),
                          v = allocate(capacity, s.kv_heads, s.v_dim), out = allocate(T, s.q_heads, s.v_dim),
                          dout = allocate(T, s.q_heads, s.v_dim), dq = allocate(T, s.q_heads, s.qk_dim),
                          dk = allocate(capacity, s.kv_heads, s.qk_dim),
                          dv = allocate(capacity, s.kv_heads, s.v_dim), lse = allocate(T, s.q_heads, 1),
                          wide = allocate(T, s.kv_heads, s.qk_dim + s.v_dim + 3);
             RingAttention::Backward backward{
                 .q_THD = local_rows(q, s.dtype, full.q_THD, s.q_heads, s.qk_dim, places),
                 .k_TGD = local_rows(k, s.dtype, full.k_SGD, s.kv_heads, s.qk_dim, places),
                 .v_TGE = local_rows(v, s.dtype, full.v_SGE, s.kv_heads, s.v_dim, places),
                 .out_THE = out.tensor(s.dtype, T, s.q_heads, s.v_dim),
                 .dout_THE = local_rows(dout, s.dtype, dout_global, s.q_heads, s.v_dim, places),
                 .lse_HT = lse.as<float>(),
                 .params = {.scale = scale_of(problem),
                            .softcap = problem.softcap,
                            .dropout = {.probability = problem.dropout, .key = layer_key(problem)}},
                 .dq_THD = dq.tensor(DType::f32, T, s.q_heads, s.qk_dim),
                 .dk_TGD = dk.tensor(DType::f32, T, s.kv_heads, s.qk_dim),
                 .dv_TGE = dv.tensor(DType::f32, T, s.kv_heads, s.v_dim),
                 .spare = {},
                 .idle = {},
                 .label = "test"};
             if (run.strided) {  // keys and values side by side in one wide tensor
               const std::int64_t dim = s.qk_dim + s.v_dim + 3;
               Tensor wide_k = wide.tensor(s.dtype, T, s.kv_heads, dim), wide_v = wide_k;
               wide_v.data = static_cast<char*>(wide_v.data) + s.qk_dim * size_of(s.dtype);
               wide_k.dim = s.qk_dim;
               wide_v.dim = s.v_dim;
               kernels::copy(context.stream, backward.k_TGD, wide_k);
               kernels::copy(context.stream, backward.v_TGE, wide_v);
               backward.k_TGD = wide_k;
               backward.v_TGE = wide_v;
             }
             RingAttention::Forward forward{.q_THD = backward.q_THD,
                                            .k_TGD = backward.k_TGD,
                                            .v_TGE = backward.v_TGE,
                                            .out_THE = out.tensor(s.dtype, T, s.q_heads, s.v_dim),
                                            .lse_HT = lse.as<float>(),
                                            .params = backward.params,
                                            .lent = {},
                                            .spare = {},
                                            .label = "test"};
             if (run.lend_memory)
               forward.lent = {dk.tensor(s.dtype, capacity, s.kv_heads, s.qk_dim),
                               dv.tensor(s.dtype, capacity, s.kv_heads, s.v_dim)};
             if (run.lend_memory || run.reuse_memory)
               backward.spare = {k.tensor(s.dtype, capacity, s.kv_heads, s.qk_dim),
                                 v.tensor(s.dtype, capacity, s.kv_heads, s.v_dim)};
             if (run.reuse_memory) {
               forward.spare = backward.spare;
               backward.idle = {{out.as<std::byte>(), static_cast<std::size_t>(out.bytes())},
                                {wide.as<std::byte>(), static_cast<std::size_t>(wide.bytes())}};
             }
             ring.forward(forward);
             scatter(forward.out_THE, places, out_global);
             if (run.reuse_memory) {
               local_rows(k, s.dtype, full.k_SGD, s.kv_heads, s.qk_dim, places);
               local_rows(v, s.dtype, full.v_SGE, s.kv_heads, s.v_dim, places);
             }
             ring.backward(backward);
             const std::lock_guard lock(mutex);
             result.exchange_bytes[static_cast<std::size_t>(context.device)] =
                 context.ledger.peak(Entry::exchange);
             std::transform(result.out.begin(), result.out.end(), out_global.begin(), result.out.begin(),
                            std::plus());
             scatter(backward.dq_THD, places, result.dq);
             scatter(backward.dk_TGD, places, result.dk);
             scatter(backward.dv_TGE, places, result.dv);
             result.kv_hops += ring.counters().kv_hops;
             result.gradient_hops += ring.counters().gradient_hops;
           });
  return result;
}

double relative_to_largest(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (const double value : b) largest = std::max(largest, std::abs(value));
  const double difference = reference::max_difference(a, b);
  return largest > 0 ? difference / largest : difference;
}

}  // namespace rondo::test
