// The barrier of a ThreadGroup, the agreement that opens each collective, and collectives in shared memory.

#include <algorithm>
#include <array>
#include <cstring>

#include "rondo/comm/message_collectives.h"
#include "rondo/comm/process_link.h"

namespace rondo {

void ThreadShared::drain(Lock& lock, int device) {
  if (at(device).reading) {
    at(device).reading = false;
    wake_all();
  }
  at(device).wake.wait(lock, [this] {
    for (const Device& other : devices)
      if (other.reading) return false;
    return true;
  });
}

std::string ThreadShared::disagreement() const {
  const Contribution& first = devices.front().contribution;
  for (std::size_t d = 0; d < devices.size(); ++d) {
    const Contribution& other = devices[d].contribution;
    if (first.step != other.step)
      return fmt::format(
          "[{}] expected the same step on all devices, got step {} on device 0 and step {} on device {}",
          first.operation, first.step, other.step, d);
    if (!other.invalid.empty()) return fmt::format("[{}] device {}: {}", other.operation, d, other.invalid);
    if (first.operation != other.operation || first.bytes != other.bytes || first.root != other.root)
      return fmt::format(
          "[{0}] expected the same on all devices, got {0} of {1} bytes (root {2}) on device 0 and {3} of "
          "{4} bytes (root {5}) on device {6}",
          first.operation, first.bytes, first.root, other.operation, other.bytes, other.root, d);
  }
  return "";
}

void ThreadShared::arrive(int device, bool reads) {
  at(device).arrived = true;
  if (++arrived < size()) return;
  arrived = 0;
  ++generation;
  collective_error = disagreement();
  for (std::size_t d = 0; d < devices.size(); ++d) {
    snapshot[d] = devices[d].contribution;
    devices[d].arrived = false;
    devices[d].reading = reads && collective_error.empty();
  }
  wake_all();
  if (link) link->arrive_early_ones();
}

void ThreadShared::barrier(Lock& lock, int device, const char* doing, bool reads) {
  try {
    at(device).reading = false;
    check_alive();
    const std::int64_t mine = generation;
    if (link) link->arrived(device);
    arrive(device, reads);
    // Who comes last does not wait, and might say so much later.
    if (link && generation != mine) flush(lock);
    const auto missing = [this] {
      int first = 0;
      while (at(first).arrived) ++first;
      return first;
    };
    await(
        lock, device, doing, [&] { return generation != mine; }, missing, [] { return false; });
  } catch (...) {
    wake_all();
    drain(lock, device);
    throw;
  }
}

void ThreadShared::meet(int device, const char* doing, DeviceTrace& trace, bool reads) {
  const DeviceTrace::Span span(trace, "wait", trace.enabled() ? doing : "");
  Lock lock(mutex);
  barrier(lock, device, doing, reads);
}

void ThreadShared::open(int device, Contribution contribution, DeviceTrace& trace, bool reads) {
  const std::string operation = contribution.operation;
  const DeviceTrace::Span span(trace, "wait", trace.enabled() ? operation : "");
  const bool small = link && contribution.bytes > 0 && contribution.bytes <= Contribution::kSmall;
  if (small)
    std::memcpy(contribution.small.data(), contribution.data, static_cast<std::size_t>(contribution.bytes));
  Lock lock(mutex);
  contribution.step = at(device).state.step;
  at(device).contribution = std::move(contribution);
  barrier(lock, device, operation.c_str(), reads && !link);
  if (!collective_error.empty()) throw ArgumentError(collective_error);
}

namespace {

/// Sums `range` over all devices in device order into this device's own memory. The sum of a block is held
/// apart until all have been read, as one of the terms is the memory that it goes to.
template <class T>
void sum_range(const ThreadShared& shared, T* own, Range range) {
  constexpr std::int64_t kBlock = 4096;
  std::array<T, kBlock> sum;
  for (std::int64_t begin = range.begin; begin < range.end; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, range.end - begin);
    for (int d = 0; d < shared.size(); ++d) {
      const T* term = reinterpret_cast<const T*>(shared.brought(d).data) + begin;
      if (d == 0) {
        std::copy_n(term, count, sum.data());
      } else {
        for (std::int64_t i = 0; i < count; ++i) sum[static_cast<std::size_t>(i)] += term[i];
      }
    }
    std::copy_n(sum.data(), count, own + begin);
  }
}

template <class T>
void share_sums(ThreadShared& shared, int device, std::span<T> values, const char* operation,
                DeviceTrace& trace) {
  const auto elements = static_cast<std::int64_t>(values.size());
  {
    const DeviceTrace::Span span(trace, "exchange", trace.enabled() ? operation : "");
    sum_range(shared, values.data(), owned_part(elements, shared.size(), device));
  }
  shared.meet(device, operation, trace, true);
  {
    const DeviceTrace::Span span(trace, "exchange", trace.enabled() ? operation : "");
    for (int d = 0; d < shared.size(); ++d) {
      const Range range = owned_part(elements, shared.size(), d);
      if (d == device || range.empty()) continue;
      std::copy_n(reinterpret_cast<const T*>(shared.brought(d).data) + range.begin, range.size(),
                  values.data() + range.begin);
    }
  }
  shared.meet(device, operation, trace, false);
}

/// The sum of what came with the agreement: every device has all terms.
template <class T>
void sum_small(const ThreadShared& shared, std::span<T> values) {
  for (int d = 0; d < shared.size(); ++d) {
    const std::byte* term = shared.brought(d).small.data();
    for (std::size_t i = 0; i < values.size(); ++i) {
      T value;
      std::memcpy(&value, term + i * sizeof(T), sizeof(T));
      values[i] = d == 0 ? value : values[i] + value;
    }
  }
}

template <class T>
void reduce(ThreadShared& shared, Communicator& own, std::span<T> values, DeviceTrace& trace) {
  constexpr const char* operation =
      sizeof(T) == sizeof(float) ? "all_reduce_sum of float" : "all_reduce_sum of double";
  const auto bytes = std::as_writable_bytes(values);
  const auto size = static_cast<std::int64_t>(bytes.size());
  shared.open(own.device(), {.operation = operation, .data = bytes.data(), .bytes = size}, trace);
  if (!shared.link) return share_sums(shared, own.device(), values, operation, trace);
  size <= Contribution::kSmall ? sum_small(shared, values) : send_sums(own, values);
}

}  // namespace

void ThreadShared::all_reduce_sum(Communicator& own, std::span<float> values, DeviceTrace& trace) {
  reduce(*this, own, values, trace);
}
void ThreadShared::all_reduce_sum(Communicator& own, std::span<double> values, DeviceTrace& trace) {
  reduce(*this, own, values, trace);
}

void ThreadShared::all_gather(Communicator& comm, std::span<const std::byte> own, std::span<std::byte> all,
                              DeviceTrace& trace) {
  const bool fits = all.size() == own.size() * devices.size();
  const auto size = static_cast<std::int64_t>(own.size());
  open(comm.device(),
       {.operation = "all_gather",
        .data = own.data(),
        .bytes = size,
        .invalid = fits ? "" : "expected room for the bytes of every device, got another length"},
       trace);
  if (link && size > Contribution::kSmall) return send_parts(comm, own, all);
  {
    const DeviceTrace::Span span(trace, "exchange", trace.enabled() ? "all_gather" : "");
    for (int d = 0; d < this->size(); ++d) {
      const std::byte* part = link ? brought(d).small.data() : brought(d).data;
      std::byte* place = all.data() + own.size() * static_cast<std::size_t>(d);
      if (!own.empty() && place != part) std::memcpy(place, part, own.size());
    }
  }
  if (!link) meet(comm.device(), "all_gather", trace, false);
}

void ThreadShared::broadcast(Communicator& own, int root, std::span<std::byte> data, DeviceTrace& trace) {
  const auto bytes = static_cast<std::int64_t>(data.size());
  open(own.device(),
       {.operation = "broadcast",
        .data = data.data(),
        .bytes = bytes,
        .root = root,
        .invalid = root >= 0 && root < size() ? "" : "expected a root among the devices, got none of them"},
       trace);
  if (link && bytes > Contribution::kSmall) return send_from(own, root, data);
  if (own.device() != root && !data.empty()) {
    const DeviceTrace::Span span(trace, "exchange", trace.enabled() ? "broadcast" : "");
    std::memcpy(data.data(), link ? brought(root).small.data() : brought(root).data, data.size());
  }
  if (!link) meet(own.device(), "broadcast", trace, false);
}

}  // namespace rondo
