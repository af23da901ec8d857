#include "rondo/train/corpus.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "rondo/core/error.h"
#include "rondo/core/random.h"
#include "rondo/text/byte_tokenizer.h"

namespace rondo {

namespace fs = std::filesystem;

namespace {

/// FNV-1a, then mixed: names differ in few characters.
std::uint64_t hash_of(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return mix64(hash);
}

}  // namespace

Corpus::Corpus(std::vector<Part> parts) : parts_(std::move(parts)), starts_{0} {
  for (const Part& part : parts_) starts_.push_back(starts_.back() + 1 + part.range.size());
}

Corpus Corpus::open(const std::vector<fs::path>& paths) {
  std::vector<Part> parts;
  const auto add = [&](const fs::path& path, std::string name) {
    auto file = std::make_shared<const MappedFile>(path);
    if (file->size() > 0) parts.push_back({file, std::move(name), {0, file->size()}});
  };
  for (const fs::path& path : paths) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
      add(path, path.filename().string());
      continue;
    }
    std::vector<fs::path> found;
    for (auto entry =
             fs::recursive_directory_iterator(path, fs::directory_options::skip_permission_denied, error);
         !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
      std::error_code ignored;
      if (entry->is_regular_file(ignored)) found.push_back(entry->path());
    }
    if (error)
      throw IoError(
          fmt::format("[corpus] expected a readable folder {}, got: {}", path.string(), error.message()));
    std::sort(found.begin(), found.end());
    for (const fs::path& file : found) add(file, file.lexically_relative(path).string());
  }
  std::string names;
  for (const fs::path& path : paths) names += (names.empty() ? "" : ", ") + path.string();
  check_argument(!parts.empty(), "corpus", "expected text in {}, got no file with a byte in it", names);
  return Corpus(std::move(parts));
}

Corpus::Split Corpus::split(double fraction) const {
  check_argument(fraction > 0 && fraction < 1, "corpus", "expected a held-out share between 0 and 1, got {}",
                 fraction);
  std::vector<Part> train, held_out;
  for (const Part& part : parts_) {
    const double drawn = static_cast<double>(hash_of(part.name) >> 11) * 0x1p-53;
    (drawn < fraction ? held_out : train).push_back(part);
  }
  if (train.empty() || held_out.empty()) {
    // Too few files to choose among: the last part of the longest one is held out.
    train = parts_;
    const auto longest = std::max_element(train.begin(), train.end(), [](const Part& a, const Part& b) {
      return a.range.size() < b.range.size();
    });
    check_argument(longest->range.size() >= 2, "corpus",
                   "expected at least 2 bytes of text to hold a part out, got {}", longest->range.size());
    Part tail = *longest;
    const auto cut = std::clamp<std::int64_t>(
        static_cast<std::int64_t>(std::llround(static_cast<double>(tail.range.size()) * (1 - fraction))), 1,
        tail.range.size() - 1);
    tail.range.begin = longest->range.end = tail.range.begin + cut;
    held_out = {tail};
  }
  return {Corpus(std::move(train)), Corpus(std::move(held_out))};
}

void Corpus::read(std::int64_t first, std::span<std::int32_t> ids) const {
  const auto count = static_cast<std::int64_t>(ids.size());
  RONDO_ASSERT(first >= 0 && first + count <= tokens());
  auto part =
      static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), first) - starts_.begin() - 1);
  for (std::int64_t n = 0; n < count; ++part) {
    const std::span<const std::byte> bytes = parts_[part].bytes();
    std::int64_t within = first + n - starts_[part];
    if (within == 0) {
      ids[static_cast<std::size_t>(n++)] = ByteTokenizer::kBos;
      ++within;
    }
    for (; n < count && within <= static_cast<std::int64_t>(bytes.size()); ++within)
      ids[static_cast<std::size_t>(n++)] =
          std::to_integer<std::int32_t>(bytes[static_cast<std::size_t>(within - 1)]);
  }
}

std::vector<std::int64_t> Corpus::document_starts(std::int64_t first, std::int64_t count) const {
  std::vector<std::int64_t> starts{0};
  for (auto start = std::upper_bound(starts_.begin(), starts_.end(), first);
       start != starts_.end() && *start < first + count; ++start)
    starts.push_back(*start - first);
  return starts;
}

std::uint64_t Corpus::fingerprint() const {
  std::uint64_t hash = 0;
  for (const Part& part : parts_) {
    hash = mix64(hash ^ hash_of(part.name));
    hash = mix64(hash ^ static_cast<std::uint64_t>(part.range.begin));
    hash = mix64(hash ^ static_cast<std::uint64_t>(part.range.end));
  }
  return hash;
}

SequenceOrder::SequenceOrder(std::int64_t sequences, std::uint64_t seed)
    : sequences_(sequences), seed_(seed), half_bits_(1) {
  check_argument(sequences >= 1, "sequence order", "expected at least one sequence, got {}", sequences);
  while ((std::int64_t{1} << (2 * half_bits_)) < sequences) ++half_bits_;
}

std::int64_t SequenceOrder::at(std::int64_t sample) const {
  const std::int64_t epoch = sample / sequences_;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  auto value = static_cast<std::uint64_t>(sample % sequences_);
  do {  // walk the cycle until the value falls inside: at most 4 values for each inside on average
    std::uint64_t left = value >> half_bits_, right = value & mask;
    for (std::uint32_t round = 0; round < 4; ++round) {
      const PhiloxCounter mixed =
          philox4x32({static_cast<std::uint32_t>(right), static_cast<std::uint32_t>(right >> 32), round, 0},
                     philox_key(seed_, static_cast<std::uint64_t>(epoch)));
      const std::uint64_t next = left ^ (mixed[0] & mask);
      left = right;
      right = next;
    }
    value = (left << half_bits_) | right;
  } while (static_cast<std::int64_t>(value) >= sequences_);
  return static_cast<std::int64_t>(value);
}

double bigram_bits_per_byte(const Corpus& train, const Corpus& held_out) {
  // Row 256 is the beginning of a document.
  std::vector<double> counts(257 * 256, 1.0);
  const auto each_pair = [](std::span<const std::byte> bytes, const auto& use) {
    std::size_t before = 256;
    for (const std::byte byte : bytes) {
      const auto now = std::to_integer<std::size_t>(byte);
      use(before, now);
      before = now;
    }
  };
  train.for_each_document([&](std::span<const std::byte> bytes) {
    each_pair(bytes, [&](std::size_t before, std::size_t now) { counts[before * 256 + now] += 1; });
  });
  std::array<double, 257> totals{};
  for (std::size_t row = 0; row < 257; ++row)
    for (std::size_t column = 0; column < 256; ++column) totals[row] += counts[row * 256 + column];
  double bits = 0;
  held_out.for_each_document([&](std::span<const std::byte> bytes) {
    each_pair(bytes, [&](std::size_t before, std::size_t now) {
      bits -= std::log2(counts[before * 256 + now] / totals[before]);
    });
  });
  return bits / static_cast<double>(held_out.bytes());
}

}  // namespace rondo
