#pragma once
// The tokenizer that needs no training: one id per byte.

#include <array>

#include "rondo/text/tokenizer.h"

namespace rondo {

/// Ids 0 ... 255 are bytes, 256 is <bos>, 257 is <eos>. Encodes and decodes any bytes without loss. Its
/// tokenizer.json is a byte-level BPE without merges, which Hugging Face's library loads with the same ids.
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr std::int32_t kBos = 256, kEos = 257, kVocabulary = 258;
  ByteTokenizer();

  std::string name() const override { return "bytes"; }
  std::int64_t vocabulary_size() const override { return kVocabulary; }
  std::optional<std::int32_t> bos() const override { return kBos; }
  std::optional<std::int32_t> eos() const override { return kEos; }
  bool adds_bos() const override { return false; }
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string_view piece(std::int32_t id) const override;
  bool drops_leading_space() const override { return false; }
  std::vector<File> files() const override;

 private:
  std::array<char, 256> bytes_;
};

/// The characters that stand for the bytes 0 ... 255 in byte-level vocabularies (GPT-2, Radford et al. 2019):
/// printable Latin-1 characters for themselves, the others U+0100 and upward in order. As UTF-8.
std::array<std::string, 256> byte_level_characters();

}  // namespace rondo
