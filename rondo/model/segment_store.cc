#include "rondo/model/segment_store.h"

#include <algorithm>
#include <utility>

#include "rondo/core/error.h"

namespace rondo {

SegmentStore::SegmentStore(Context& context, SpillDisk* disk, const SegmentStoreOptions& options)
    : context_(&context), disk_(disk), options_(options) {
  std::int64_t& bytes = options_.segment_bytes;
  bytes = (bytes + kSpillAlignment - 1) / kSpillAlignment * kSpillAlignment;
  if (disk == nullptr) {
    all_ = context.arena.allocate(options.entry, bytes * options.segments, options.what);
    return;
  }
  slots_.resize(std::min(kSlots, static_cast<std::size_t>(options.segments)));
  for (Slot& slot : slots_) slot.memory = context.arena.allocate(options.entry, bytes, options.what);
  file_.emplace(*disk, bytes, options.segments, options.what, options.name);
}

SegmentStore::~SegmentStore() {
  for (Slot& slot : slots_) {
    try {
      if (slot.transfer) disk_->wait(slot.transfer);
    } catch (const IoError&) {  // nobody reads it any more
    }
  }
}

SegmentStore::Slot* SegmentStore::find(std::int64_t segment) {
  for (Slot& slot : slots_)
    if (slot.segment == segment) return &slot;
  return nullptr;
}

void SegmentStore::settle(Slot& slot) {
  if (!slot.transfer) return;
  const bool done = disk_->done(slot.transfer);
  std::optional<DeviceTrace::Span> span;
  if (!done) span.emplace(context_->trace, "exchange", context_->trace.enabled() ? options_.what : "");
  const SpillTransferPtr transfer = std::exchange(slot.transfer, nullptr);
  disk_->wait(transfer);
}

SegmentStore::Slot& SegmentStore::make_room(std::int64_t segment) {
  Slot* oldest = nullptr;
  for (Slot& slot : slots_) {
    if (slot.segment == held_ && held_ >= 0) continue;
    if (oldest == nullptr || slot.used < oldest->used) oldest = &slot;
  }
  RONDO_ASSERT(oldest != nullptr);
  settle(*oldest);
  oldest->segment = segment;
  oldest->used = ++uses_;
  return *oldest;
}

SegmentStore::Slot& SegmentStore::fetch(std::int64_t segment) {
  if (Slot* found = find(segment)) return *found;
  Slot& slot = make_room(segment);
  slot.transfer = file_->start_read(segment, slot.memory.as<std::byte>());
  slot.leaves = false;
  return slot;
}

SegmentStore::Slot& SegmentStore::hold(std::int64_t segment, std::int64_t ahead) {
  RONDO_ASSERT(segment >= 0 && segment < options_.segments && ahead < options_.segments);
  held_ = -1;
  Slot& slot = fetch(segment);
  slot.used = ++uses_;
  held_ = segment;
  if (ahead >= 0 && slots_.size() > 1) fetch(ahead);
  return slot;
}

const std::byte* SegmentStore::read(std::int64_t segment, std::int64_t ahead) {
  if (disk_ == nullptr) return all_.as<std::byte>() + segment * options_.segment_bytes;
  Slot& slot = hold(segment, ahead);
  if (!slot.leaves) settle(slot);
  return slot.memory.as<std::byte>();
}

std::byte* SegmentStore::change(std::int64_t segment, std::int64_t ahead) {
  if (disk_ == nullptr) return all_.as<std::byte>() + segment * options_.segment_bytes;
  Slot& slot = hold(segment, ahead);
  settle(slot);
  return slot.memory.as<std::byte>();
}

std::byte* SegmentStore::write(std::int64_t segment) {
  RONDO_ASSERT(segment >= 0 && segment < options_.segments);
  if (disk_ == nullptr) return all_.as<std::byte>() + segment * options_.segment_bytes;
  held_ = -1;
  Slot* slot = find(segment);
  if (slot == nullptr) slot = &make_room(segment);
  settle(*slot);
  slot->used = ++uses_;
  held_ = segment;
  return slot->memory.as<std::byte>();
}

void SegmentStore::written(std::int64_t segment) {
  if (disk_ == nullptr) return;
  Slot* slot = find(segment);
  RONDO_ASSERT(slot != nullptr && held_ == segment && !slot->transfer);
  slot->transfer = file_->start_write(segment, slot->memory.as<std::byte>());
  slot->leaves = true;
}

void SegmentStore::settle_writes() {
  for (Slot& slot : slots_)
    if (slot.leaves) settle(slot);
}

const std::vector<std::uint64_t>& SegmentStore::flush() {
  RONDO_ASSERT(disk_ != nullptr);
  settle_writes();
  file_->sync();
  return file_->checksums();
}

void SegmentStore::restore(std::vector<std::uint64_t> checksums) {
  RONDO_ASSERT(disk_ != nullptr);
  for (Slot& slot : slots_) {
    settle(slot);
    slot.segment = -1;
  }
  held_ = -1;
  file_->restore(std::move(checksums));
}

}  // namespace rondo
