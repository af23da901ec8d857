// The barrier of a ThreadGroup and the agreement that opens each collective.

#include <algorithm>
#include <array>
#include <cstring>

#include "rondo/comm/thread_shared.h"

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
    if (other.invalid != nullptr) return fmt::format("[{}] device {}: {}", other.operation, d, other.invalid);
    if (std::strcmp(first.operation, other.operation) != 0 || first.bytes != other.bytes ||
        first.root != other.root)
      return fmt::format(
          "[{0}] expected the same on all devices, got {0} of {1} bytes (root {2}) on device 0 and {3} of "
          "{4} bytes (root {5}) on device {6}",
          first.operation, first.bytes, first.root, other.operation, other.bytes, other.root, d);
  }
  return "";
}

void ThreadShared::barrier(Lock& lock, int device, const char* doing, bool reads) {
  try {
    at(device).reading = false;
    check_alive();
    at(device).arrived = true;
    const std::int64_t mine = generation;
    if (++arrived == size()) {
      arrived = 0;
      ++generation;
      collective_error = disagreement();
      for (std::size_t d = 0; d < devices.size(); ++d) {
        snapshot[d] = devices[d].contribution;
        devices[d].arrived = false;
        devices[d].reading = reads && collective_error.empty();
      }
      wake_all();
      return;
    }
    const auto missing = [this] {
      int first = 0;
      while (at(first).arrived) ++first;
      return first;
    };
    await(
        lock, device, doing, [&] { return generation != mine; }, missing);
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

void ThreadShared::open(int device, const Contribution& contribution, DeviceTrace& trace, bool reads) {
  const DeviceTrace::Span span(trace, "wait", trace.enabled() ? contribution.operation : "");
  Lock lock(mutex);
  at(device).contribution = contribution;
  barrier(lock, device, contribution.operation, reads);
  if (!collective_error.empty()) throw ArgumentError(collective_error);
}

namespace {

/// The elements [begin, end) that device d of `devices` owns.
Range owned(std::int64_t elements, int devices, int d) {
  return {elements * d / devices, elements * (d + 1) / devices};
}

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
void reduce(ThreadShared& shared, int device, std::span<T> values, DeviceTrace& trace) {
  constexpr const char* operation =
      sizeof(T) == sizeof(float) ? "all_reduce_sum of float" : "all_reduce_sum of double";
  const auto bytes = std::as_writable_bytes(values);
  shared.open(
      device,
      {.operation = operation, .data = bytes.data(), .bytes = static_cast<std::int64_t>(bytes.size())},
      trace);
  const auto elements = static_cast<std::int64_t>(values.size());
  {
    const DeviceTrace::Span span(trace, "exchange", trace.enabled() ? operation : "");
    sum_range(shared, values.data(), owned(elements, shared.size(), device));
  }
  shared.meet(device, operation, trace, true);
  {
    const DeviceTrace::Span span(trace, "exchange", trace.enabled() ? operation : "");
    for (int d = 0; d < shared.size(); ++d) {
      const Range range = owned(elements, shared.size(), d);
      if (d == device || range.empty()) continue;
      std::copy_n(reinterpret_cast<const T*>(shared.brought(d).data) + range.begin, range.size(),
                  values.data() + range.begin);
    }
  }
  shared.meet(device, operation, trace, false);
}

}  // namespace

void ThreadShared::all_reduce_sum(int device, std::span<float> values, DeviceTrace& trace) {
  reduce(*this, device, values, trace);
}
void ThreadShared::all_reduce_sum(int device, std::span<double> values, DeviceTrace& trace) {
  reduce(*this, device, values, trace);
}

void ThreadShared::all_gather(int device, std::span<const std::byte> own, std::span<std::byte> all,
                              DeviceTrace& trace) {
  const bool fits = all.size() == own.size() * devices.size();
  open(device,
       {.operation = "all_gather",
        .data = own.data(),
        .bytes = static_cast<std::int64_t>(own.size()),
        .invalid = fits ? nullptr : "expected room for the bytes of every device, got another length"},
       trace);
  {
    const DeviceTrace::Span span(trace, "exchange", trace.enabled() ? "all_gather" : "");
    for (int d = 0; d < size(); ++d) {
      std::byte* place = all.data() + own.size() * static_cast<std::size_t>(d);
      if (!own.empty() && place != brought(d).data) std::memcpy(place, brought(d).data, own.size());
    }
  }
  meet(device, "all_gather", trace, false);
}

void ThreadShared::broadcast(int device, int root, std::span<std::byte> data, DeviceTrace& trace) {
  open(device,
       {.operation = "broadcast",
        .data = data.data(),
        .bytes = static_cast<std::int64_t>(data.size()),
        .root = root,
        .invalid =
            root >= 0 && root < size() ? nullptr : "expected a root among the devices, got none of them"},
       trace);
  if (device != root && !data.empty()) {
    const DeviceTrace::Span span(trace, "exchange", trace.enabled() ? "broadcast" : "");
    std::memcpy(data.data(), brought(root).data, data.size());
  }
  meet(device, "broadcast", trace, false);
}

}  // namespace rondo
