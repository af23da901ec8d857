#include "bench/arguments.h"

#include <algorithm>
#include <charconv>

#include "rondo/core/error.h"

namespace rondo::bench {

namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;

[[noreturn]] void refuse(std::string_view option, std::string_view expected, std::string_view found) {
  argument_error("bench", "{}: expected {}, got '{}'", option, expected, found);
}

bool read_integer(std::string_view text, std::int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

/// parse(word) of each entry of the list.
template <class T, class Parse>
std::vector<T> parse_each(std::string_view option, std::string_view text, const Parse& parse) {
  std::vector<T> values;
  for (const std::string& word : parse_list(option, text)) values.push_back(parse(word));
  return values;
}

}  // namespace

std::vector<std::string> parse_list(std::string_view option, std::string_view text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    words.emplace_back(text.substr(begin, end - begin));
    if (words.back().empty()) refuse(option, "values with commas between them", text);
    begin = end + 1;
  }
  return words;
}

std::vector<std::int64_t> parse_integers(std::string_view option, std::string_view text, std::int64_t low,
                                         std::int64_t high) {
  return parse_each<std::int64_t>(option, text, [&](const std::string& word) {
    std::int64_t value = 0;
    if (!read_integer(word, value) || value < low || value > high)
      refuse(option, fmt::format("whole numbers from {} to {}", low, high), word);
    return value;
  });
}

const char* name_of(Pass pass) {
  switch (pass) {
    case Pass::forward:
      return "forward";
    case Pass::backward:
      return "backward";
    case Pass::both:
      return "both";
  }
  return "unknown";
}

std::vector<Pass> parse_passes(std::string_view option, std::string_view text) {
  return parse_each<Pass>(option, text, [&](const std::string& word) {
    for (const Pass pass : {Pass::forward, Pass::backward, Pass::both})
      if (word == name_of(pass)) return pass;
    refuse(option, "forward, backward or both", word);
  });
}

const char* short_name(DType dtype) { return dtype == DType::f32 ? "f32" : "bf16"; }

std::vector<DType> parse_dtypes(std::string_view option, std::string_view text) {
  return parse_each<DType>(option, text, [&](const std::string& word) {
    for (const DType dtype : {DType::f32, DType::bf16})
      if (word == short_name(dtype)) return dtype;
    refuse(option, "f32 or bf16", word);
  });
}

std::vector<Mask> parse_masks(std::string_view option, std::string_view text) {
  return parse_each<Mask>(option, text, [&](const std::string& word) -> Mask {
    if (word == "none") return {.causal = false};
    if (word == "causal") return {.causal = true};
    constexpr std::string_view kWindow = "window:";
    std::int64_t window = 0;
    if (word.starts_with(kWindow) && read_integer(word.substr(kWindow.size()), window) && window >= 1 &&
        window <= kMostTokens)
      return {.causal = true, .window = window};
    refuse(option, "none, causal or window:N with N of at least 1", word);
  });
}

std::string name_of(const Mask& mask) {
  if (mask.window > 0) return fmt::format("window:{}", mask.window);
  return mask.causal ? "causal" : "none";
}

std::vector<Layout> parse_layouts(std::string_view option, std::string_view text) {
  return parse_each<Layout>(option, text, [&](const std::string& word) {
    for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag})
      if (word == rondo::name_of(layout)) return layout;
    refuse(option, "contiguous, striped or zigzag", word);
  });
}

std::vector<Isa> parse_isas(std::string_view text) {
  if (text.empty()) return {default_isa()};
  return parse_each<Isa>("--isa", text, [](const std::string& word) { return parse_isa(word); });
}

double counted_pairs(const Mask& mask, std::int64_t tokens) {
  const auto n = static_cast<double>(tokens);
  if (!mask.causal) return n * n;
  if (mask.window == 0) return n * n / 2;
  // The first `window` queries see one key more each, all others `window` of them.
  const auto w = static_cast<double>(std::min(mask.window, tokens));
  return w * (w + 1) / 2 + (n - w) * w;
}

double attention_flops(Pass pass, const Mask& mask, std::int64_t tokens, std::int64_t head_dim) {
  const double per_pair = (pass == Pass::backward ? 0 : 4) + (pass == Pass::forward ? 0 : 10);
  return per_pair * static_cast<double>(head_dim) * counted_pairs(mask, tokens);
}

}  // namespace rondo::bench
