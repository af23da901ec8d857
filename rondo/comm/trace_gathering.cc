#include "rondo/comm/trace_gathering.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>
#include <utility>

#include "rondo/core/error.h"

namespace rondo {

namespace {

constexpr const char* kDoing = "trace of all processes";
constexpr int kRounds = 20;
constexpr Tag kAsk = std::numeric_limits<Tag>::min() + 2, kAnswer = kAsk + 1;
constexpr std::array<const char*, 4> kCategories = {"compute", "exchange", "wait", "other"};

/// An event without its name, as it travels; the names of all follow behind the last.
struct Packed {
  std::int64_t begin_ns = 0, end_ns = 0;
  std::int32_t device = 0;
  std::uint16_t category = 0, name_bytes = 0;
};
/// What is sent before the events and changes.
struct Head {
  std::int64_t events = 0, dropped = 0, bytes = 0, changes = 0;
  std::array<char, 64> host = {};
};
constexpr std::size_t kLongestName = 200;
static_assert(std::is_trivially_copyable_v<MemoryChange> && sizeof(MemoryChange) % 4 == 0,
              "changes travel as they are");

/// Memory of whole 4-byte words as a tensor.
Tensor words(void* data, std::size_t bytes) {
  return view(data, DType::f32, static_cast<std::int64_t>(bytes / 4), 1, 1);
}
std::size_t whole_words(std::size_t bytes) { return (bytes + 3) / 4 * 4; }

void send_to(Communicator& own, int to, void* data, std::size_t bytes) {
  const auto request = own.send(to, kAnswer, words(data, bytes));
  own.wait(*request, kDoing);
}
void receive_from(Communicator& own, int from, void* data, std::size_t bytes) {
  const auto request = own.receive(from, kAnswer, words(data, bytes));
  own.wait(*request, kDoing);
}

std::string host_name() {
  std::array<char, 64> name = {};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

std::uint16_t category_index(std::string_view category) {
  std::size_t index = 0;
  while (index + 1 < kCategories.size() && category != kCategories[index]) ++index;
  return static_cast<std::uint16_t>(index);
}

std::vector<std::byte> pack(const std::vector<TraceEvent>& events) {
  const std::size_t heads = events.size() * sizeof(Packed);
  std::size_t bytes = heads;
  for (const TraceEvent& event : events) bytes += std::min(event.name.size(), kLongestName);
  std::vector<std::byte> data(whole_words(bytes));
  std::size_t name_at = heads;
  for (std::size_t n = 0; n < events.size(); ++n) {
    const TraceEvent& event = events[n];
    const Packed packed{event.begin_ns, event.end_ns, event.device, category_index(event.category),
                        static_cast<std::uint16_t>(std::min(event.name.size(), kLongestName))};
    std::memcpy(data.data() + n * sizeof(Packed), &packed, sizeof(Packed));
    std::memcpy(data.data() + name_at, event.name.data(), packed.name_bytes);
    name_at += packed.name_bytes;
  }
  return data;
}

std::vector<TraceEvent> unpack(const std::vector<std::byte>& data, std::size_t number) {
  std::vector<TraceEvent> events;
  events.reserve(number);
  const auto* names = reinterpret_cast<const char*>(data.data());
  std::size_t name_at = number * sizeof(Packed);
  for (std::size_t n = 0; n < number; ++n) {
    Packed packed;
    std::memcpy(&packed, data.data() + n * sizeof(Packed), sizeof(Packed));
    events.push_back({packed.device, kCategories.at(packed.category),
                      std::string(names + name_at, packed.name_bytes), packed.begin_ns, packed.end_ns});
    name_at += packed.name_bytes;
  }
  return events;
}

}  // namespace

std::int64_t on_own_clock(std::int64_t other_ns, const ClockReading& first, const ClockReading& last) {
  const std::int64_t since_first = other_ns - (first.here_ns + first.ahead_ns);
  const std::int64_t here = last.here_ns - first.here_ns, there = here + last.ahead_ns - first.ahead_ns;
  // Two readings at one moment, or clocks that disagree altogether, tell nothing about speed.
  const double slower =
      here > 0 && there > 0 ? static_cast<double>(here - there) / static_cast<double>(there) : 0;
  return first.here_ns + since_first + std::llround(static_cast<double>(since_first) * slower);
}

TraceGathering::TraceGathering(const RingOptions& ring, Communicator& communicator, Trace& own)
    : ring_(ring),
      communicator_(communicator),
      own_(own),
      takes_part_(ring.is_first_here(communicator.device())) {}

void TraceGathering::begin() {
  if (takes_part_) first_ = read_clocks();
}

std::vector<ClockReading> TraceGathering::read_clocks() {
  std::vector<ClockReading> readings;
  if (!leads()) {
    show_clock();
    return readings;
  }
  readings.push_back({.here_ns = own_.now_ns()});
  for (int process = 1; process < processes(); ++process)
    readings.push_back(read_clock(first_device(process)));
  return readings;
}

ClockReading TraceGathering::read_clock(int peer) {
  ClockReading best{.error_ns = std::numeric_limits<std::int64_t>::max()};
  for (int round = 0; round < kRounds; ++round) {
    float ask = 0;
    std::int64_t there = 0;
    const auto answer = communicator_.receive(peer, kAnswer, words(&there, sizeof(there)));
    const std::int64_t begin = own_.now_ns();
    const auto question = communicator_.send(peer, kAsk, words(&ask, sizeof(ask)));
    communicator_.wait(*answer, kDoing);
    const std::int64_t end = own_.now_ns(), half = (end - begin + 1) / 2;
    communicator_.wait(*question, kDoing);
    if (half < best.error_ns) best = {begin + half, there - (begin + half), half};
  }
  return best;
}

void TraceGathering::show_clock() {
  for (int round = 0; round < kRounds; ++round) {
    float ask = 0;
    const auto question = communicator_.receive(0, kAsk, words(&ask, sizeof(ask)));
    communicator_.wait(*question, kDoing);
    std::int64_t here = own_.now_ns();
    send_to(communicator_, 0, &here, sizeof(here));
  }
}

ProcessTrace TraceGathering::own_trace(std::size_t most) const {
  ProcessTrace own{
      .host = host_name(), .events = own_.events(), .memory = own_.memory(), .dropped = own_.dropped()};
  const auto shorten = [&](auto& list) {
    if (list.size() <= most) return;
    own.dropped += list.size() - most;
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(most), list.end());
  };
  shorten(own.events);
  shorten(own.memory);
  return own;
}

void TraceGathering::send_events(std::size_t most) {
  ProcessTrace own = own_trace(most);
  std::vector<std::byte> data = pack(own.events);
  Head head{.events = static_cast<std::int64_t>(own.events.size()),
            .dropped = static_cast<std::int64_t>(own.dropped),
            .bytes = static_cast<std::int64_t>(data.size()),
            .changes = static_cast<std::int64_t>(own.memory.size())};
  std::copy(own.host.begin(), own.host.end(), head.host.begin());
  send_to(communicator_, 0, &head, sizeof(head));
  send_to(communicator_, 0, data.data(), data.size());
  send_to(communicator_, 0, own.memory.data(), own.memory.size() * sizeof(MemoryChange));
}

ProcessTrace TraceGathering::receive_events(int peer) {
  Head head;
  receive_from(communicator_, peer, &head, sizeof(head));
  std::vector<std::byte> data(static_cast<std::size_t>(head.bytes));
  receive_from(communicator_, peer, data.data(), data.size());
  std::vector<MemoryChange> memory(static_cast<std::size_t>(head.changes));
  receive_from(communicator_, peer, memory.data(), memory.size() * sizeof(MemoryChange));
  return {.process = peer / ring_.devices,
          .host = head.host.data(),
          .events = unpack(data, static_cast<std::size_t>(head.events)),
          .memory = std::move(memory),
          .dropped = static_cast<std::size_t>(head.dropped)};
}

std::vector<ProcessTrace> TraceGathering::finish(std::size_t most_events) {
  std::vector<ProcessTrace> all;
  communicator_.barrier();  // no device is at the end of an event still
  if (!takes_part_) return all;
  const std::size_t share = most_events / static_cast<std::size_t>(processes());
  const std::vector<ClockReading> last = read_clocks();
  if (!leads()) {
    send_events(share);
    own_.close();
    return all;
  }
  all.push_back(own_trace(share));
  for (int process = 1; process < processes(); ++process) {
    const auto p = static_cast<std::size_t>(process);
    all.push_back(receive_events(first_device(process)));
    for (TraceEvent& event : all.back().events) {
      event.begin_ns = on_own_clock(event.begin_ns, first_.at(p), last[p]);
      event.end_ns = on_own_clock(event.end_ns, first_[p], last[p]);
    }
    for (MemoryChange& change : all.back().memory)
      change.at_ns = on_own_clock(change.at_ns, first_.at(p), last[p]);
    all.back().clock_error_ns = std::max(first_[p].error_ns, last[p].error_ns);
  }
  own_.close();
  return all;
}

}  // namespace rondo
