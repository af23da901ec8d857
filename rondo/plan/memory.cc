#include "rondo/plan/memory.h"

#include <algorithm>
#include <numeric>

#include "rondo/attention/gradient_lane.h"
#include "rondo/core/error.h"
#include "rondo/kernels/kernels.h"

namespace rondo {

namespace {

/// Tokens up to which nothing is packed (model/packed_weights.cc), and logits of a loss block in bytes
/// (model/loss_head.cc).
constexpr std::int64_t kFewTokens = 64, kMostLogitBytes = 16 << 20;
constexpr std::int64_t kCacheBlock = 256;       // tokens (infer/kv_cache.h)
constexpr std::int64_t kLeastSummed = 1 << 16;  // elements (train/gradient_sum.cc)

/// What the arena makes of a request.
std::int64_t page(std::int64_t bytes) { return (bytes + 4095) / 4096 * 4096; }

std::int64_t& of(EntryBytes& bytes, Entry entry) { return bytes[static_cast<std::size_t>(entry)]; }

std::int64_t loss_block_tokens(const RunShape& run) {
  return std::clamp<std::int64_t>(kMostLogitBytes / (4 * run.config.vocabulary), 1, run.block_tokens);
}

}  // namespace

const char* name_of(Purpose purpose) {
  return purpose == Purpose::train ? "train" : purpose == Purpose::evaluate ? "eval" : "generate";
}

Purpose parse_purpose(std::string_view name) {
  for (const Purpose purpose : {Purpose::train, Purpose::evaluate, Purpose::generate})
    if (name == name_of(purpose)) return purpose;
  argument_error("plan", "expected train, eval or generate, got '{}'", name);
}

std::int64_t sum_of(const EntryBytes& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}

MemoryModel::MemoryModel(const RunShape& run) : run_(run) {
  constexpr const char* op = "plan";
  check_argument(run.devices >= 1 && run.replicas >= 1, op,
                 "expected at least 1 device and 1 ring, got {}, {}", run.devices, run.replicas);
  check_argument(run.block_tokens >= 1, op, "expected blocks of at least 1 token, got {}", run.block_tokens);
  check_argument(
      run.devices == 1 || run.may_be_a_ring(), op,
      "expected rings of one device for --attention vanilla, got {} devices; use --attention blockwise",
      run.devices);
  const ParameterTable table(run.config);
  buckets_ = table.buckets();
  parameters_ = table.parameters();
}

MemoryModel MemoryModel::on(int devices) const {
  MemoryModel other = *this;
  check_argument(devices >= 1, "plan", "expected at least 1 device, got {}", devices);
  check_argument(devices == 1 || run_.may_be_a_ring(), "plan",
                 "expected one device for --attention vanilla, got a ring of {}", devices);
  other.run_.devices = devices;
  return other;
}

std::int64_t MemoryModel::layer_elements() const {
  std::int64_t most = 0;
  for (std::size_t n = 1; n + 1 < buckets_.size(); ++n) most = std::max(most, buckets_[n].size());
  return most;
}

std::int64_t MemoryModel::owned(int device) const {
  std::int64_t elements = 0;
  for (const Range& bucket : buckets_) elements += owned_part(bucket, run_.devices_in_all(), device).size();
  return elements;
}

/// The devices' parts of a layer's gradients while they are summed. Within a process all read each other's.
std::int64_t MemoryModel::parts_under_way() const {
  if (run_.devices_in_all() == 1 || (!run_.between_processes && shard() == Shard::none)) return 0;
  const std::int64_t most = std::max(layer_elements(), kLeastSummed);
  const std::int64_t part = owned_part({0, most}, run_.devices_in_all(), 0).size();
  return page(4 * part * run_.devices_in_all());
}

void MemoryModel::add_training_state(EntryBytes& bytes, int device) const {
  const std::int64_t N = total_elements(), own = owned(device), e = size_of(run_.dtype);
  const bool rounds = run_.dtype != DType::f32, whole = shard() != Shard::parameters;
  const bool whole_master = shard() == Shard::none || (shard() == Shard::optimizer && !rounds);
  of(bytes, Entry::optimizer) = 2 * page(4 * (shard() == Shard::none ? N : own));
  of(bytes, Entry::parameters) = page(4 * (whole_master ? N : own));
  of(bytes, Entry::gradients) = page(4 * (whole ? N : own));
  of(bytes, Entry::gradient_exchange) = parts_under_way();
  if (whole) {
    of(bytes, Entry::compute_weights) = rounds ? page(e * N) : 0;
    return;
  }
  of(bytes, Entry::compute_weights) = slots(e);
  of(bytes, Entry::gradient_exchange) += slots(4);
}

std::int64_t MemoryModel::slots(std::int64_t element) const {
  const std::int64_t first = buckets_.front().size(), last = buckets_.back().size();
  const std::int64_t layers = std::min<std::int64_t>(2, run_.config.layers);
  const std::int64_t outer = run_.config.tied_embedding ? page(element * first) + page(element * last)
                                                        : page(element * std::max(first, last));
  return layers * page(element * layer_elements()) + outer;
}

/// Evaluation and generation: float32 as read, then rounded.
void MemoryModel::add_weights(EntryBytes& bytes, int device) const {
  if (shard() == Shard::parameters) {
    of(bytes, Entry::parameters) = page(4 * owned(device));
    of(bytes, Entry::compute_weights) = slots(size_of(run_.dtype));
    return;
  }
  of(bytes, Entry::parameters) = page(4 * total_elements());
  if (run_.dtype != DType::f32)
    of(bytes, Entry::compute_weights) = page(size_of(run_.dtype) * total_elements());
}

/// Most bytes of weights that one function packs at once.
std::int64_t MemoryModel::packed_bytes() const {
  using kernels::WeightUse;
  const ModelConfig& m = run_.config;
  const auto packed = [&](std::int64_t rows, std::int64_t columns, WeightUse use) {
    return (kernels::packed_weight_bytes(run_.isa, run_.dtype, rows, columns, use) + 63) / 64 * 64;
  };
  const std::int64_t q_width = m.q_heads * m.head_dim, kv_width = m.kv_heads * m.head_dim;
  const auto all_of = [&](WeightUse use) {
    struct Products {
      std::int64_t qkv, o, gate_up, down, head;
    };
    return Products{packed(q_width, m.width, use) + 2 * packed(kv_width, m.width, use),
                    packed(m.width, q_width, use), 2 * packed(m.ffn, m.width, use),
                    packed(m.width, m.ffn, use), packed(m.vocabulary, m.width, use)};
  };
  const auto f = all_of(WeightUse::forward), b = all_of(WeightUse::backward_input);
  std::int64_t most = std::max({f.qkv, f.o, f.gate_up + f.down});
  if (run_.purpose == Purpose::generate) return most;  // the logits of one token
  if (run_.purpose == Purpose::evaluate) return std::max(most, f.head);
  const std::int64_t recomputed = run_.remat == Remat::none ? 0 : f.gate_up;
  return std::max({most, b.qkv, b.o, b.gate_up + b.down + recomputed, f.head + b.head});
}

/// Of a float32 for each query head, query and key in some layers; of contexts beyond all memory, more than
/// any.
std::int64_t MemoryModel::score_bytes(std::int64_t tokens, std::int64_t layers) const {
  if (run_.attention == AttentionForm::blockwise) return 0;
  constexpr double kMost = 0x1p59;
  const double all = 4.0 * static_cast<double>(run_.config.q_heads) * static_cast<double>(tokens) *
                     static_cast<double>(tokens) * static_cast<double>(layers);
  return all > kMost ? static_cast<std::int64_t>(kMost)
                     : layers * page(4 * run_.config.q_heads * tokens * tokens);
}

void MemoryModel::add_activations(EntryBytes& bytes, const ShardSize& shard) const {
  const ModelConfig& m = run_.config;
  const bool trains = run_.purpose == Purpose::train;
  const std::int64_t e = size_of(run_.dtype), C = m.width, L = m.layers, H = m.q_heads, G = m.kv_heads,
                     d = m.head_dim, c = shard.own, s = shard.largest;
  of(bytes, Entry::layer_inputs) = (trains ? L + 1 : 1) * page(e * s * C);
  const bool vanilla = run_.attention == AttentionForm::vanilla;  // without lse, state and delta
  const std::int64_t output = page(e * s * H * d) + (vanilla ? 0 : page(4 * c * H));  // and lse
  const std::int64_t projections = page(e * c * H * d) + 2 * page(e * s * G * d);
  const std::int64_t state = page(4 * H * ((c + 63) / 64 * 64) * (d + 2));
  const std::int64_t widened = run_.dtype == DType::f32 ? 0 : page(4 * c * d);
  std::int64_t& attention = of(bytes, Entry::attention);
  attention = vanilla ? widened : state;
  if (!trains) {
    attention += projections + score_bytes(c, 1);
  } else {
    const std::int64_t mid = page(e * s * C), products = 2 * page(e * c * m.ffn);
    const bool all = run_.remat == Remat::none, outputs = run_.remat != Remat::layer;
    of(bytes, Entry::kept) = L * ((outputs ? output : 0) + (all ? projections + mid + products : 0)) +
                             (all ? score_bytes(c, L) : 0);
    attention += score_bytes(c, all ? 1 : 2) + (outputs ? 0 : output) + (all ? 0 : projections + mid);
    attention += page(4 * c * C) + page(e * c * H * d) + page(4 * c * H * d) + 2 * page(4 * s * G * d);
    if (!vanilla) attention += page(4 * H * c);  // delta
  }
  of(bytes, Entry::data) = page(24 * c) + 3 * page(4 * c) + 2 * page(4 * c * d / 2);
  of(bytes, Entry::packed_weights) = c > kFewTokens ? page(packed_bytes()) : 0;
}

/// One device works on a segment at a time (model/segmented.cc).
void MemoryModel::add_segments(EntryBytes& bytes, std::int64_t tokens) const {
  const ModelConfig& c = run_.config;
  const bool trains = run_.purpose == Purpose::train;
  const std::int64_t e = size_of(run_.dtype), m = std::min(run_.segment_tokens, tokens),
                     segments = (tokens + run_.segment_tokens - 1) / run_.segment_tokens,
                     q_row = c.q_heads * c.head_dim, kv_row = c.kv_heads * c.head_dim;
  const std::int64_t held = run_.spills ? std::min<std::int64_t>(3, segments) : segments;
  const auto store = [&](std::int64_t row_bytes) { return held * page(m * row_bytes); };
  of(bytes, Entry::layer_inputs) = (trains ? c.layers + 1 : run_.keeps_work ? 2 : 1) * store(c.width * e);
  of(bytes, Entry::data) = page(24 * tokens) + 3 * page(4 * tokens) + store(4 * c.head_dim);
  if (run_.keeps_work) of(bytes, Entry::data) += store(4);
  std::int64_t& attention = of(bytes, Entry::attention);
  attention = store(2 * kv_row * e) + 2 * page(m * q_row * e) +
              page(4 * c.q_heads * ((m + 63) / 64 * 64) * (c.head_dim + 2));
  if (trains) {
    const std::int64_t output = (m * q_row * e + 63) / 64 * 64 + 4 * m * c.q_heads;
    of(bytes, Entry::kept) = c.layers * held * page(output);
    attention += store(q_row * e) + store(4 * c.width) + store(8 * kv_row);
    attention += page(m * c.width * e) + page(m * q_row * e) + page(4 * m * q_row) + page(4 * m * c.q_heads);
  }
  of(bytes, Entry::packed_weights) = m > kFewTokens ? page(packed_bytes()) : 0;
}

void MemoryModel::add_blocks(EntryBytes& bytes, const ShardSize& shard) const {
  const ModelConfig& m = run_.config;
  const bool trains = run_.purpose == Purpose::train, rounds = run_.dtype != DType::f32;
  const bool whole = run_.feed_forward == FeedForwardForm::whole;
  const std::int64_t e = size_of(run_.dtype), C = m.width, F = m.ffn, V = m.vocabulary,
                     B = whole ? std::max<std::int64_t>(1, shard.own) : run_.block_tokens,
                     b = loss_block_tokens(run_);
  // Gate and up of the whole share have no second place where they are kept.
  const std::int64_t hidden = whole && trains && run_.remat == Remat::none ? 1 : 3;
  std::int64_t& layer = of(bytes, Entry::feed_forward_block);
  layer = page(e * B * C) + hidden * page(e * B * F);
  std::int64_t& loss = of(bytes, Entry::loss_block);
  loss = page(e * b * C) + page(4 * b * V) + page(4 * b);
  if (trains) {
    layer +=
        page(e * B * F) + page(4 * B * C) + (rounds ? page(e * B * std::max(C, m.q_heads * m.head_dim)) : 0);
    loss += page(4 * b * C) + (rounds ? page(e * b * V) : 0);
  }
}

void MemoryModel::add_exchange(EntryBytes& bytes, const ShardSize& shard) const {
  if (run_.devices == 1) return;
  const ModelConfig& m = run_.config;
  const std::int64_t e = size_of(run_.dtype), row = 2 * m.kv_heads * m.head_dim, s = shard.largest;
  std::int64_t& exchange = of(bytes, Entry::exchange);
  // A window shortens the way, and makes zigzag shards travel in both directions.
  const bool windowed = m.sliding_window > 0 && m.sliding_window < shard.tokens;
  const bool both_ways = windowed && run_.layout == Layout::zigzag && run_.devices > 2;
  const std::int64_t pairs_that_arrive = both_ways ? 3 : 1;  // beside idle memory for one
  if (run_.exchange == Exchange::copy) exchange += pairs_that_arrive * page(e * s * row);
  if (windowed && m.first_k > 0) {
    const std::int64_t k = std::min(m.first_k, shard.tokens);
    const std::int64_t most =
        run_.layout == Layout::striped ? (k + run_.devices - 1) / run_.devices : std::min(k, s);
    exchange +=
        page(e * k * row) + page(e * most * row) + page(e * most * row * run_.devices) + page(4 * k * row);
  }
  const std::int64_t half = 4 * s * row / 2;  // of a pair of gradients: those of keys
  if (run_.purpose != Purpose::train || half == 0) return;
  const std::int64_t state = page(4 * m.q_heads * ((shard.own + 63) / 64 * 64) * (m.head_dim + 2)),
                     out = page(e * s * m.q_heads * m.head_dim), residual = page(e * s * m.width);
  const std::int64_t pairs = run_.between_processes ? 3 : 2;
  const std::int64_t in_idle_memory = (state / half + out / half + 2 * (residual / half)) / 2;
  exchange += std::max<std::int64_t>(0, pairs - in_idle_memory) * page(2 * half);
}

/// What generation holds beside evaluation: the cache, one token at work, and parts of a merge.
void MemoryModel::add_cache(EntryBytes& bytes, std::int64_t tokens) const {
  const ModelConfig& m = run_.config;
  const std::int64_t e = size_of(run_.dtype), C = m.width, H = m.q_heads, G = m.kv_heads, d = m.head_dim,
                     P = run_.devices;
  const bool segments = run_.segment_tokens > 0;
  const std::int64_t prompt = std::max<std::int64_t>(1, tokens - run_.answer_tokens);
  of(bytes, Entry::kv_cache) =
      m.layers * cached_layer_bytes(segments ? std::max<std::int64_t>(1, tokens - prompt) : tokens);
  if (segments) add_prompt_cache(bytes, prompt);
  of(bytes, Entry::feed_forward_block) += page(e * C) + 3 * page(e * m.ffn);
  of(bytes, Entry::attention) += page(e * C) + 2 * page(e * H * d) + 2 * page(e * G * d);
  of(bytes, Entry::loss_block) += page(4 * m.vocabulary);
  if (P > 1) of(bytes, Entry::exchange) += page(4 * H * (d + 1)) + 2 * page(4 * H * (d + 1) * P);
}

/// Of a layer, in whole blocks (infer/kv_cache.cc).
std::int64_t MemoryModel::cached_layer_bytes(std::int64_t tokens) const {
  const std::int64_t share = (tokens + run_.devices - 1) / run_.devices;
  const std::int64_t slots = (share + kCacheBlock - 1) / kCacheBlock + 2;
  return 2 * page(slots * kCacheBlock * run_.config.kv_heads * run_.config.head_dim * size_of(run_.dtype));
}

/// The prompt's, of which blocks may be on the disk, and parts of a merge (infer/prompt_cache.cc).
void MemoryModel::add_prompt_cache(EntryBytes& bytes, std::int64_t prompt) const {
  const ModelConfig& c = run_.config;
  const std::int64_t row = 2 * c.kv_heads * c.head_dim * size_of(run_.dtype),
                     blocks = (prompt + run_.segment_tokens - 1) / run_.segment_tokens;
  const std::int64_t held = run_.spills ? std::min<std::int64_t>(3, c.layers * blocks) : c.layers * blocks;
  of(bytes, Entry::kv_cache) += held * page(std::min(run_.segment_tokens, prompt) * row);
  const std::int64_t parts = 4 * (blocks + 1) * c.q_heads;
  of(bytes, Entry::attention) += page(parts * c.head_dim) + page(parts);
}

EntryBytes MemoryModel::entries(const ShardSize& shard) const {
  EntryBytes bytes{};
  ShardSize pass = shard;  // what one goes over: of a generation's tokens the prompt
  if (run_.answer_tokens > 0)
    pass.own = pass.largest =
        std::max<std::int64_t>(1, (shard.tokens - run_.answer_tokens + run_.devices - 1) / run_.devices);
  if (run_.purpose == Purpose::train)
    add_training_state(bytes, shard.device);
  else
    add_weights(bytes, shard.device);
  if (run_.segment_tokens > 0)
    add_segments(bytes, pass.own);
  else
    add_activations(bytes, pass);
  add_blocks(bytes, pass);
  add_exchange(bytes, pass);
  if (run_.purpose == Purpose::generate) add_cache(bytes, shard.tokens);
  return bytes;
}

EntryBytes MemoryModel::entries(std::int64_t tokens) const {
  const std::int64_t largest = (tokens + run_.devices - 1) / run_.devices;
  return entries({.tokens = tokens, .own = largest, .largest = largest});
}

std::int64_t MemoryModel::peak(const EntryBytes& entries) const {
  const std::int64_t all = sum_of(entries);
  if (run_.purpose == Purpose::train || run_.dtype == DType::f32 || shard() == Shard::parameters) return all;
  // The float32 weights are gone before anything else is there.
  const std::int64_t read = entries[static_cast<std::size_t>(Entry::parameters)],
                     rounded = entries[static_cast<std::size_t>(Entry::compute_weights)];
  return std::max(read + rounded, all - read);
}

LongestContext longest_context(const MemoryModel& memory, std::int64_t limit) {
  const auto peak_at = [&](std::int64_t tokens) { return memory.peak(memory.entries(tokens)); };
  LongestContext longest;
  std::int64_t fits = 0, too_long = 1;
  while (too_long < (std::int64_t{1} << 44) && peak_at(too_long) <= limit) fits = too_long, too_long *= 2;
  while (too_long - fits > 1) {
    const std::int64_t middle = fits + (too_long - fits) / 2;
    (peak_at(middle) <= limit ? fits : too_long) = middle;
  }
  longest.tokens = fits;
  longest.entries = memory.entries(std::max<std::int64_t>(fits, 1));
  longest.peak = memory.peak(longest.entries);
  // What grows when the sequence does, or everything where nothing fits.
  const EntryBytes doubled = memory.entries(2 * std::max<std::int64_t>(fits, 1) + 128 * memory.run().devices);
  std::int64_t most = -1;
  for (std::size_t n = 0; n < doubled.size(); ++n) {
    const bool grows = doubled[n] > longest.entries[n];
    if ((fits == 0 || grows) && longest.entries[n] > most)
      most = longest.entries[n], longest.limits = static_cast<Entry>(n);
  }
  return longest;
}

}  // namespace rondo
