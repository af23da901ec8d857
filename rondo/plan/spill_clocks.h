#pragma once
// The clocks of a device and of its disk, and on them what a model/segment_store.h does.

#include <algorithm>
#include <cstdint>

#include "rondo/core/error.h"
#include "rondo/io/segment_slots.h"
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
      : clocks_(&clocks), bytes_(token_bytes * static_cast<double>(segment_tokens)), slots_(segments) {}

  void read(std::int64_t segment, std::int64_t ahead) {
    Slots::Slot& slot = slots_.hold(segment, ahead, *this);
    if (!slot.leaves) settle(slot);
  }
  void change(std::int64_t segment, std::int64_t ahead) { settle(slots_.hold(segment, ahead, *this)); }
  void write(std::int64_t segment) { slots_.take(segment, *this); }
  void written(std::int64_t segment) {
    Slots::Slot& slot = slots_.held();
    RONDO_ASSERT(slot.segment == segment);
    slot.content = clocks_->write(bytes_);
    slot.leaves = true;
  }

 private:
  using Slots = SegmentSlots<double>;  ///< when the transfer has ended
  friend Slots;
  void settle(Slots::Slot& slot) { clocks_->wait(slot.content); }
  void start_read(Slots::Slot& slot) { slot.content = clocks_->read(bytes_); }

  Clocks* clocks_;
  double bytes_;
  Slots slots_;
};

}  // namespace rondo
