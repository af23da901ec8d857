#include "rondo/plan/probe.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>

#include "rondo/core/error.h"
#include "rondo/kernels/bandwidth.h"
#include "rondo/kernels/peak.h"

namespace rondo {

namespace {

using Clock = std::chrono::steady_clock;
constexpr const char* kDoing = "probe";
constexpr std::int64_t kReadBytes = 64 << 20;  // beyond most caches
constexpr int kRoundTrips = 30;
constexpr std::int64_t kMostRepeats = 500;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

template <class T>
std::vector<T> gather(Communicator& communicator, const T& own) {
  std::vector<T> all(static_cast<std::size_t>(communicator.devices()));
  communicator.all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all)));
  return all;
}

double largest(const std::vector<double>& values) { return *std::max_element(values.begin(), values.end()); }

/// ProcessFacts as they travel.
struct Packed {
  std::array<char, 64> host = {}, processor = {}, version = {}, instruction_set = {};
  std::array<std::uint64_t, CpuSet().size() / 64> cpus = {}, cores = {};
  std::uint64_t build = 0;
  double quota_cpus = 0;
  int host_cpus = 0, numa_domains = 0, devices = 0, threads = 0;
};

void put(std::array<char, 64>& place, const std::string& text) {
  std::copy_n(text.begin(), std::min(text.size(), place.size() - 1), place.begin());
}
std::array<std::uint64_t, CpuSet().size() / 64> words_of(const CpuSet& cpus) {
  std::array<std::uint64_t, CpuSet().size() / 64> words = {};
  for (std::size_t cpu = 0; cpu < cpus.size(); ++cpu)
    words[cpu / 64] |= static_cast<std::uint64_t>(cpus.test(cpu)) << (cpu % 64);
  return words;
}
CpuSet set_of(const std::array<std::uint64_t, CpuSet().size() / 64>& words) {
  CpuSet cpus;
  for (std::size_t cpu = 0; cpu < cpus.size(); ++cpu) cpus.set(cpu, (words[cpu / 64] >> (cpu % 64)) & 1);
  return cpus;
}

Packed pack(const ProcessFacts& facts) {
  Packed packed{.cpus = words_of(facts.host.cpus),
                .cores = words_of(facts.host.cores),
                .build = facts.build,
                .quota_cpus = facts.host.quota_cpus,
                .host_cpus = facts.host.host_cpus,
                .numa_domains = facts.host.numa_domains,
                .devices = facts.devices,
                .threads = facts.threads};
  put(packed.host, facts.host.host);
  put(packed.processor, facts.host.processor);
  put(packed.version, facts.version);
  put(packed.instruction_set, facts.instruction_set);
  return packed;
}

ProcessFacts unpack(const Packed& packed) {
  return {.host = {.host = packed.host.data(),
                   .processor = packed.processor.data(),
                   .cpus = set_of(packed.cpus),
                   .cores = set_of(packed.cores),
                   .host_cpus = packed.host_cpus,
                   .numa_domains = packed.numa_domains,
                   .quota_cpus = packed.quota_cpus},
          .version = packed.version.data(),
          .build = packed.build,
          .instruction_set = packed.instruction_set.data(),
          .devices = packed.devices,
          .threads = packed.threads};
}

class Probe {
 public:
  Probe(Context& context, Communicator& communicator, const ProbeOptions& options)
      : context_(context),
        communicator_(communicator),
        options_(options),
        devices_(communicator.devices()),
        next_((context.device + 1) % devices_),
        previous_((context.device + devices_ - 1) % devices_) {}

  RingFindings operator()(const ProcessFacts& own) {
    RingFindings found;
    const auto all = gather(communicator_, pack(own));
    for (int device = 0; device < devices_; device += all[static_cast<std::size_t>(device)].devices)
      found.processes.push_back(unpack(all[static_cast<std::size_t>(device)]));
    found.devices = gather(communicator_, measure_device(all));
    if (devices_ > 1) found.hops = measure_hops();
    return found;
  }

 private:
  std::chrono::milliseconds slice(double share) const {
    return std::chrono::milliseconds(
        std::max<std::int64_t>(8, static_cast<std::int64_t>(options_.seconds * share * 1000)));
  }

  /// A third of the time: all at once. Another: of each host one device at a time.
  DeviceRates measure_device(const std::vector<Packed>& all) {
    DeviceRates rates;
    const auto peak = [&](DType dtype, std::chrono::milliseconds time) {
      return kernels::measure_peak_flops(context_.stream, dtype, time);
    };
    const Buffer memory = context_.arena.allocate(Entry::data, kReadBytes, "memory to read");
    std::memset(memory.data(), 1, static_cast<std::size_t>(kReadBytes));
    communicator_.barrier();
    rates.f32_together = peak(DType::f32, slice(1.0 / 9));
    communicator_.barrier();
    rates.bf16_together = peak(DType::bf16, slice(1.0 / 9));
    communicator_.barrier();
    rates.read_together = kernels::measure_read_bandwidth(
        context_.stream, {memory.as<std::byte>(), static_cast<std::size_t>(kReadBytes)}, slice(1.0 / 9));
    const auto [turn, turns] = turn_of(all);
    for (int at = 0; at < turns; ++at) {
      communicator_.barrier();
      if (at != turn) continue;
      rates.f32_alone = peak(DType::f32, slice(1.0 / 6 / turns));
      rates.bf16_alone = peak(DType::bf16, slice(1.0 / 6 / turns));
    }
    communicator_.barrier();
    return rates;
  }

  /// This device's number among those of its host, and the most devices of a host.
  std::pair<int, int> turn_of(const std::vector<Packed>& all) const {
    int turn = 0, turns = 1;
    for (int device = 0; device < devices_; ++device) {
      int before = 0;
      for (int other = 0; other < device; ++other)
        if (std::string(all[static_cast<std::size_t>(other)].host.data()) ==
            all[static_cast<std::size_t>(device)].host.data())
          ++before;
      if (device == context_.device) turn = before;
      turns = std::max(turns, before + 1);
    }
    return {turn, turns};
  }

  std::vector<HopRates> measure_hops() {
    std::vector<HopRates> hops(static_cast<std::size_t>(devices_));
    const std::vector<double> latencies = measure_latencies();
    for (std::size_t hop = 0; hop < hops.size(); ++hop) hops[hop].latency = latencies[hop];
    const double budget = options_.seconds / 6 / static_cast<double>(options_.message_bytes.size());
    double seconds = 0;  // of one message, on the slowest hop
    for (const std::int64_t bytes : options_.message_bytes) {
      if (!hops[0].messages.empty()) {
        const auto growth = static_cast<double>(bytes) / static_cast<double>(hops[0].messages.back().bytes);
        if (seconds * growth > 2 * budget) break;
      }
      allocate(bytes);
      seconds = largest(gather(communicator_, together(1)));
      const std::vector<double> at_once = gather(communicator_, together(repeats(budget, seconds)));
      const double one = largest(gather(communicator_, one_at_a_time(1)));
      const std::vector<double> alone = gather(communicator_, one_at_a_time(repeats(budget / devices_, one)));
      for (std::size_t hop = 0; hop < hops.size(); ++hop) {
        const std::size_t receiver = (hop + 1) % hops.size();
        const auto size = static_cast<double>(bytes);
        hops[hop].messages.push_back({bytes, size / alone[receiver], size / at_once[receiver]});
      }
    }
    return hops;
  }

  static std::int64_t repeats(double budget, double seconds) {
    return std::clamp(static_cast<std::int64_t>(budget / seconds), std::int64_t{1}, kMostRepeats);
  }

  void allocate(std::int64_t bytes) {
    outgoing_ = context_.arena.allocate(Entry::exchange, bytes, "message to send");
    incoming_ = context_.arena.allocate(Entry::exchange, bytes, "message to receive");
    std::memset(outgoing_.data(), 1, static_cast<std::size_t>(bytes));
    std::memset(incoming_.data(), 0, static_cast<std::size_t>(bytes));
    communicator_.barrier();
  }
  static Tensor all_of(const Buffer& buffer) { return buffer.tensor(DType::f32, buffer.bytes() / 4, 1, 1); }

  /// Seconds of a message while every device sends and receives.
  double together(std::int64_t times) {
    const auto begin = Clock::now();
    for (std::int64_t n = 0; n < times; ++n) {
      const auto received = communicator_.receive(previous_, 1, all_of(incoming_));
      const auto sent = communicator_.send(next_, 1, all_of(outgoing_));
      communicator_.wait(*received, kDoing);
      communicator_.wait(*sent, kDoing);
    }
    return seconds_since(begin) / static_cast<double>(times);
  }

  /// Seconds of a message to this device while no other is under way: the turn goes round the ring.
  double one_at_a_time(std::int64_t times) {
    double seconds = 0;
    for (int sender = 0; sender < devices_; ++sender) {
      communicator_.barrier();
      const auto begin = Clock::now();
      for (std::int64_t n = 0; n < times; ++n) {
        if (sender == context_.device)
          communicator_.wait(*communicator_.send(next_, 1, all_of(outgoing_)), kDoing);
        else if (sender == previous_)
          communicator_.wait(*communicator_.receive(previous_, 1, all_of(incoming_)), kDoing);
      }
      if (sender == previous_) seconds = seconds_since(begin) / static_cast<double>(times);
    }
    return seconds;
  }

  /// Of each hop, by its sender.
  std::vector<double> measure_latencies() {
    allocate(4);
    double own = 0;
    for (int sender = 0; sender < devices_; ++sender) {
      communicator_.barrier();
      const auto end = Clock::now() + slice(1.0 / 6 / devices_);
      std::vector<double> trips;
      for (int n = 0; n < kRoundTrips && (sender == context_.device || sender == previous_); ++n) {
        const int peer = sender == context_.device ? next_ : previous_;
        // Either end can stop, and says so in what it sends.
        outgoing_.as<float>()[0] = Clock::now() < end ? 1 : 0;
        const auto begin = Clock::now();
        const auto received = communicator_.receive(peer, 2, all_of(incoming_));
        if (sender != context_.device) communicator_.wait(*received, kDoing);
        communicator_.wait(*communicator_.send(peer, 2, all_of(outgoing_)), kDoing);
        if (sender == context_.device) communicator_.wait(*received, kDoing);
        trips.push_back(seconds_since(begin) / 2);
        if (outgoing_.as<float>()[0] == 0 || incoming_.as<float>()[0] == 0) break;
      }
      if (sender != context_.device) continue;
      std::nth_element(trips.begin(), trips.begin() + static_cast<std::ptrdiff_t>(trips.size() / 2),
                       trips.end());
      own = trips[trips.size() / 2];
    }
    return gather(communicator_, own);
  }

  Context& context_;
  Communicator& communicator_;
  const ProbeOptions& options_;
  const int devices_, next_, previous_;
  Buffer outgoing_, incoming_;
};

}  // namespace

RingFindings probe_ring(Context& context, Communicator& communicator, const ProcessFacts& own,
                        const ProbeOptions& options) {
  constexpr const char* op = "probe";
  check_argument(std::isfinite(options.seconds) && options.seconds > 0, op,
                 "expected more than 0 seconds, got {}", options.seconds);
  check_argument(!options.message_bytes.empty(), op, "expected sizes of messages, got none");
  for (const std::int64_t bytes : options.message_bytes)
    check_argument(bytes >= 4 && bytes % 4 == 0, op, "expected messages of whole 4-byte words, got {} bytes",
                   bytes);
  return Probe(context, communicator, options)(own);
}

}  // namespace rondo
