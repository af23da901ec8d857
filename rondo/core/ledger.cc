#include "rondo/core/ledger.h"

#include <fmt/format.h>

#include <algorithm>

#include "rondo/core/error.h"
#include "rondo/core/trace.h"

namespace rondo {

const char* name_of(Entry entry) {
  switch (entry) {
    case Entry::parameters:
      return "parameters";
    case Entry::compute_weights:
      return "compute weights";
    case Entry::packed_weights:
      return "packed weights";
    case Entry::gradients:
      return "gradients";
    case Entry::gradient_exchange:
      return "gradient exchange";
    case Entry::optimizer:
      return "optimizer";
    case Entry::layer_inputs:
      return "layer inputs";
    case Entry::kept:
      return "kept for backward";
    case Entry::attention:
      return "attention";
    case Entry::feed_forward_block:
      return "feed-forward block";
    case Entry::loss_block:
      return "loss block";
    case Entry::exchange:
      return "exchange";
    case Entry::kv_cache:
      return "K/V cache";
    case Entry::data:
      return "data";
    case Entry::library_scratch:
      return "library scratch";
    case Entry::count:
      break;
  }
  return "unknown";
}

namespace {
double mib(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }
}  // namespace

void Ledger::set_limit(std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  limit_ = bytes;
}

void Ledger::add(Entry entry, std::int64_t bytes, const char* what) {
  const std::lock_guard lock(mutex_);
  if (limit_ > 0 && total_ + bytes > limit_) {
    throw MemoryLimitError(
        fmt::format("[memory] device {}: expected at most {:.1f} MiB, but {} ({}) asks for {:.1f} MiB with "
                    "{:.1f} MiB in use; "
                    "use more devices, a shorter context or a higher limit",
                    device_, mib(limit_), what, name_of(entry), mib(bytes), mib(total_)));
  }
  const auto e = static_cast<std::size_t>(entry);
  current_[e] += bytes;
  peak_[e] = std::max(peak_[e], current_[e]);
  total_ += bytes;
  peak_total_ = std::max(peak_total_, total_);
  ++allocations_;
  record(entry);
}

void Ledger::remove(Entry entry, std::int64_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  current_[static_cast<std::size_t>(entry)] -= bytes;
  total_ -= bytes;
  record(entry);
}

void Ledger::record_into(Trace* trace) {
  const std::lock_guard lock(mutex_);
  trace_ = trace;
}

void Ledger::record(Entry entry) const {
  if (trace_ != nullptr)
    trace_->record_memory({device_, entry, trace_->now_ns(), current_[static_cast<std::size_t>(entry)]});
}

std::int64_t Ledger::current(Entry entry) const {
  const std::lock_guard lock(mutex_);
  return current_[static_cast<std::size_t>(entry)];
}
std::int64_t Ledger::peak(Entry entry) const {
  const std::lock_guard lock(mutex_);
  return peak_[static_cast<std::size_t>(entry)];
}
std::int64_t Ledger::total() const {
  const std::lock_guard lock(mutex_);
  return total_;
}
std::int64_t Ledger::peak_total() const {
  const std::lock_guard lock(mutex_);
  return peak_total_;
}
std::int64_t Ledger::allocations() const {
  const std::lock_guard lock(mutex_);
  return allocations_;
}

}  // namespace rondo
