// Lists of the command line, and what counts as useful work.

#include "bench/arguments.h"

#include <gtest/gtest.h>

#include "bench/attention_check.h"
#include "rondo/core/error.h"

namespace rondo::bench {
namespace {

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "";
}

void expect_refused(const std::function<void()>& call, const std::vector<std::string>& named) {
  const std::string message = message_of(call);
  for (const std::string& part : named) EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(Lists, AreReadInOrder) {
  EXPECT_EQ(parse_integers("--ctx", "4096,16384", 1, 1 << 20), (std::vector<std::int64_t>{4096, 16384}));
  EXPECT_EQ(parse_integers("--ctx", "7", 7, 7), (std::vector<std::int64_t>{7}));
  EXPECT_EQ(parse_passes("--pass", "both,forward,backward"),
            (std::vector<Pass>{Pass::both, Pass::forward, Pass::backward}));
  EXPECT_EQ(parse_dtypes("--dtype", "bf16,f32"), (std::vector<DType>{DType::bf16, DType::f32}));
  EXPECT_EQ(parse_masks("--mask", "none,causal,window:1024"),
            (std::vector<Mask>{{.causal = false}, {.causal = true}, {.causal = true, .window = 1024}}));
  EXPECT_EQ(parse_layouts("--layout", "zigzag,striped,contiguous"),
            (std::vector<Layout>{Layout::zigzag, Layout::striped, Layout::contiguous}));
  EXPECT_EQ(parse_isas(""), (std::vector<Isa>{default_isa()}));
  EXPECT_EQ(parse_isas("portable"), (std::vector<Isa>{Isa::portable}));
}

TEST(Lists, WhatMakesNoSenseIsNamed) {
  const auto integers = [](const char* text) { return [text] { parse_integers("--ctx", text, 2, 100); }; };
  for (const char* text : {"", ",", "4,", ",4", "4,,5"}) expect_refused(integers(text), {"--ctx", "commas"});
  for (const char* text : {"1", "101", "-5", "4x", "x", "4.5", " 4", "99999999999999999999"})
    expect_refused(integers(text), {"--ctx", "from 2 to 100", "'" + std::string(text) + "'"});
  expect_refused(integers("4,1"), {"'1'"});
  expect_refused([] { parse_passes("--pass", "sideways"); }, {"--pass", "forward", "'sideways'"});
  expect_refused([] { parse_dtypes("--dtype", "f32,f16"); }, {"--dtype", "bf16", "'f16'"});
  for (const char* word : {"window", "window:", "window:0", "window:-1", "window:x", "Causal", "window:2x"})
    expect_refused([word] { parse_masks("--mask", word); }, {"--mask", "window:N", word});
  expect_refused([] { parse_layouts("--layout", "zagzig"); }, {"--layout", "zigzag", "'zagzig'"});
  expect_refused([] { parse_isas("mmx"); }, {"isa", "portable", "'mmx'"});
}

TEST(Names, AreThoseOfTheCommandLine) {
  for (const char* mask : {"none", "causal", "window:7"})
    EXPECT_EQ(name_of(parse_masks("--mask", mask).front()), mask);
  for (const char* pass : {"forward", "backward", "both"})
    EXPECT_STREQ(name_of(parse_passes("--pass", pass).front()), pass);
  for (const char* dtype : {"f32", "bf16"})
    EXPECT_STREQ(short_name(parse_dtypes("--dtype", dtype).front()), dtype);
}

TEST(Flops, AreThoseOfTheConvention) {
  const Mask none{.causal = false}, causal{.causal = true};
  EXPECT_EQ(attention_flops(Pass::forward, none, 1000, 64), 4.0 * 1000 * 1000 * 64);
  EXPECT_EQ(attention_flops(Pass::backward, none, 1000, 64), 10.0 * 1000 * 1000 * 64);
  EXPECT_EQ(attention_flops(Pass::both, none, 1000, 64), 14.0 * 1000 * 1000 * 64);
  EXPECT_EQ(attention_flops(Pass::forward, causal, 1000, 64), 2.0 * 1000 * 1000 * 64);
  EXPECT_EQ(attention_flops(Pass::backward, causal, 1000, 64), 5.0 * 1000 * 1000 * 64);
}

TEST(Flops, OfAWindowAreItsVisiblePairs) {
  for (const std::int64_t tokens : {1, 2, 7, 50})
    for (const std::int64_t window : {1, 2, 6, 7, 8, 49, 50, 51, 1000}) {
      const Mask mask{.causal = true, .window = window};
      double pairs = 0;
      for (std::int64_t i = 0; i < tokens; ++i)
        for (std::int64_t j = 0; j < tokens; ++j) pairs += visible(mask, i, j) ? 1 : 0;
      EXPECT_EQ(counted_pairs(mask, tokens), pairs) << tokens << " tokens, window " << window;
    }
}

}  // namespace
}  // namespace rondo::bench
