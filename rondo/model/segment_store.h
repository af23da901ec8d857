#pragma once
// A tensor of a device's tokens that is cut into segments, of which one is worked on at a time: all of them
// in memory, or in a file with a few segments in memory.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "rondo/core/context.h"
#include "rondo/io/segment_slots.h"
#include "rondo/io/spill.h"

namespace rondo {

struct SegmentStoreOptions {
  Entry entry = Entry::kept;
  std::int64_t segment_bytes = 0, segments = 0;
  const char* what = "";
  /// On a disk: of a file that stays, to be read by another process. Empty: of none.
  std::string name = {};
};

class SegmentStore {
 public:
  /// `disk`: null keeps all segments in memory. Context and disk outlive it.
  SegmentStore(Context& context, SpillDisk* disk, const SegmentStoreOptions& options);
  SegmentStore(const SegmentStore&) = delete;
  SegmentStore& operator=(const SegmentStore&) = delete;
  ~SegmentStore();

  /// A segment's content, until one of these three is called for another segment. `ahead` is what will be
  /// read or changed next, or -1: it is fetched meanwhile. Both were written before.
  const std::byte* read(std::int64_t segment, std::int64_t ahead = -1);
  /// The same to be changed.
  std::byte* change(std::int64_t segment, std::int64_t ahead = -1);
  /// A segment's memory with any content: for the caller to fill.
  std::byte* write(std::int64_t segment);
  /// What change() or write() gave last is ready: it sets out for the disk.
  void written(std::int64_t segment);

  /// On a disk with a name: waits until all that was written is on the disk. Returns the segments' checksums.
  const std::vector<std::uint64_t>& flush();
  /// What another process wrote, by the checksums that its flush() returned, takes the place of all segments.
  void restore(std::vector<std::uint64_t> checksums);

 private:
  struct Held {
    Buffer memory;
    SpillTransferPtr transfer;  ///< under way, or null
  };
  using Slots = SegmentSlots<Held>;
  friend Slots;
  void settle(Slots::Slot& slot);
  void start_read(Slots::Slot& slot);
  void settle_writes();
  std::byte* in_memory(std::int64_t segment) const;

  Context* context_;
  SpillDisk* disk_;
  SegmentStoreOptions options_;
  Buffer all_;  ///< where there is no disk
  std::optional<SpillFile> file_;
  Slots slots_;
};

}  // namespace rondo
