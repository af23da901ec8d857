#include "rondo/model/segment_store.h"

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
  slots_ = Slots(options.segments);
  for (Slots::Slot& slot : slots_)
    slot.content.memory = context.arena.allocate(options.entry, bytes, options.what);
  file_.emplace(*disk, bytes, options.segments, options.what, options.name);
}

SegmentStore::~SegmentStore() {
  for (Slots::Slot& slot : slots_) {
    try {
      if (slot.content.transfer) disk_->wait(slot.content.transfer);
    } catch (const IoError&) {  // nobody reads it any more
    }
  }
}

void SegmentStore::settle(Slots::Slot& slot) {
  if (!slot.content.transfer) return;
  const bool done = disk_->done(slot.content.transfer);
  std::optional<DeviceTrace::Span> span;
  if (!done) span.emplace(context_->trace, "exchange", context_->trace.enabled() ? options_.what : "");
  const SpillTransferPtr transfer = std::exchange(slot.content.transfer, nullptr);
  disk_->wait(transfer);
}

void SegmentStore::start_read(Slots::Slot& slot) {
  slot.content.transfer = file_->start_read(slot.segment, slot.content.memory.as<std::byte>());
}

std::byte* SegmentStore::in_memory(std::int64_t segment) const {
  return all_.as<std::byte>() + segment * options_.segment_bytes;
}

const std::byte* SegmentStore::read(std::int64_t segment, std::int64_t ahead) {
  RONDO_ASSERT(segment >= 0 && segment < options_.segments && ahead < options_.segments);
  if (disk_ == nullptr) return in_memory(segment);
  Slots::Slot& slot = slots_.hold(segment, ahead, *this);
  if (!slot.leaves) settle(slot);
  return slot.content.memory.as<std::byte>();
}

std::byte* SegmentStore::change(std::int64_t segment, std::int64_t ahead) {
  RONDO_ASSERT(segment >= 0 && segment < options_.segments && ahead < options_.segments);
  if (disk_ == nullptr) return in_memory(segment);
  Slots::Slot& slot = slots_.hold(segment, ahead, *this);
  settle(slot);
  return slot.content.memory.as<std::byte>();
}

std::byte* SegmentStore::write(std::int64_t segment) {
  RONDO_ASSERT(segment >= 0 && segment < options_.segments);
  if (disk_ == nullptr) return in_memory(segment);
  return slots_.take(segment, *this).content.memory.as<std::byte>();
}

void SegmentStore::written(std::int64_t segment) {
  if (disk_ == nullptr) return;
  Slots::Slot& slot = slots_.held();
  RONDO_ASSERT(slot.segment == segment && !slot.content.transfer);
  slot.content.transfer = file_->start_write(segment, slot.content.memory.as<std::byte>());
  slot.leaves = true;
}

void SegmentStore::settle_writes() {
  for (Slots::Slot& slot : slots_)
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
  for (Slots::Slot& slot : slots_) settle(slot);
  slots_.forget();
  file_->restore(std::move(checksums));
}

}  // namespace rondo
