// Which segments are in memory: the one that is worked on, the one ahead, and what was used last.

#include "rondo/io/segment_slots.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace rondo {
namespace {

/// Writes down what is moved: "r3 " is segment 3 read, "w3 " waited for.
struct Log {
  struct Nothing {};
  using Slots = SegmentSlots<Nothing>;
  void settle(Slots::Slot& slot) {
    if (slot.segment >= 0) words += "w" + std::to_string(slot.segment) + " ";
  }
  void start_read(Slots::Slot& slot) { words += "r" + std::to_string(slot.segment) + " "; }
  std::string take() { return std::exchange(words, ""); }
  std::string words;
};

TEST(SegmentSlots, FetchWhatIsNotThereAndTheNextAhead) {
  Log log;
  Log::Slots slots(10);
  EXPECT_EQ(slots.hold(0, 1, log).segment, 0);
  EXPECT_EQ(log.take(), "r0 r1 ");
  EXPECT_EQ(slots.hold(1, 2, log).segment, 1);
  EXPECT_EQ(log.take(), "r2 ");  // 1 is there
  EXPECT_EQ(slots.hold(2, -1, log).segment, 2);
  EXPECT_EQ(log.take(), "");
}

TEST(SegmentSlots, GiveAwayWhatWasNotUsedForLongestButNeverWhatIsHeld) {
  Log log;
  Log::Slots slots(10);
  for (const int segment : {0, 1, 2, 0}) slots.hold(segment, -1, log);
  log.take();
  slots.hold(3, -1, log);
  EXPECT_EQ(log.take(), "w1 r3 ");  // 0 was used later
  slots.hold(3, 4, log);
  EXPECT_EQ(log.take(), "w2 r4 ");
  slots.hold(3, 5, log);
  EXPECT_EQ(log.take(), "w0 r5 ");
  slots.hold(3, 6, log);
  EXPECT_EQ(log.take(), "w4 r6 ");
}

TEST(SegmentSlots, TakeMemoryWithoutReading) {
  Log log;
  Log::Slots slots(2);  // two places
  slots.hold(0, 1, log);
  log.take();
  Log::Slots::Slot& one = slots.take(1, log);
  EXPECT_EQ(one.segment, 1);
  EXPECT_EQ(log.take(), "w1 ");  // what is still coming would write over what the caller writes
  EXPECT_EQ(&slots.held(), &one);
  EXPECT_EQ(slots.take(2, log).segment, 2);
  EXPECT_EQ(log.take(), "w0 w2 ");  // room, and then nothing is under way; nothing is read
  slots.forget();
  slots.hold(1, -1, log);
  EXPECT_EQ(log.take(), "r1 ");
}

TEST(SegmentSlots, KnowWhatWasWritten) {
  Log log;
  Log::Slots slots(4);
  slots.take(0, log).leaves = true;
  EXPECT_TRUE(slots.hold(0, -1, log).leaves);  // it may be read while it is written
  for (const int segment : {1, 2, 3}) slots.hold(segment, -1, log);
  EXPECT_FALSE(slots.hold(0, -1, log).leaves);  // fetched again
}

TEST(SegmentSlots, OneSegmentNeedsOnePlace) {
  Log log;
  Log::Slots slots(1);
  EXPECT_EQ(slots.end() - slots.begin(), 1);
  slots.hold(0, 0, log);
  slots.hold(0, -1, log);
  EXPECT_EQ(log.take(), "r0 ");
}

}  // namespace
}  // namespace rondo
