#pragma once
// Which few of many segments are in memory while one after the other is worked on: the policy alone, for the
// store that moves them (model/segment_store.h) and for the plan that foretells how long that takes
// (plan/spill_clocks.h).

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "rondo/core/error.h"

namespace rondo {

/// `Content` is what a place in memory holds. `Traffic`, given to each call, has
///   settle(Slot&)      waits for the transfer under way, if there is one
///   start_read(Slot&)  fetches the segment that the slot is now of
template <class Content>
class SegmentSlots {
 public:
  struct Slot {
    std::int64_t segment = -1, used = 0;
    bool leaves = false;  ///< its last transfer was a write
    Content content{};
  };

  SegmentSlots() = default;  ///< of no segments
  explicit SegmentSlots(std::int64_t segments)
      : slots_(static_cast<std::size_t>(std::min(kMost, segments))) {}

  auto begin() { return slots_.begin(); }
  auto end() { return slots_.end(); }

  /// A segment that stays in memory until another is held or taken; fetched, if it isn't there. `ahead` is
  /// the next one, or -1: it is fetched meanwhile.
  template <class Traffic>
  Slot& hold(std::int64_t segment, std::int64_t ahead, Traffic& traffic) {
    held_ = -1;
    Slot& slot = fetch(segment, traffic);
    slot.used = ++uses_;
    held_ = segment;
    if (ahead >= 0 && slots_.size() > 1) fetch(ahead, traffic);
    return slot;
  }
  /// The same, with any content.
  template <class Traffic>
  Slot& take(std::int64_t segment, Traffic& traffic) {
    held_ = -1;
    Slot* slot = find(segment);
    if (slot == nullptr) slot = &make_room(segment, traffic);
    traffic.settle(*slot);
    slot->used = ++uses_;
    held_ = segment;
    return *slot;
  }
  /// What hold() or take() gave last.
  Slot& held() {
    Slot* slot = find(held_);
    RONDO_ASSERT(slot != nullptr && held_ >= 0);
    return *slot;
  }
  /// Nothing is in memory any more.
  void forget() {
    for (Slot& slot : slots_) slot.segment = -1;
    held_ = -1;
  }

 private:
  /// One is worked on, one comes, one goes.
  static constexpr std::int64_t kMost = 3;

  Slot* find(std::int64_t segment) {
    for (Slot& slot : slots_)
      if (slot.segment == segment) return &slot;
    return nullptr;
  }
  /// A slot for a segment that has none: the one that was not used for longest.
  template <class Traffic>
  Slot& make_room(std::int64_t segment, Traffic& traffic) {
    Slot* oldest = nullptr;
    for (Slot& slot : slots_) {
      if (slot.segment == held_ && held_ >= 0) continue;
      if (oldest == nullptr || slot.used < oldest->used) oldest = &slot;
    }
    RONDO_ASSERT(oldest != nullptr);
    traffic.settle(*oldest);
    oldest->segment = segment;
    oldest->used = ++uses_;
    return *oldest;
  }
  template <class Traffic>
  Slot& fetch(std::int64_t segment, Traffic& traffic) {
    if (Slot* found = find(segment)) return *found;
    Slot& slot = make_room(segment, traffic);
    slot.leaves = false;
    traffic.start_read(slot);
    return slot;
  }

  std::vector<Slot> slots_;
  std::int64_t held_ = -1, uses_ = 0;
};

}  // namespace rondo
