#include "rondo/plan/spill_time.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "rondo/core/error.h"
#include "rondo/plan/spill_clocks.h"

namespace rondo {

namespace {

/// Bytes of a token in each store of Segmented.
struct TokenBytes {
  explicit TokenBytes(const RunShape& run) {
    const ModelConfig& c = run.config;
    const auto e = static_cast<double>(size_of(run.dtype));
    const auto q = static_cast<double>(c.q_heads * c.head_dim),
               kv = static_cast<double>(c.kv_heads * c.head_dim);
    x = e * static_cast<double>(c.width);
    kept = e * q + 4 * static_cast<double>(c.q_heads);
    rotary = 4 * static_cast<double>(c.head_dim);
    keys_values = 2 * kv * e;
    queries = q * e;
    dx = 4 * static_cast<double>(c.width);
    gradients = 8 * kv;
  }
  double x, kept, rotary, keys_values, queries, dx, gradients;
};

/// A pass over a sequence, as Segmented makes it.
class Pass {
 public:
  Pass(const MemoryModel& memory, const Hardware& hardware, std::int64_t tokens)
      : memory_(memory),
        run_(memory.run()),
        tokens_(tokens),
        segments_((tokens + run_.segment_tokens - 1) / run_.segment_tokens),
        clocks_(run_.spills ? hardware.disk : Disk{}),
        bytes_(run_),
        whole_(step_prices(memory, hardware, range(0).size(), 0)),
        last_(step_prices(memory, hardware, range(segments_ - 1).size(), 0)),
        rotary_(store(bytes_.rotary)),
        keys_values_(store(bytes_.keys_values)),
        queries_(store(bytes_.queries)),
        dx_(store(bytes_.dx)),
        gradients_(store(bytes_.gradients)),
        cache_(clocks_, bytes_.keys_values, range(0).size(), run_.config.layers * segments_) {
    // Layers that are not simulated do as the third one.
    const std::size_t layers = static_cast<std::size_t>(std::min<std::int64_t>(3, run_.config.layers));
    for (std::size_t n = 0; n < (trains() ? layers + 1 : 1); ++n) x_.push_back(store(bytes_.x));
    for (std::size_t n = 0; n < layers; ++n) kept_.push_back(store(bytes_.kept));
  }

  SpillTime simulate();

 private:
  bool trains() const { return run_.purpose == Purpose::train; }
  Range range(std::int64_t segment) const {
    return {segment * run_.segment_tokens, std::min(tokens_, (segment + 1) * run_.segment_tokens)};
  }
  StoreClock store(double token_bytes) { return {clocks_, token_bytes, range(0).size(), segments_}; }
  const StepPrices& prices(std::int64_t segment) const { return segment + 1 == segments_ ? last_ : whole_; }
  std::int64_t after(std::int64_t segment) const { return segment + 1 < segments_ ? segment + 1 : -1; }
  std::int64_t first_block(std::int64_t segment) const {
    const std::int64_t window = run_.config.sliding_window;
    return window == 0 ? 0
                       : std::max<std::int64_t>(0, range(segment).begin - window + 1) / run_.segment_tokens;
  }
  double pairs(std::int64_t segment, std::int64_t block) const {
    return visible_pairs(range(segment), range(block), run_.config.sliding_window);
  }
  /// Calls body(block, next one or -1).
  template <class Body>
  void for_blocks(std::int64_t segment, const Body& body) {
    for (std::int64_t block = first_block(segment); block <= segment; ++block)
      body(block, block < segment ? block + 1 : -1);
  }
  void embed();
  void project(std::int64_t segment);
  void forward_segment(std::size_t layer, std::int64_t segment);
  void head();
  void backward_attention(std::int64_t segment);
  void layer_backward(std::size_t layer);
  StepPrices sums() const;

  const MemoryModel& memory_;
  const RunShape& run_;
  std::int64_t tokens_, segments_;
  Clocks clocks_;
  TokenBytes bytes_;
  StepPrices whole_, last_;
  std::vector<StoreClock> x_, kept_;
  StoreClock rotary_, keys_values_, queries_, dx_, gradients_, cache_;
  std::vector<bool> summed_;
};

void Pass::embed() {
  for (std::int64_t s = 0; s < segments_; ++s) rotary_.write(s), rotary_.written(s);
  for (std::int64_t s = 0; s < segments_; ++s) x_[0].write(s), x_[0].written(s);
}

void Pass::project(std::int64_t segment) {
  keys_values_.write(segment);
  rotary_.read(segment, after(segment));
  clocks_.compute(prices(segment).forward_before);
  keys_values_.written(segment);
}

void Pass::forward_segment(std::size_t layer, std::int64_t segment) {
  x_[trains() ? layer : 0].read(segment, after(segment));
  project(segment);
  if (run_.purpose == Purpose::generate) {
    const std::int64_t place = static_cast<std::int64_t>(layer) * segments_ + segment;
    cache_.write(place), cache_.written(place);
  }
  if (trains()) kept_[layer].write(segment);
  for_blocks(segment, [&](std::int64_t block, std::int64_t next) {
    keys_values_.read(block, next);
    clocks_.compute(whole_.attention.forward_per_pair * pairs(segment, block));
  });
  if (trains()) kept_[layer].written(segment);
  StoreClock& to = x_[trains() ? layer + 1 : 0];
  trains() ? to.write(segment) : to.change(segment, after(segment));
  clocks_.compute(prices(segment).forward_after);
  to.written(segment);
}

void Pass::head() {
  for (std::int64_t s = 0; s < segments_; ++s) {
    x_.back().read(s, after(s));
    if (trains()) dx_.write(s);
    clocks_.compute(prices(s).head);
    if (trains()) dx_.written(s);
  }
}

void Pass::backward_attention(std::int64_t segment) {
  for_blocks(segment, [&](std::int64_t block, std::int64_t next) {
    const auto begun = [&](std::int64_t at) { return at >= 0 && summed_[static_cast<std::size_t>(at)]; };
    keys_values_.read(block, next);
    begun(block) ? gradients_.change(block, begun(next) ? next : -1) : gradients_.write(block);
    summed_[static_cast<std::size_t>(block)] = true;
    clocks_.compute(whole_.attention.backward_per_pair * pairs(segment, block));
    if (block != segment) gradients_.written(block);
  });
}

void Pass::layer_backward(std::size_t layer) {
  for (std::int64_t s = 0; s < segments_; ++s) {
    x_[layer].read(s, after(s));
    queries_.write(s);
    project(s);
    queries_.written(s);
  }
  summed_.assign(static_cast<std::size_t>(segments_), false);
  for (std::int64_t s = segments_; s-- > 0;) {
    const StepPrices& p = prices(s);
    x_[layer].read(s, s - 1);
    kept_[layer].read(s, s - 1);
    dx_.change(s, s - 1);
    clocks_.compute(p.again - p.forward_before + p.backward_before);
    queries_.read(s, s - 1);
    backward_attention(s);
    rotary_.read(s, s - 1);
    clocks_.compute(p.backward_after);
    dx_.written(s);
  }
}

/// Parts of the step that do not depend on when they happen.
StepPrices Pass::sums() const {
  StepPrices all = whole_;
  const auto whole = static_cast<double>(segments_ - 1);
  for (const auto part : {&StepPrices::linear, &StepPrices::elementwise, &StepPrices::embedding})
    all.*part = whole * whole_.*part + last_.*part;
  all.tokens = static_cast<double>(tokens_);
  all.most_pairs = visible_pairs({0, tokens_}, {0, tokens_}, run_.config.sliding_window);
  return all;
}

SpillTime Pass::simulate() {
  embed();
  clocks_.repeat(run_.config.layers, [&](std::int64_t layer) {
    for (std::int64_t s = 0; s < segments_; ++s) forward_segment(static_cast<std::size_t>(layer), s);
  });
  if (run_.purpose != Purpose::generate) head();
  SpillTime time{.prices = sums()};
  if (trains()) {
    const std::int64_t kept = static_cast<std::int64_t>(kept_.size());
    clocks_.repeat(run_.config.layers,
                   [&](std::int64_t n) { layer_backward(static_cast<std::size_t>(kept - 1 - n)); });
    for (std::int64_t s = 0; s < segments_; ++s) {
      dx_.read(s, after(s));
      clocks_.compute(prices(s).embedding);
    }
    clocks_.compute(time.prices.update);
  }
  time.seconds = clocks_.now(), time.computing = clocks_.computed();
  time.pairs = time.prices.most_pairs;
  if (run_.spills) time.read = clocks_.bytes_read(), time.written = clocks_.bytes_written();
  return time;
}

/// With more segments than are simulated: a block takes as long as the slower of disk and device.
SpillTime in_closed_form(const MemoryModel& memory, const Hardware& hardware, std::int64_t tokens) {
  const RunShape& run = memory.run();
  // As many segments as are simulated take as long as they do; the other blocks are alike.
  const std::int64_t m = run.segment_tokens, simulated = m * kMostSegments;
  SpillTime less = Pass(memory, hardware, simulated).simulate(),
            half = Pass(memory, hardware, simulated / 2).simulate();
  // seconds = a S + b S^2 without a window, and a S with one (plus what happens once).
  const auto S = static_cast<double>(tokens) / static_cast<double>(m), S1 = double(kMostSegments),
             S2 = S1 / 2;
  const double update = less.prices.update;
  const auto grown = [&](double at1, double at2, double once) {
    const double b = ((at1 - once) / S1 - (at2 - once) / S2) / (S1 - S2), a = (at1 - once) / S1 - b * S1;
    return once + S * a + S * S * b;
  };
  SpillTime time{.prices = less.prices};
  time.seconds = grown(less.seconds, half.seconds, update);
  time.computing = grown(less.computing, half.computing, update);
  time.read = grown(less.read, half.read, 0);
  time.written = grown(less.written, half.written, 0);
  for (const auto part : {&StepPrices::linear, &StepPrices::elementwise, &StepPrices::embedding})
    time.prices.*part *= S / S1;
  time.prices.tokens = static_cast<double>(tokens);
  time.pairs = time.prices.most_pairs = visible_pairs({0, tokens}, {0, tokens}, run.config.sliding_window);
  return time;
}

void add_needs(const RunShape& run, const Hardware& hardware, SpillTime& time) {
  const TokenBytes bytes(run);
  const auto row = static_cast<double>(run.config.q_heads * run.config.head_dim);
  const double forward = hardware.peak(run.dtype) * hardware.attention_efficiency;
  const double backward = hardware.attention_backward_efficiency > 0
                              ? hardware.peak(run.dtype) * hardware.attention_backward_efficiency
                              : forward;
  const Disk& disk = hardware.disk;
  time.tokens_to_hide_forward = bytes.keys_values / disk.read_bytes_per_second * forward / (4 * row);
  const double travel = (bytes.keys_values + bytes.gradients) / disk.read_bytes_per_second +
                        bytes.gradients / disk.write_bytes_per_second;
  if (run.purpose == Purpose::train) time.tokens_to_hide_backward = travel * backward / (10 * row);
}

}  // namespace

double visible_pairs(Range q, Range k, std::int64_t window) {
  const auto count = static_cast<double>(k.size());
  // Pairs with q - k >= distance: for each query a number of keys that grows by one, from 0 to all.
  const auto apart = [&](double distance) {
    const auto triangle = [](double n) { return n > 0 ? n * (n + 1) / 2 : 0.0; };
    const double from = distance + static_cast<double>(k.begin) - 1;
    const auto up_to = [&](double last) { return triangle(last - from) - triangle(last - from - count); };
    return up_to(static_cast<double>(q.end) - 1) - up_to(static_cast<double>(q.begin) - 1);
  };
  return apart(0) - (window > 0 ? apart(static_cast<double>(window)) : 0);
}

double spilled_bytes(const RunShape& run, std::int64_t tokens) {
  if (!run.spills) return 0;
  const TokenBytes bytes(run);
  const auto layers = static_cast<double>(run.config.layers);
  const bool trains = run.purpose == Purpose::train;
  double token = bytes.rotary + bytes.keys_values + (trains ? layers + 1 : 1) * bytes.x;
  if (trains) token += layers * bytes.kept + bytes.queries + bytes.dx + bytes.gradients;
  if (run.purpose == Purpose::generate) token += layers * bytes.keys_values;
  return token * static_cast<double>(tokens);
}

SpillTime spill_time(const MemoryModel& memory, const Hardware& hardware, std::int64_t tokens) {
  const RunShape& run = memory.run();
  constexpr const char* op = "plan";
  check_argument(run.segment_tokens > 0 && run.segment_tokens % kLeastSegmentStep == 0, op,
                 "expected --segment-tokens that are a multiple of {}, got {}", kLeastSegmentStep,
                 run.segment_tokens);
  check_argument(run.devices_in_all() == 1, op, "expected one device for segments and --spill, got {}",
                 run.devices_in_all());
  check_argument(run.remat == Remat::attention, op,
                 "expected --remat attention for segments and --spill, got {}", name_of(run.remat));
  check_argument(
      !run.spills || (hardware.disk.read_bytes_per_second > 0 && hardware.disk.write_bytes_per_second > 0),
      op, "expected a disk's rate for --spill, but '{}' has none; give --disk-rate", hardware.name);
  const std::int64_t segments = (tokens + run.segment_tokens - 1) / run.segment_tokens;
  SpillTime time = segments <= kMostSegments ? Pass(memory, hardware, tokens).simulate()
                                             : in_closed_form(memory, hardware, tokens);
  if (run.purpose == Purpose::generate) {
    const StepPrices whole = step_prices(memory, hardware, tokens, 0);
    const double cached = TokenBytes(run).keys_values * static_cast<double>(tokens * run.config.layers);
    time.further_token = whole.further_token;
    if (run.spills && run.config.layers * segments > 3)
      time.further_token = std::max(time.further_token, cached / hardware.disk.read_bytes_per_second);
  }
  if (run.spills) add_needs(run, hardware, time);
  return time;
}

}  // namespace rondo
