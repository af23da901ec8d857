#include "rondo/plan/step_time.h"

#include <algorithm>
#include <cmath>

#include "rondo/core/error.h"
#include "rondo/plan/overlap.h"
#include "rondo/plan/spill_time.h"
#include "rondo/plan/step_prices.h"

namespace rondo {

namespace {

/// A step on clocks: RingClock, or EvenClock below.
template <class Clock>
void run_layers(Clock& clock, std::int64_t layers, const auto& layer) {
  // All layers are alike, and soon so is what they leave behind.
  constexpr std::int64_t kSimulated = 3;
  double before = 0, computed_before = 0;
  for (std::int64_t n = 0; n < std::min(layers, kSimulated); ++n) {
    before = clock.now(), computed_before = clock.computed();
    layer();
  }
  const auto more = static_cast<double>(std::max<std::int64_t>(0, layers - kSimulated));
  clock.advance(more * (clock.now() - before), more * (clock.computed() - computed_before));
}

template <class Clock>
void run_step(Clock& clock, const StepPrices& p, const RunShape& run) {
  const std::int64_t layers = run.config.layers;
  run_layers(clock, layers, [&] {
    clock.occupy_links(p.gather_layer);
    clock.compute(p.forward_before);
    clock.forward();
    clock.compute(p.forward_after);
  });
  clock.occupy_links(p.gather_head);
  clock.compute(p.head);
  if (run.purpose != Purpose::train) return;
  clock.occupy_links(p.sum_head);
  run_layers(clock, layers, [&] {
    clock.occupy_links(p.gather_layer);
    clock.compute(p.moving_layer + p.again);
    if (run.remat == Remat::layer) clock.forward();
    clock.compute(p.backward_before);
    clock.backward();
    clock.compute(p.backward_after);
    clock.occupy_links(p.sum_layer);  // while the layer before it is computed
  });
  clock.compute(p.embedding);
  clock.occupy_links(p.sum_embedding);
  clock.drain_links();
  clock.compute(p.update);
  clock.occupy_links(p.gather_updated);
  clock.drain_links();
}

/// One clock for all devices of an even ring.
class EvenClock {
 public:
  explicit EvenClock(const AttentionTime& attention) : attention_(attention) {}
  void compute(double seconds) { now_ += seconds, computed_ += seconds; }
  void occupy_links(double seconds) { free_ = std::max(free_, now_) + seconds; }
  void drain_links() { now_ = std::max(now_, free_); }
  void advance(double seconds, double computed) { now_ += seconds, free_ += seconds, computed_ += computed; }
  void forward() { pass(attention_.forward, attention_.forward_computing, attention_.forward_link); }
  void backward() { pass(attention_.backward, attention_.backward_computing, attention_.backward_link); }
  double now() const { return now_; }
  double computed() const { return computed_; }

 private:
  /// What is already on the link goes first; the pass ends when it is through and its own exchange too.
  void pass(double seconds, double computing, double on_link) {
    free_ = std::max(free_, now_) + on_link;
    now_ = on_link > 0 ? std::max(now_ + seconds, free_) : now_ + seconds;
    computed_ += computing;
  }
  AttentionTime attention_;
  double now_ = 0, free_ = 0, computed_ = 0;
};

constexpr double kNoticed = 0.05;  // of a step: what limits it

Bound bound_of(const StepTime& time, const RunShape& run, const Hardware& hardware) {
  if (run.devices_in_all() > 1 && hardware.slowest_link(run.devices_in_all()).copies_itself)
    return time.moving > 0.5 * time.seconds ? Bound::copying : Bound::computation;
  if (time.exposed <= kNoticed * time.seconds) return Bound::computation;
  return run.devices_in_all() > hardware.node_devices ? Bound::network_link : Bound::node_link;
}

void add_needs(StepTime& time, const RunShape& run, const Hardware& hardware) {
  if (run.devices == 1) return;
  const Link& link = hardware.slowest_link(run.devices);
  HopModel hop{.flops = hardware.peak(run.dtype) * hardware.attention_efficiency,
               .bytes_per_second = link.bytes_per_second,
               .latency = link.latency,
               .heads = run.config.q_heads,
               .kv_heads = run.config.kv_heads,
               .head_dim = run.config.head_dim,
               .dtype = run.dtype};
  time.tokens_to_hide_forward = tokens_to_hide_forward(hop);
  if (hardware.attention_backward_efficiency > 0)
    hop.flops = hardware.peak(run.dtype) * hardware.attention_backward_efficiency;
  time.tokens_to_hide_backward = tokens_to_hide_backward(hop);
}

StepTime finish(StepTime time, const StepPrices& p, const MemoryModel& memory, const Hardware& hardware,
                double pairs_in_all) {
  const RunShape& run = memory.run();
  time.exposed = std::max(0.0, time.seconds - time.computing);
  const bool trains = run.purpose == Purpose::train;
  const auto layers = static_cast<double>(run.config.layers);
  const double passes = trains && run.remat == Remat::layer ? 2 : 1;
  time.attention = layers * p.most_pairs *
                   (passes * p.attention.forward_per_pair + (trains ? p.attention.backward_per_pair : 0));
  time.linear = p.linear;
  time.elementwise = p.elementwise;
  time.update = trains ? p.update : 0;
  time.moving = std::max(0.0, time.computing - time.attention - time.linear - time.elementwise - time.update);
  const ModelFlops flops = model_flops(run.config);
  const double tokens = p.tokens * run.replicas, pairs = pairs_in_all * run.replicas;
  time.useful_flops = trains ? flops.training(tokens, pairs) : flops.forward(tokens, pairs);
  time.mfu = time.useful_flops / (time.seconds * hardware.peak(run.dtype) * run.devices_in_all());
  time.per_token = run.purpose == Purpose::generate ? p.further_token : 0;
  time.sent_per_device = p.sent_per_device;
  add_needs(time, run, hardware);
  time.bound = bound_of(time, run, hardware);
  return time;
}

void check(const Hardware& hardware, const RunShape& run, std::int64_t tokens) {
  check_argument(tokens >= 1, "plan", "expected at least 1 token, got {}", tokens);
  check_argument(hardware.peak(run.dtype) > 0 && hardware.memory_bytes_per_second > 0 &&
                     hardware.attention_efficiency > 0 && hardware.linear_efficiency > 0,
                 "plan", "expected hardware with rates above 0, got none for '{}'", hardware.name);
  check_argument(
      run.devices_in_all() == 1 || hardware.slowest_link(run.devices_in_all()).bytes_per_second > 0, "plan",
      "expected hardware with a link, got none for '{}'", hardware.name);
}

StepTime segmented_step(const MemoryModel& run, const Hardware& hardware, std::int64_t tokens) {
  const SpillTime spilled = spill_time(run, hardware, tokens);
  StepTime time = finish({.seconds = spilled.seconds, .computing = spilled.computing}, spilled.prices, run,
                         hardware, spilled.pairs);
  time.disk_read = spilled.read, time.disk_written = spilled.written;
  time.per_token = spilled.further_token;
  time.tokens_to_hide_forward = spilled.tokens_to_hide_forward;
  time.tokens_to_hide_backward = spilled.tokens_to_hide_backward;
  if (run.run().spills && time.exposed > kNoticed * time.seconds) time.bound = Bound::disk;
  return time;
}

}  // namespace

const char* name_of(Bound bound) {
  switch (bound) {
    case Bound::computation:
      return "computation";
    case Bound::node_link:
      return "links within a host";
    case Bound::network_link:
      return "network";
    case Bound::copying:
      return "copying between devices";
    case Bound::disk:
      return "disk";
  }
  return "";
}

StepTime simulate_step(const MemoryModel& run, const Hardware& hardware, std::int64_t tokens) {
  const RunShape& shape = run.run();
  check(hardware, shape, tokens);
  if (shape.segment_tokens > 0) return segmented_step(run, hardware, tokens);
  check_argument(shape.devices <= kMostSimulated, "plan",
                 "expected a ring of at most {} devices to simulate, got {}", kMostSimulated, shape.devices);
  const RingWork work({.tokens = tokens, .devices = shape.devices, .layout = shape.layout},
                      mask_of(shape.config));
  double most = 0;
  for (int device = 0; device < shape.devices; ++device) most = std::max(most, work.pairs(device));
  const StepPrices prices = step_prices(run, hardware, tokens, most);
  RingClock clock(work, hardware, prices.attention);
  run_step(clock, prices, shape);
  return finish({.seconds = clock.now(), .computing = clock.computed()}, prices, run, hardware,
                work.pairs_in_all());
}

StepTime estimate_step(const MemoryModel& run, const Hardware& hardware, std::int64_t tokens) {
  const RunShape& shape = run.run();
  check(hardware, shape, tokens);
  if (shape.segment_tokens > 0) return segmented_step(run, hardware, tokens);
  const auto devices = static_cast<double>(shape.devices), T = static_cast<double>(tokens);
  const double c = std::ceil(T / devices);
  const auto window = static_cast<double>(shape.config.sliding_window);
  const bool windowed = window > 0 && window < T;
  const double pairs = windowed ? window * (T - window) + window * (window + 1) / 2 : T * (T + 1) / 2;
  // Contiguous shards: the last device's queries see everything.
  const bool uneven = shape.layout == Layout::contiguous && !windowed;
  const double most = uneven ? std::min(pairs, c * T) : pairs / devices;
  double distance = devices - 1;
  if (windowed && shape.layout != Layout::striped)
    distance = std::min(distance, std::ceil((shape.layout == Layout::zigzag ? 2 : 1) * window / c));
  const StepPrices prices = step_prices(run, hardware, tokens, most);
  const Link& link = hardware.slowest_link(shape.devices);
  EvenClock clock(even_ring_time({.tokens = c, .pairs = most, .distance = distance}, link, prices.attention));
  run_step(clock, prices, shape);
  return finish({.seconds = clock.now(), .computing = clock.computed()}, prices, run, hardware, pairs);
}

}  // namespace rondo
