#pragma once
// Options that sub-commands share, and how values are checked. Every option's help has its default and unit.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "rondo/attention/ring_loop.h"
#include "rondo/comm/device_group.h"
#include "rondo/model/forms.h"
#include "rondo/schedule/schedule.h"

namespace rondo::apps {

/// More tokens than any machine holds; keeps sums of extents far from the ends of int64.
inline constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;

/// Values from `low` to `high`; refuses NaN.
template <class T>
CLI::Validator between(T low, T high) {
  const auto check = [low, high](const std::string& text) -> std::string {
    T value{};
    if (CLI::detail::lexical_cast(text, value) && value >= low && value <= high) return {};
    return fmt::format("expected a number from {} to {}, got '{}'", low, high, text);
  };
  return CLI::Validator(check, "");
}
/// Values of at least `low`; refuses NaN and infinity.
template <class T>
CLI::Validator at_least(T low) {
  const auto check = [low](const std::string& text) -> std::string {
    T value{};
    if (CLI::detail::lexical_cast(text, value) && value >= low && std::isfinite(static_cast<double>(value)))
      return {};
    return fmt::format("expected a number of at least {}, got '{}'", low, text);
  };
  return CLI::Validator(check, "");
}
/// Values above `low`; refuses NaN and infinity.
CLI::Validator above(double low);
/// Refuses a sign: read as an unsigned number, -1 would become a huge one.
CLI::Validator without_sign();
/// One of a few words.
CLI::Validator one_of(std::vector<std::string> words);

/// A --ctx-size that was left to --memory-limit.
inline constexpr std::int64_t kAutoContext = -1;
/// Reads at least 1 token, or auto as kAutoContext.
CLI::Validator tokens_or_auto();

/// Adds an option whose help ends with its default.
template <class T>
CLI::Option* add(CLI::App& app, const std::string& name, T& value, const std::string& help) {
  return app.add_option(name, value, help)->capture_default_str();
}
/// Adds a switch that is off unless given.
CLI::Option* add_switch(CLI::App& app, const std::string& name, bool& value, const std::string& help);

/// Whether the option was given on the command line or in a configuration file.
bool given(const CLI::App& app, const std::string& name);

/// "512M" -> 536870912; K, M, G and T count in 1024, optionally with iB or B behind. ArgumentError names
/// `option`.
std::int64_t parse_bytes(std::string_view option, const std::string& text);
/// 1536 -> "1.5 KiB"
std::string format_bytes(double bytes);
/// 1.5e9 -> "1.50 G"
std::string format_rate(double rate);
/// 3725 -> "1h02m"
std::string format_duration(double seconds);

/// Where --help lists the ring's options.
inline constexpr const char* kRingGroup = "Ring";

/// The ring that a command runs on.
class RingArguments {
 public:
  void add_to(CLI::App& app);
  /// Without what only a model's run needs (--layout, --exchange).
  void add_devices_to(CLI::App& app);
  /// Throws ArgumentError naming the option that does not fit this machine. Joins the processes that were
  /// launched with this one, so it is to be called once.
  RingOptions ring() const;
  Layout layout() const { return parse_layout(layout_); }
  Exchange exchange() const { return parse_exchange(exchange_); }

 private:
  int devices_ = 1, threads_ = 1;
  std::string layout_ = "zigzag", exchange_ = "copy", isa_, memory_limit_ = "0";
  double timeout_ = 600;
  bool no_overlap_ = false;
};

inline constexpr const char* kAttentionHelp =
    "Attention with all of its scores in memory, on one device, or block by block";
inline constexpr const char* kFeedForwardHelp =
    "Feed-forward of all of a device's tokens at once, or block by block";

/// --attention and --feedforward: the forms of the Transformer.
class FormArguments {
 public:
  void add_to(CLI::App& app, const std::string& group = "Options");
  AttentionForm attention() const { return parse_attention_form(attention_); }
  FeedForwardForm feed_forward() const { return parse_feed_forward_form(feed_forward_); }

 private:
  std::string attention_ = "blockwise", feed_forward_ = "blockwise";
};

/// --segment-tokens and --spill of passes that go segment by segment.
class SegmentArguments {
 public:
  void add_to(CLI::App& app);
  /// 0: none are asked for.
  std::int64_t tokens() const { return tokens_ == 0 && !spill_.empty() ? kSpilled : tokens_; }
  const std::string& spill() const { return spill_; }
  /// Whether the number of tokens was.
  bool given() const { return tokens_ > 0; }
  /// Of segments that are spilled, where nothing else is asked for.
  static constexpr std::int64_t kSpilled = 8192;

 private:
  std::int64_t tokens_ = 0;
  std::string spill_;
};

/// --dtype and --block-tokens of a model that is run.
class ModelRunArguments {
 public:
  void add_to(CLI::App& app);
  DType dtype() const { return dtype_ == "f32" ? DType::f32 : DType::bf16; }
  std::int64_t block_tokens() const { return block_tokens_; }

 private:
  std::string dtype_ = "f32";
  std::int64_t block_tokens_ = 512;
};

}  // namespace rondo::apps
