#include "apps/options.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdio>

#include "apps/time_slice.h"
#include "rondo/core/error.h"

namespace rondo::apps {

CLI::Validator above(double low) {
  const auto check = [low](const std::string& text) -> std::string {
    double value = 0;
    if (CLI::detail::lexical_cast(text, value) && value > low && std::isfinite(value)) return {};
    return fmt::format("expected a number above {}, got '{}'", low, text);
  };
  return CLI::Validator(check, "");
}

CLI::Validator without_sign() {
  const auto check = [](const std::string& text) -> std::string {
    if (text.find('-') == std::string::npos) return {};
    return fmt::format("expected a number of at least 0, got '{}'", text);
  };
  return CLI::Validator(check, "");
}

CLI::Validator one_of(std::vector<std::string> words) {
  const std::string choice = fmt::format("{}", fmt::join(words, "|"));
  const auto check = [words = std::move(words), choice](const std::string& text) -> std::string {
    if (std::find(words.begin(), words.end(), text) != words.end()) return {};
    return fmt::format("expected {}, got '{}'", choice, text);
  };
  return CLI::Validator(check, choice);
}

CLI::Validator tokens_or_auto() {
  const auto read = [](std::string& text) -> std::string {
    std::int64_t tokens = 0;
    if (text == "auto")
      text = fmt::format("{}", kAutoContext);
    else if (!CLI::detail::lexical_cast(text, tokens) || tokens < 1 || tokens > kMostTokens)
      return fmt::format("expected a number from 1 to {} or auto, got '{}'", kMostTokens, text);
    return {};
  };
  return CLI::Validator(read, "");
}

CLI::Option* add_switch(CLI::App& app, const std::string& name, bool& value, const std::string& help) {
  return app.add_flag(name, value, help + " [off]");
}

bool given(const CLI::App& app, const std::string& name) { return app.get_option(name)->count() > 0; }

std::int64_t parse_bytes(std::string_view option, const std::string& text) {
  double number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(rest, text.data() + text.size());
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::toupper(c); });
  for (const std::string_view suffix : {"IB", "B"})
    if (unit.ends_with(suffix)) {
      unit.resize(unit.size() - suffix.size());
      break;
    }
  static constexpr std::string_view kUnits = "KMGT";
  const std::size_t power = unit.empty() ? 0 : kUnits.find(unit) + 1;  // npos + 1 == 0
  const double bytes = number * std::pow(1024.0, static_cast<double>(power));
  check_argument(error == std::errc{} && (unit.empty() || (power > 0 && unit.size() == 1)) && bytes >= 0 &&
                     bytes < 0x1p62,
                 std::string(option).c_str(), "expected a number of bytes such as 512M or 2G, got '{}'",
                 text);
  return static_cast<std::int64_t>(bytes);
}

std::string format_bytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

std::string format_rate(double rate) {
  static constexpr const char* kUnits[] = {"", "k", "M", "G", "T", "P"};
  std::size_t unit = 0;
  for (; rate >= 1000 && unit + 1 < std::size(kUnits); ++unit) rate /= 1000;
  return fmt::format("{:.3g} {}", rate, kUnits[unit]);
}

std::string format_duration(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::max(0.0, seconds) + 0.5);
  if (whole >= 3600) return fmt::format("{}h{:02}m", whole / 3600, whole % 3600 / 60);
  if (whole >= 60) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}s", whole);
}

void RingArguments::add_to(CLI::App& app) {
  add_devices_to(app);
  add(app, "--layout", layout_, "Which token lives on which device")
      ->check(one_of({"contiguous", "striped", "zigzag"}))
      ->group(kRingGroup);
  add(app, "--exchange", exchange_, "How devices of a process hand over keys and values: copied, or as views")
      ->check(one_of({"copy", "share"}))
      ->group(kRingGroup);
  add_switch(app, "--no-overlap", no_overlap_,
             "Let messages between processes wait until a device waits for them, for comparison")
      ->group(kRingGroup);
}

void RingArguments::add_devices_to(CLI::App& app) {
  add(app, "--devices", devices_,
      "Devices of the ring, each a thread group of its own; under mpirun or srun those of each process")
      ->check(between(1, 1024))
      ->group(kRingGroup);
  add(app, "--threads", threads_, "Threads per device")->check(between(1, 1024))->group(kRingGroup);
  add(app, "--memory-limit", memory_limit_, "Most bytes a device may hold, such as 512M or 2G; 0: no limit")
      ->group(kRingGroup);
  add(app, "--timeout", timeout_,
      "Longest wait of a device for another, in seconds; a process silent for a quarter of it, a minute at "
      "most, is lost")
      ->check(above(0))
      ->check(between(0.0, 1e7))
      ->group(kRingGroup);
  app.add_option("--isa", isa_,
                 "Instruction set of the kernels: portable|avx2|avx512|avx512_bf16 [the fastest there is]")
      ->envname("RONDO_ISA")
      ->group(kRingGroup);
}

RingOptions RingArguments::ring() const {
  RingOptions options = {
      .devices = devices_,
      .threads = threads_,
      .isa = parse_isa(isa_),
      .memory_limit = parse_bytes("--memory-limit", memory_limit_),
      .timeout = std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(timeout_ * 1000))),
      .overlap = !no_overlap_,
      .on_stuck =
          [](const std::string& words) {
            std::fprintf(stderr, "rondo: %s; this process has a device that does not end, and leaves it\n",
                         words.c_str());
            ::_exit(1);
          },
      .processes = join_processes()};
  // Not before: processes that share a processor would take long to join in long turns.
  ask_for_long_time_slices();
  return options;
}

void FormArguments::add_to(CLI::App& app, const std::string& group) {
  add(app, "--attention", attention_, kAttentionHelp)->check(one_of({"vanilla", "blockwise"}))->group(group);
  add(app, "--feedforward", feed_forward_, kFeedForwardHelp)
      ->check(one_of({"whole", "blockwise"}))
      ->group(group);
}

void SegmentArguments::add_to(CLI::App& app) {
  add(app, "--segment-tokens", tokens_,
      "Tokens that a device works on at a time, a multiple of 512; 0: all of its share, with --spill 8192")
      ->check(between<std::int64_t>(0, kMostTokens))
      ->group(kRingGroup);
  app.add_option("--spill", spill_,
                 "Folder on whose disk segments are that are not worked on; for rings of one device [none]")
      ->group(kRingGroup);
}

void ModelRunArguments::add_to(CLI::App& app) {
  add(app, "--dtype", dtype_, "Storage of activations and weights at work")->check(one_of({"f32", "bf16"}));
  add(app, "--block-tokens", block_tokens_, "Tokens of a feed-forward and loss block")
      ->check(between<std::int64_t>(1, kMostTokens));
}

}  // namespace rondo::apps
