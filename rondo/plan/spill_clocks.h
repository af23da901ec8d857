#pragma once
// The clocks of a device and of its disk, and on them what a model/segment_store.h does.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "rondo/plan/hardware.h"

namespace rondo {

/// The device computes, the disk moves one transfer after the other in the order in which they were asked
/// for.
class Clocks {
 public:
  explicit Clocks(const Disk& disk) : disk_(disk) {}
  void compute(double seconds) { now_ += seconds, computed_ += seconds; }
  /// Returns when the transfer will have ended.
  double read(double bytes) { return read_ += bytes, transfer(bytes, disk_.read_bytes_per_second); }
  double write(double bytes) { return written_ += bytes, transfer(bytes, disk_.write_bytes_per_second); }
  void wait(double until) { now_ = std::max(now_, until); }
  double now() const { return now_; }
  double computed() const { return computed_; }
  double bytes_read() const { return read_; }
  double bytes_written() const { return written_; }

  /// What `work` does, so many times; it is done a few times, and then again as the last time.
  template <class Work>
  void repeat(std::int64_t times, const Work& work) {
    constexpr std::int64_t kDone = 3;
    Clocks before = *this;
    for (std::int64_t n = 0; n < std::min(times, kDone); ++n) before = *this, work(n);
    const auto more = static_cast<double>(std::max<std::int64_t>(0, times - kDone));
    free_ += more * (now_ - before.now_);
    const auto go_on = [&](double Clocks::*sum) { this->*sum += more * (this->*sum - before.*sum); };
    for (const auto sum : {&Clocks::now_, &Clocks::computed_, &Clocks::read_, &Clocks::written_}) go_on(sum);
  }

 private:
  double transfer(double bytes, double rate) {
    if (rate <= 0) return now_;  // in memory
    free_ = std::max(free_, now_) + bytes / rate;
    return free_;
  }
  Disk disk_;
  double now_ = 0, computed_ = 0, free_ = 0, read_ = 0, written_ = 0;
};

/// What SegmentStore does, in time.
class StoreClock {
 public:
  StoreClock(Clocks& clocks, double token_bytes, std::int64_t segment_tokens, std::int64_t segments)
      : clocks_(&clocks),
        bytes_(token_bytes * static_cast<double>(segment_tokens)),
        slots_(static_cast<std::size_t>(std::min<std::int64_t>(3, segments))) {}

  void read(std::int64_t segment, std::int64_t ahead) {
    Slot& slot = hold(segment, ahead);
    if (!slot.leaves) clocks_->wait(slot.ready);
  }
  void change(std::int64_t segment, std::int64_t ahead) { clocks_->wait(hold(segment, ahead).ready); }
  void write(std::int64_t segment) {
    held_ = -1;
    Slot* slot = find(segment);
    if (slot == nullptr) slot = &make_room(segment);
    clocks_->wait(slot->ready);
    slot->used = ++uses_;
    held_ = segment;
  }
  void written(std::int64_t segment) {
    Slot* slot = find(segment);
    slot->ready = clocks_->write(bytes_);
    slot->leaves = true;
  }

 private:
  struct Slot {
    std::int64_t segment = -1, used = 0;
    double ready = 0;  ///< when its transfer has ended
    bool leaves = false;
  };
  Slot* find(std::int64_t segment) {
    for (Slot& slot : slots_)
      if (slot.segment == segment) return &slot;
    return nullptr;
  }
  Slot& make_room(std::int64_t segment) {
    Slot* oldest = nullptr;
    for (Slot& slot : slots_) {
      if (slot.segment == held_ && held_ >= 0) continue;
      if (oldest == nullptr || slot.used < oldest->used) oldest = &slot;
    }
    clocks_->wait(oldest->ready);
    oldest->segment = segment;
    oldest->used = ++uses_;
    return *oldest;
  }
  Slot& fetch(std::int64_t segment) {
    if (Slot* found = find(segment)) return *found;
    Slot& slot = make_room(segment);
    slot.ready = clocks_->read(bytes_);
    slot.leaves = false;
    return slot;
  }
  Slot& hold(std::int64_t segment, std::int64_t ahead) {
    held_ = -1;
    Slot& slot = fetch(segment);
    slot.used = ++uses_;
    held_ = segment;
    if (ahead >= 0 && slots_.size() > 1) fetch(ahead);
    return slot;
  }

  Clocks* clocks_;
  double bytes_;
  std::vector<Slot> slots_;
  std::int64_t held_ = -1, uses_ = 0;
};

}  // namespace rondo
