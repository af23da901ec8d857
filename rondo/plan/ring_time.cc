#include "rondo/plan/ring_time.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "rondo/attention/gradient_lane.h"

namespace rondo {

namespace {
constexpr Direction kDirections[] = {Direction::down, Direction::up};
std::size_t at(int device) { return static_cast<std::size_t>(device); }
std::size_t lane(Direction direction) { return direction == Direction::up; }
}  // namespace

// ---- What there is to do ----

RingWork::RingWork(const SequencePlan& plan, const Mask& mask) : devices_(plan.devices) {
  const ScheduleMaker maker(plan, mask);
  for (int device = 0; device < devices_; ++device) tokens_.push_back(shard_tokens(plan, device));
  const std::size_t squared = at(devices_) * at(devices_);
  for (auto& parts : parts_) parts.resize(at(devices_));
  pairs_[0].resize(squared);
  for (int device = 0; device < devices_; ++device) {
    const Schedule schedule = maker.make(device);
    if (device == 0) {
      reach_ = schedule.reach;
      for (const Schedule::Reach& reach : reach_) {
        last_distance_ = std::max({last_distance_, reach.down, reach.up});
        if (reach.up > 0) pairs_[1].resize(squared);
      }
    }
    for (const Step& step : schedule.steps) add(step, device);
  }
}

void RingWork::add(const Step& step, int device) {
  const std::size_t direction = lane(step.arrives);
  pairs_[direction][index(device, step.distance)] += static_cast<double>(count_pairs(step.tiles));
  if (step.distance == 0 || step.distance != reach(step.kv.owner, step.arrives)) return;
  for (const Range& keys : gradient_parts(tokens(step.kv.owner)))
    parts_[direction][at(device)].push_back(
        {static_cast<double>(keys.size()),
         static_cast<double>(count_pairs(tiles_on_keys(step.tiles, keys)))});
}

double RingWork::pairs(int device) const {
  double sum = 0;
  for (const auto& all : pairs_)
    if (!all.empty())
      sum = std::accumulate(all.begin() + static_cast<std::ptrdiff_t>(index(device, 0)),
                            all.begin() + static_cast<std::ptrdiff_t>(index(device, 0) + at(devices_)), sum);
  return sum;
}

double RingWork::pairs_in_all() const {
  double sum = 0;
  for (int device = 0; device < devices_; ++device) sum += pairs(device);
  return sum;
}

double RingWork::pairs(int device, Direction direction, int distance) const {
  const auto& all = pairs_[lane(direction)];
  return all.empty() || distance >= devices_ ? 0 : all[index(device, distance)];
}

int RingWork::reach(int device, Direction direction) const {
  const Schedule::Reach& reach = reach_[at(device)];
  return direction == Direction::up ? reach.up : reach.down;
}

int RingWork::owner_at(int device, Direction direction, int distance) const {
  if (distance >= devices_) return -1;
  const int owner = (device + (direction == Direction::up ? distance : devices_ - distance)) % devices_;
  return reach(owner, direction) >= distance ? owner : -1;
}

// ---- When it is done ----

RingClock::RingClock(const RingWork& work, const Hardware& hardware, const AttentionPrice& price)
    : work_(work),
      hardware_(hardware),
      price_(price),
      devices_(work.devices()),
      clock_(at(work.devices())),
      busy_(clock_),
      free_{clock_, clock_} {}

void RingClock::compute(int device, double seconds) {
  clock_[at(device)] += seconds;
  busy_[at(device)] += seconds;
}

void RingClock::compute(double seconds) {
  for (int device = 0; device < devices_; ++device) compute(device, seconds);
}

void RingClock::occupy_links(double seconds) {
  if (seconds <= 0) return;
  for (auto& free : free_)
    for (std::size_t n = 0; n < free.size(); ++n) free[n] = std::max(free[n], clock_[n]) + seconds;
}

void RingClock::drain_links() {
  double last = now();
  for (const auto& free : free_) last = std::max(last, *std::max_element(free.begin(), free.end()));
  std::fill(clock_.begin(), clock_.end(), last);
}

void RingClock::advance(double seconds, double computed) {
  for (auto* times : {&clock_, &free_[0], &free_[1]})
    for (double& time : *times) time += seconds;
  for (double& busy : busy_) busy += computed;
}

double RingClock::now() const { return *std::max_element(clock_.begin(), clock_.end()); }
double RingClock::computed() const { return *std::max_element(busy_.begin(), busy_.end()); }

int RingClock::neighbour(int device, Direction direction) const {
  return (device + (direction == Direction::down ? 1 : devices_ - 1)) % devices_;
}

const Link& RingClock::link(int from, Direction direction) const {
  return hardware_.link_from(direction == Direction::down ? from : neighbour(from, Direction::up), devices_);
}

double RingClock::travel(int from, Direction direction, double bytes, double posted) {
  const Link& way = link(from, direction);
  if (way.copies_itself) return posted;
  double& free = free_[lane(direction)][at(from)];
  free = std::max(free, posted) + bytes / way.bytes_per_second;
  return free + way.latency;
}

/// What moves to the next devices while `distance` is computed: blocks to the one they reach next, and the
/// sums of gradients of the distance before.
void RingClock::post(int distance, bool gradients, const std::vector<double>& begin, Exchange& exchange) {
  const int held = gradients ? distance - 1 : distance;  // the distance at which the sender has had it
  if (gradients && held < 1) return;
  for (const Direction direction : kDirections)
    for (int from = 0; from < devices_; ++from) {
      const int owner = work_.owner_at(from, direction, held);
      if (owner < 0 || work_.reach(owner, direction) < held + 1) continue;
      const int to = neighbour(from, direction);
      const double bytes = static_cast<double>(work_.tokens(owner)) *
                           (gradients ? price_.gradient_bytes_per_token : price_.kv_bytes_per_token);
      const double there = travel(from, direction, bytes, std::max(begin[at(from)], begin[at(to)]));
      exchange.arrives[at(to)] = std::max(exchange.arrives[at(to)], there);
      exchange.bytes[at(to)] += bytes;
      exchange.sent[at(from)] = std::max(exchange.sent[at(from)], there);
      const Link& way = link(from, direction);
      compute(from, bytes * way.busy_per_byte);
      compute(to, bytes * way.busy_per_byte);
    }
}

void RingClock::receive(int device, const Exchange& exchange) {
  if (exchange.arrives[at(device)] < 0) return;
  clock_[at(device)] = std::max(clock_[at(device)], exchange.arrives[at(device)]);
  const Link& way = link(neighbour(device, Direction::up), Direction::down);
  if (way.copies_itself) compute(device, way.latency + exchange.bytes[at(device)] / way.bytes_per_second);
}

void RingClock::forward() {
  for (int distance = 0; distance <= work_.last_distance(); ++distance) {
    const std::vector<double> begin = clock_;
    Exchange blocks(devices_);
    post(distance, false, begin, blocks);
    for (int device = 0; device < devices_; ++device) {
      for (const Direction direction : kDirections)
        compute(device, work_.pairs(device, direction, distance) * price_.forward_per_pair);
      receive(device, blocks);
    }
    for (std::size_t n = 0; n < clock_.size(); ++n) clock_[n] = std::max(clock_[n], blocks.sent[n]);
  }
}

void RingClock::backward_step(int device, int distance, const std::vector<double>& begin,
                              const Exchange& passing, Exchange& home) {
  for (const Direction direction : kDirections) {
    const double pairs = work_.pairs(device, direction, distance);
    const int owner = distance == 0 ? -1 : work_.owner_at(device, direction, distance);
    if (owner < 0) {
      compute(device, pairs * price_.backward_per_pair);
      continue;
    }
    const bool last = work_.reach(owner, direction) == distance;
    const auto whole = std::vector{RingWork::Part{static_cast<double>(work_.tokens(owner)), pairs}};
    const auto& parts = last ? work_.parts(device, direction) : whole;
    for (std::size_t n = 0; n < parts.size(); ++n) {
      compute(device, parts[n].pairs * price_.backward_per_pair);
      if (n == 0 && passing.arrives[at(device)] >= 0) {
        receive(device, passing);
        compute(device, passing.bytes[at(device)] * price_.adding_per_byte);
      }
      if (!last) continue;
      // Round the whole ring the owner is the next device; else the way back is the shorter one.
      const bool onwards = distance == devices_ - 1;
      const Direction way = onwards == (direction == Direction::down) ? Direction::down : Direction::up;
      const double bytes = parts[n].keys * price_.gradient_bytes_per_token;
      const double there = travel(device, way, bytes, std::max(clock_[at(device)], begin[at(owner)]));
      home.arrives[at(owner)] = std::max(home.arrives[at(owner)], there);
      home.bytes[at(owner)] += bytes;
      home.sent[at(device)] = std::max(home.sent[at(device)], there);
      compute(device, bytes * link(device, way).busy_per_byte);
      compute(owner, bytes * link(device, way).busy_per_byte);
    }
  }
}

void RingClock::backward() {
  Exchange home_before(devices_);
  for (int distance = 0; distance <= work_.last_distance() + 1; ++distance) {
    const std::vector<double> begin = clock_;
    Exchange passing(devices_), blocks(devices_), home(devices_);
    post(distance, true, begin, passing);
    if (distance < work_.last_distance()) post(distance, false, begin, blocks);
    for (int device = 0; device < devices_; ++device) backward_step(device, distance, begin, passing, home);
    for (int device = 0; device < devices_; ++device) {
      receive(device, blocks);
      receive(device, home_before);
      compute(device, home_before.bytes[at(device)] * price_.adding_per_byte);
    }
    for (std::size_t n = 0; n < clock_.size(); ++n)
      clock_[n] = std::max({clock_[n], blocks.sent[n], passing.sent[n], home_before.sent[n]});
    home_before = home;
  }
}

// ---- In closed form ----

AttentionTime even_ring_time(const EvenRing& ring, const Link& link, const AttentionPrice& price) {
  const double hops = ring.distance, steps = hops + 1;
  const double kv = ring.tokens * price.kv_bytes_per_token,
               gradients = ring.tokens * price.gradient_bytes_per_token;
  const double f = ring.pairs / steps * price.forward_per_pair,
               b = ring.pairs / steps * price.backward_per_pair;
  AttentionTime time{.forward = f * steps,
                     .backward = b * steps,
                     .forward_computing = f * steps,
                     .backward_computing = b * steps};
  if (hops <= 0) return time;
  const auto seconds = [&](double bytes) { return bytes / link.bytes_per_second + link.latency; };
  const double busy_kv = 2 * kv * link.busy_per_byte,
               busy_g = gradients * (2 * link.busy_per_byte + price.adding_per_byte);
  if (link.copies_itself) {
    time.forward_computing += hops * seconds(kv);
    time.backward_computing += hops * (seconds(kv) + seconds(gradients) + gradients * price.adding_per_byte);
    time.forward = time.forward_computing, time.backward = time.backward_computing;
    return time;
  }
  time.forward_link = hops * kv / link.bytes_per_second;
  time.backward_link = hops * (kv + gradients) / link.bytes_per_second;
  time.forward_computing += hops * busy_kv;
  time.backward_computing += hops * (busy_kv + busy_g);
  time.forward = hops * std::max(f + busy_kv, seconds(kv)) + f;
  // Blocks alone while the first two are computed, then blocks and sums, at last sums alone.
  const double first = std::min(hops, 2.0);
  const double middle = std::max(0.0, hops - 2);
  time.backward = first * std::max(b + busy_kv, seconds(kv)) +
                  middle * std::max(b + busy_kv + busy_g, seconds(kv) + gradients / link.bytes_per_second);
  // While the last block is computed its sums go home in parts, after the sum that is passed on.
  const std::vector<Range> parts = gradient_parts(static_cast<std::int64_t>(ring.tokens));
  const double last_part = static_cast<double>(parts.back().size()) / std::max(1.0, ring.tokens);
  const double passed = hops >= 2 ? seconds(gradients) : 0;
  const double first_part = static_cast<double>(parts.front().size()) / std::max(1.0, ring.tokens);
  time.backward += std::max({b + busy_g + last_part * seconds(gradients), passed + seconds(gradients),
                             first_part * b + seconds(gradients)});
  return time;
}

}  // namespace rondo
