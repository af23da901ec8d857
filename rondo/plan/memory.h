#pragma once
// docs/memory.md in code: bytes of each ledger entry of one device, before anything is allocated.

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "rondo/core/isa.h"
#include "rondo/core/ledger.h"
#include "rondo/model/config.h"
#include "rondo/model/parameters.h"
#include "rondo/model/shard.h"
#include "rondo/model/transformer.h"

namespace rondo {

enum class Purpose { train, evaluate, generate };
const char* name_of(Purpose purpose);
Purpose parse_purpose(std::string_view name);  ///< throws ArgumentError naming the purposes

/// What decides memory and time of a run, but for its length.
struct RunShape {
  ModelConfig config;
  Purpose purpose = Purpose::train;
  DType dtype = DType::f32;
  Remat remat = Remat::attention;
  Exchange exchange = Exchange::copy;
  AttentionForm attention = AttentionForm::blockwise;
  FeedForwardForm feed_forward = FeedForwardForm::blockwise;
  Layout layout = Layout::zigzag;
  Shard shard = Shard::none;
  std::int64_t block_tokens = 512;
  int devices = 1;                  ///< of a ring
  int threads = 1;                  ///< of a device: each has scratch of its own
  int replicas = 1;                 ///< rings that train on sequences of their own and share their gradients
  bool between_processes = false;   ///< devices are of more than one process
  std::int64_t segment_tokens = 0;  ///< TransformerOptions::segment_tokens
  bool spills = false;              ///< segments that are not worked on are on the disk
  std::int64_t answer_tokens = 0;   ///< of a generation's tokens: those behind the prompt
  bool keeps_work = false;          ///< an evaluation that spills into TransformerOptions::work
  Isa isa = default_isa();          ///< packed weights depend on it

  int devices_in_all() const { return devices * replicas; }
  /// Attention whose scores are all in memory is of one device.
  bool may_be_a_ring() const { return attention == AttentionForm::blockwise; }
};

/// Bytes by Entry.
using EntryBytes = std::array<std::int64_t, static_cast<std::size_t>(Entry::count)>;
std::int64_t sum_of(const EntryBytes& bytes);

/// Of a sequence of `tokens` a device's `own` ones, where the largest shard has `largest`.
struct ShardSize {
  std::int64_t tokens = 0, own = 0, largest = 0;
  int device = 0;  ///< of all rings' devices: which part of sharded state is its own
};

class MemoryModel {
 public:
  /// Throws ArgumentError for a configuration, devices or blocks that make no sense.
  explicit MemoryModel(const RunShape& run);

  const RunShape& run() const { return run_; }
  /// The same run on another ring.
  MemoryModel on(int devices) const;
  std::int64_t parameters() const { return parameters_; }
  /// The parts of the flat parameter buffer that are gathered and summed together.
  const std::vector<Range>& buckets() const { return buckets_; }
  /// Elements of a layer's bucket (the largest).
  std::int64_t layer_elements() const;
  /// Of the flat buffer.
  std::int64_t total_elements() const { return buckets_.back().end; }

  /// The most that stands in the ledger under each entry at any moment, library scratch apart (a few MiB a
  /// thread; it depends on the kernels).
  EntryBytes entries(const ShardSize& shard) const;
  /// The same of the device that holds most, for a sequence of so many tokens cut evenly.
  EntryBytes entries(std::int64_t tokens) const;
  /// The highest sum at one moment. In training all stand at once; otherwise loading may be the peak.
  std::int64_t peak(const EntryBytes& entries) const;

 private:
  std::int64_t owned(int device) const;
  void add_training_state(EntryBytes& bytes, int device) const;
  void add_weights(EntryBytes& bytes, int device) const;
  /// Places for gathered buckets: a layer at work and the next one, and those outside of the layers.
  std::int64_t slots(std::int64_t element) const;
  void add_activations(EntryBytes& bytes, const ShardSize& shard) const;
  void add_segments(EntryBytes& bytes, std::int64_t tokens) const;
  std::int64_t score_bytes(std::int64_t tokens, std::int64_t layers) const;
  void add_blocks(EntryBytes& bytes, const ShardSize& shard) const;
  void add_exchange(EntryBytes& bytes, const ShardSize& shard) const;
  void add_cache(EntryBytes& bytes, std::int64_t tokens) const;
  std::int64_t cached_layer_bytes(std::int64_t tokens) const;
  void add_prompt_cache(EntryBytes& bytes, std::int64_t prompt) const;
  std::int64_t packed_bytes() const;
  /// What is divided: one device alone divides nothing.
  Shard shard() const { return run_.devices_in_all() == 1 ? Shard::none : run_.shard; }
  std::int64_t parts_under_way() const;

  RunShape run_;
  std::vector<Range> buckets_;
  std::int64_t parameters_ = 0;
};

/// Most tokens of one sequence with which no device passes a limit.
struct LongestContext {
  std::int64_t tokens = 0;     ///< 0: not even one fits
  EntryBytes entries{};        ///< of the device that holds most, at these tokens (of one token if none fits)
  std::int64_t peak = 0;       ///< their sum at the worst moment
  Entry limits = Entry::data;  ///< the largest entry that grows with tokens; the largest of all if none fits
};
LongestContext longest_context(const MemoryModel& memory, std::int64_t limit);

}  // namespace rondo
