#pragma once
// docs/memory.md in code: bytes of each ledger entry of one device, from the configuration. Written from the
// page, not from the allocations, so that a buffer too many shows.

#include <algorithm>
#include <array>

#include "tests/support/spawn.h"
#include "tests/train/training_support.h"

namespace rondo::test {

struct MemoryCase {
  ModelConfig config;
  DType dtype = DType::f32;
  Remat remat = Remat::attention;
  Exchange exchange = Exchange::copy;
  AttentionForm attention = AttentionForm::blockwise;
  FeedForwardForm feed_forward = FeedForwardForm::blockwise;
  Layout layout = Layout::zigzag;
  std::int64_t block_tokens = 64, context = 0;
  int devices = 1, processes = 1;  ///< as many devices in each
};

using Entries = std::array<std::int64_t, static_cast<std::size_t>(Entry::count)>;

/// Most bytes of weights that one function of a step packs.
inline std::int64_t packed_bytes(const MemoryCase& run) {
  using kernels::WeightUse;
  const ModelConfig& m = run.config;
  const auto both = [&](std::int64_t rows, std::int64_t columns) {
    std::array<std::int64_t, 2> bytes{};
    for (const WeightUse use : {WeightUse::forward, WeightUse::backward_input})
      bytes[static_cast<std::size_t>(use)] =
          (kernels::packed_weight_bytes(default_isa(), run.dtype, rows, columns, use) + 63) / 64 * 64;
    return bytes;
  };
  const auto q = both(m.q_heads * m.head_dim, m.width), k = both(m.kv_heads * m.head_dim, m.width),
             o = both(m.width, m.q_heads * m.head_dim), gate = both(m.ffn, m.width),
             down = both(m.width, m.ffn), head = both(m.vocabulary, m.width);
  const std::int64_t recomputed = run.remat == Remat::none ? 0 : 2 * gate[0];
  return std::max({q[0] + 2 * k[0], q[1] + 2 * k[1], o[0], o[1], 2 * gate[0] + down[0],
                   2 * gate[1] + down[1] + recomputed, head[0] + head[1]});
}

/// Of a device with c tokens, on a ring whose largest shard has s. Library scratch is left 0: it depends on
/// the matrix library.
inline Entries predicted(const MemoryCase& run, std::int64_t c, std::int64_t s) {
  const ModelConfig& m = run.config;
  const std::int64_t e = size_of(run.dtype), C = m.width, F = m.ffn, V = m.vocabulary, L = m.layers,
                     H = m.q_heads, G = m.kv_heads, d = m.head_dim, N = ParameterTable(m).total();
  const bool rounds = run.dtype != DType::f32, vanilla = run.attention == AttentionForm::vanilla,
             whole = run.feed_forward == FeedForwardForm::whole, keeps_all = run.remat == Remat::none;
  const std::int64_t B = whole ? c : run.block_tokens;
  const auto page = [](std::int64_t bytes) { return (bytes + 4095) / 4096 * 4096; };
  Entries bytes{};
  const auto of = [&](Entry entry) -> std::int64_t& { return bytes[static_cast<std::size_t>(entry)]; };
  of(Entry::parameters) = of(Entry::gradients) = page(4 * N);
  of(Entry::optimizer) = 2 * page(4 * N);
  if (run.processes > 1) {  // the devices' parts, whole groups of 16 elements, of a layer's gradients
    const std::int64_t D = run.devices, layer = ParameterTable(m).buckets()[1].size();
    const std::int64_t part = (std::max<std::int64_t>(layer, 65536) + 16 * D - 1) / (16 * D) * 16;
    of(Entry::gradient_exchange) = page(4 * D * part);
  }
  of(Entry::compute_weights) = rounds ? page(e * N) : 0;
  of(Entry::packed_weights) = c > 64 ? page(packed_bytes(run)) : 0;
  of(Entry::layer_inputs) = (L + 1) * page(e * s * C);

  const std::int64_t output = page(e * s * H * d) + (vanilla ? 0 : page(4 * c * H));  // and lse
  const std::int64_t scores = vanilla ? page(4 * H * c * c) : 0;
  const std::int64_t projections = page(e * c * H * d) + 2 * page(e * s * G * d), mid = page(e * s * C);
  const std::int64_t products = 2 * page(e * c * F);
  of(Entry::kept) = keeps_all                       ? L * (projections + output + scores + mid + products)
                    : run.remat == Remat::attention ? L * output
                                                    : 0;
  const std::int64_t recomputed = keeps_all                       ? 0
                                  : run.remat == Remat::attention ? projections + mid + scores
                                                                  : projections + mid + scores + output;
  const std::int64_t gradients =
      page(4 * c * C) + page(e * c * H * d) + page(4 * c * H * d) + 2 * page(4 * s * G * d);
  const std::int64_t state = page(4 * H * ((c + 63) / 64 * 64) * (d + 2));
  of(Entry::attention) = recomputed + gradients;
  of(Entry::attention) += vanilla ? scores + (rounds ? page(4 * c * d) : 0) : state + page(4 * H * c);

  of(Entry::feed_forward_block) = page(e * B * C) + (whole && keeps_all ? 2 : 4) * page(e * B * F) +
                                  page(4 * B * C) + (rounds ? page(e * B * std::max(C, H * d)) : 0);
  const std::int64_t b = std::clamp<std::int64_t>((16 << 20) / (4 * V), 1, run.block_tokens);
  of(Entry::loss_block) =
      page(e * b * C) + page(4 * b * V) + page(4 * b) + page(4 * b * C) + (rounds ? page(e * b * V) : 0);
  if (run.devices > 1) {
    const std::int64_t half = 4 * s * G * d;  // of a pair of gradients that travels: those of the keys
    std::int64_t halves = 0;
    for (const std::int64_t idle : {state, page(e * s * H * d), page(e * s * C), page(e * s * C)})
      halves += idle / half;
    of(Entry::exchange) =
        (run.exchange == Exchange::copy ? page(2 * e * s * G * d) : 0) +
        std::max<std::int64_t>(0, (run.processes > 1 ? 3 : 2) - halves / 2) * page(2 * half);
  }
  of(Entry::data) = page(24 * c) + 3 * page(4 * c) + 2 * page(4 * c * d / 2);
  return bytes;
}

inline std::int64_t sum_of(const Entries& entries) {
  std::int64_t sum = 0;
  for (const std::int64_t bytes : entries) sum += bytes;
  return sum;
}

/// Most tokens whose sequence fits, scratch apart.
inline std::int64_t longest_context(MemoryCase run, int devices, std::int64_t limit) {
  run.devices = devices;
  std::int64_t fits = 1, too_long = limit;
  while (too_long - fits > 1) {
    const std::int64_t middle = (fits + too_long) / 2, shard = (middle + devices - 1) / devices;
    (sum_of(predicted(run, shard, shard)) <= limit ? fits : too_long) = middle;
  }
  return fits;
}

/// 12 layers of plain shape over bytes.
inline ModelConfig deep_config(std::int64_t width, std::int64_t q_heads, std::int64_t kv_heads) {
  return {.vocabulary = 258,
          .width = width,
          .ffn = width,
          .layers = 12,
          .q_heads = q_heads,
          .kv_heads = kv_heads,
          .head_dim = width / q_heads,
          .bos = 256,
          .eos = {257}};
}

/// What one step's ledgers held.
struct Measured {
  std::vector<Entries> peaks;             // of each device
  std::vector<std::int64_t> peak_totals;  // of each device
};

inline Measured run_one_step(const MemoryCase& run, const Corpus& corpus, std::int64_t memory_limit = 0) {
  Measured measured;
  measured.peaks.resize(static_cast<std::size_t>(run.devices));
  measured.peak_totals.resize(measured.peaks.size());
  TrainingRecipe recipe = small_recipe(run.context, 1);
  recipe.dtype = run.dtype;
  const ExecutionOptions execution{
      .ring = {.devices = run.devices, .memory_limit = memory_limit, .timeout = std::chrono::seconds(600)},
      .layout = run.layout,
      .remat = run.remat,
      .exchange = run.exchange,
      .attention = run.attention,
      .feed_forward = run.feed_forward,
      .block_tokens = run.block_tokens};
  const auto step = [&](Context& context, Communicator& communicator) {
    Trainer trainer(context, communicator, run.config, recipe, execution, corpus);
    trainer.initialise();
    trainer.step();
    const auto me = static_cast<std::size_t>(context.device);
    for (std::size_t entry = 0; entry < measured.peaks[me].size(); ++entry)
      measured.peaks[me][entry] = context.ledger.peak(static_cast<Entry>(entry));
    measured.peak_totals[me] = context.ledger.peak_total();
  };
  test::spawn_divided(run.devices, run.devices / run.processes, step, execution.ring);
  return measured;
}

}  // namespace rondo::test
