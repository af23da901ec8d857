// The measure of reading: that it reads everything, and what it refuses.

#include "rondo/kernels/bandwidth.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "rondo/core/context.h"
#include "rondo/core/error.h"
#include "rondo/kernels/cpu/rows.h"

namespace rondo {
namespace {

TEST(ReadSum, ReadsEveryWordOfAnyLength) {
  std::vector<std::uint32_t> words(700);
  for (std::size_t n = 0; n < words.size(); ++n) words[n] = static_cast<std::uint32_t>(n * 2654435761u + 1);
  for (const Isa isa : kEveryIsa) {
    if (isa > detected_isa()) continue;
    const auto& kernels = kernels::row_kernels(isa);
    for (const std::size_t first : {0u, 1u, 3u})
      for (const std::size_t count : {0u, 1u, 15u, 16u, 127u, 128u, 129u, 500u, 697u}) {
        std::uint32_t expected = 0;
        for (std::size_t n = first; n < first + count; ++n) expected += words[n];
        const auto* bytes = reinterpret_cast<const std::byte*>(words.data() + first);
        EXPECT_EQ(kernels.read_sum(bytes, static_cast<std::int64_t>(4 * count)), expected)
            << name_of(isa) << ", " << count << " words from " << first;
      }
  }
}

TEST(ReadBandwidth, IsPositiveAndRefusesNothing) {
  Context context({.threads = 2});
  const std::vector<std::byte> memory(5 << 20);
  EXPECT_GT(kernels::measure_read_bandwidth(context.stream, memory, std::chrono::milliseconds(5)), 1e8);
  EXPECT_GT(kernels::measure_read_bandwidth(context.stream, {memory.data(), 3}, std::chrono::milliseconds(1)),
            0);
  EXPECT_THROW(kernels::measure_read_bandwidth(context.stream, {}, std::chrono::milliseconds(5)),
               ArgumentError);
  EXPECT_THROW(kernels::measure_read_bandwidth(context.stream, memory, std::chrono::milliseconds(0)),
               ArgumentError);
}

}  // namespace
}  // namespace rondo
