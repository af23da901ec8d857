// Ledger, buffers and scratch memory.

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rondo/core/context.h"

namespace rondo {
namespace {

constexpr std::int64_t kMiB = 1 << 20;

TEST(Ledgers, KeepSumsAndPeaksPerEntry) {
  Ledger ledger;
  ledger.add(Entry::attention, 100, "a");
  ledger.add(Entry::exchange, 50, "b");
  ledger.remove(Entry::attention, 100);
  ledger.add(Entry::exchange, 30, "c");
  EXPECT_EQ(ledger.current(Entry::attention), 0);
  EXPECT_EQ(ledger.peak(Entry::attention), 100);
  EXPECT_EQ(ledger.current(Entry::exchange), 80);
  EXPECT_EQ(ledger.total(), 80);
  EXPECT_EQ(ledger.peak_total(), 150);  // not 180: the two peaks were at different times
  EXPECT_EQ(ledger.allocations(), 3);
}

TEST(Ledgers, RefuseMoreThanTheLimitAndChangeNothing) {
  Ledger ledger(3);
  ledger.set_limit(2 * kMiB);
  ledger.add(Entry::parameters, 2 * kMiB, "weights");
  try {
    ledger.add(Entry::attention, 1, "queries");
    FAIL() << "nothing was thrown";
  } catch (const MemoryLimitError& error) {
    for (const char* word : {"device 3", "2.0 MiB", "queries", "attention"})
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << word << " in " << error.what();
  }
  EXPECT_EQ(ledger.total(), 2 * kMiB);
  EXPECT_EQ(ledger.allocations(), 1);
  EXPECT_EQ(ledger.peak(Entry::attention), 0);
  ledger.set_limit(0);
  EXPECT_NO_THROW(ledger.add(Entry::attention, kMiB, "queries"));
}

TEST(Ledgers, NameEveryEntry) {
  for (int e = 0; e < static_cast<int>(Entry::count); ++e)
    EXPECT_STRNE(name_of(static_cast<Entry>(e)), "unknown");
}

TEST(Ledgers, AreReadWhileOthersWrite) {
  Ledger ledger;
  {
    const std::jthread writer([&] {
      for (int i = 0; i < 1000; ++i) {
        ledger.add(Entry::data, 8, "x");
        ledger.remove(Entry::data, 8);
      }
    });
    for (int i = 0; i < 1000; ++i) EXPECT_LE(ledger.total(), 8);
  }
  EXPECT_EQ(ledger.total(), 0);
}

TEST(Buffers, AreZeroedAlignedAndEntered) {
  Ledger ledger;
  Arena arena(ledger);
  {
    const Buffer buffer = arena.allocate(Entry::gradients, 10001, "gradients");
    EXPECT_GE(buffer.bytes(), 10001);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 4096, 0u);
    for (int i = 0; i < 10001; ++i) ASSERT_EQ(buffer.as<char>()[i], 0);
    std::memset(buffer.data(), 1, 10001);
    EXPECT_EQ(ledger.current(Entry::gradients), buffer.bytes());
    const Tensor tensor = buffer.tensor(DType::bf16, 10, 5, 100);
    EXPECT_EQ(tensor.data, buffer.data());
    EXPECT_EQ(tensor.token_stride, 500);
  }
  EXPECT_EQ(ledger.total(), 0);
}

TEST(Buffers, MoveWithTheirEntry) {
  Ledger ledger;
  Arena arena(ledger);
  Buffer a = arena.allocate(Entry::data, 4096, "a");
  void* const pages = a.data();
  Buffer b = std::move(a);
  EXPECT_EQ(b.data(), pages);
  EXPECT_EQ(a.data(), nullptr);  // NOLINT: a moved-from buffer is empty
  Buffer c = arena.allocate(Entry::kept, 8192, "c");
  c = std::move(b);
  EXPECT_EQ(c.data(), pages);
  EXPECT_EQ(ledger.current(Entry::kept), 0);
  EXPECT_EQ(ledger.current(Entry::data), 4096);
  c = Buffer();
  EXPECT_EQ(ledger.total(), 0);
}

TEST(Buffers, OfNothingHoldNothing) {
  Ledger ledger;
  Arena arena(ledger);
  const Buffer none = arena.allocate(Entry::data, 0, "none");
  EXPECT_EQ(none.data(), nullptr);
  EXPECT_EQ(none.bytes(), 0);
  EXPECT_EQ(ledger.allocations(), 0);
}

TEST(Buffers, MoreThanTheSystemHasIsNamed) {
  Ledger ledger;
  Arena arena(ledger);
  try {
    (void)arena.allocate(Entry::feed_forward_block, std::int64_t{1} << 60, "gate block");
    FAIL() << "expected no such memory";
  } catch (const MemoryLimitError& error) {
    EXPECT_NE(std::string(error.what()).find("gate block (feed-forward block)"), std::string::npos);
  }
  EXPECT_EQ(ledger.total(), 0);
}

TEST(Buffers, OverTheLimitLeaveTheLedgerAsItWas) {
  Ledger ledger;
  ledger.set_limit(8192);
  Arena arena(ledger);
  const Buffer kept = arena.allocate(Entry::data, 8192, "kept");
  EXPECT_THROW((void)arena.allocate(Entry::data, 1, "more"), MemoryLimitError);
  EXPECT_EQ(ledger.total(), 8192);
}

TEST(Streams, GiveEachWorkerScratchOfItsOwn) {
  Context context({.threads = 3});
  Stream& stream = context.stream;
  EXPECT_EQ(stream.threads(), 3);
  stream.reserve_scratch(1000);
  for (int worker = 0; worker < 3; ++worker) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(stream.scratch(worker)) % 64, 0u);
    std::memset(stream.scratch(worker), worker + 1, 1000);
  }
  for (int worker = 0; worker < 3; ++worker)
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(static_cast<int>(stream.scratch(worker)[i]), worker + 1);
  const std::int64_t before = context.ledger.allocations();
  stream.reserve_scratch(500);
  EXPECT_EQ(context.ledger.allocations(), before);
  stream.reserve_scratch(10000);
  std::memset(stream.scratch(2), 1, 10000);
  EXPECT_GE(context.ledger.current(Entry::library_scratch), 30000);
  EXPECT_LE(context.ledger.current(Entry::library_scratch), 3 * 12288);
}

TEST(Contexts, CarryTheirOptions) {
  Trace trace;
  Context context({.device = 2, .threads = 2, .isa = Isa::portable, .memory_limit = 4096, .trace = &trace});
  EXPECT_EQ(context.device, 2);
  EXPECT_EQ(context.pool.threads(), 2);
  EXPECT_EQ(context.stream.isa(), Isa::portable);
  EXPECT_TRUE(context.trace.enabled());
  EXPECT_THROW((void)context.arena.allocate(Entry::data, 4097, "x"), MemoryLimitError);
  EXPECT_FALSE(Context({}).trace.enabled());
}

}  // namespace
}  // namespace rondo
