#pragma once
// The memory ledger of one device: every large allocation stands in it under a name. docs/memory.md derives
// the terms.

#include <array>
#include <cstdint>
#include <mutex>

namespace rondo {

/// What memory is for. One line each in reports and in `rondo plan`.
enum class Entry : std::uint8_t {
  parameters,          ///< master weights
  compute_weights,     ///< weights as passes read them, where those are not the master weights themselves
  packed_weights,      ///< of the layer at work, in the form that products read
  gradients,           ///< of the parameters, float32
  gradient_exchange,   ///< gradients on their way into sums over the devices
  optimizer,           ///< AdamW's moments, float32
  layer_inputs,        ///< each layer's input, kept from forward to backward
  kept,                ///< what --remat keeps beyond layer inputs
  attention,           ///< queries, keys, values, outputs, states and their gradients of the layer at work
  feed_forward_block,  ///< a token block's hidden activations
  loss_block,          ///< a token block's logits
  exchange,            ///< blocks that travel round the ring
  kv_cache,            ///< keys and values of decoding
  data,                ///< token ids, labels and positions
  library_scratch,     ///< scratch of kernels
  count
};

const char* name_of(Entry entry);

class Trace;

/// Bytes in use and their peaks, per entry and in sum. Safe to read from another thread.
class Ledger {
 public:
  explicit Ledger(int device = 0) : device_(device) {}

  /// Most bytes that may be in use at once; 0 (the default) is no limit.
  void set_limit(std::int64_t bytes);
  /// Where changes are recorded from now on; outlives the ledger. Null records nothing.
  void record_into(Trace* trace);

  /// Throws MemoryLimitError, changing nothing, when the sum would pass the limit. `what` names the thing for
  /// people.
  void add(Entry entry, std::int64_t bytes, const char* what);
  void remove(Entry entry, std::int64_t bytes) noexcept;

  std::int64_t current(Entry entry) const;
  std::int64_t peak(Entry entry) const;
  std::int64_t total() const;
  /// Highest sum over entries at any one moment (not the sum of the entries' peaks).
  std::int64_t peak_total() const;
  /// How many allocations were entered since construction: stands still once a step is warm.
  std::int64_t allocations() const;

 private:
  void record(Entry entry) const;
  static constexpr std::size_t kEntries = static_cast<std::size_t>(Entry::count);
  mutable std::mutex mutex_;
  int device_;
  Trace* trace_ = nullptr;
  std::int64_t limit_ = 0, total_ = 0, peak_total_ = 0, allocations_ = 0;
  std::array<std::int64_t, kEntries> current_{}, peak_{};
};

}  // namespace rondo
