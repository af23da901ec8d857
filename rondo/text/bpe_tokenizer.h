#pragma once
// Byte-pair encoding as Llama's tokenizers have it: pieces of characters with spaces as U+2581, bytes as a
// fallback.

#include <array>
#include <unordered_map>
#include <utility>

#include "rondo/text/tokenizer.h"

namespace rondo {

/// What a BpeTokenizer is made of.
struct BpeDescription {
  /// By id, a space written as U+2581; "<0x00>" ... "<0xFF>" must be among them.
  std::vector<std::string> pieces{};
  std::vector<std::pair<std::string, std::string>> merges{};  ///< first rank first
  std::vector<std::int32_t> special{};  ///< ids that never come from text and decode to nothing
  std::optional<std::int32_t> unknown{}, bos{}, eos{};  ///< each special
  bool adds_bos = true;
};

/// Encoding (Sennrich, Haddow, Birch, "Neural machine translation of rare words with subword units", ACL
/// 2016, with SentencePiece's byte fallback): U+2581 is put in front, spaces become U+2581, the text is cut
/// into characters, a character that is no piece into the ids of its bytes; then the adjacent pair with the
/// first rank is merged, leftmost first, until none is left. U+2581 in a text comes back as a space, as with
/// SentencePiece.
class BpeTokenizer final : public Tokenizer {
 public:
  /// Throws ArgumentError naming the piece or merge that does not fit.
  explicit BpeTokenizer(BpeDescription description);

  std::string name() const override { return "bpe"; }
  std::int64_t vocabulary_size() const override {
    return static_cast<std::int64_t>(description_.pieces.size());
  }
  std::optional<std::int32_t> bos() const override { return description_.bos; }
  std::optional<std::int32_t> eos() const override { return description_.eos; }
  bool adds_bos() const override { return description_.adds_bos; }
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string_view piece(std::int32_t id) const override;
  bool drops_leading_space() const override { return true; }
  std::vector<File> files() const override;

  const BpeDescription& description() const { return description_; }

 private:
  struct Merge {
    std::int64_t rank;
    std::int32_t merged;
  };
  void index_pieces();
  void index_merges();
  const Merge* merge_of(std::int32_t left, std::int32_t right) const;
  void append_characters(std::string_view text, std::vector<std::int32_t>& ids) const;
  void append_merged(std::span<const std::int32_t> characters, std::vector<std::int32_t>& ids) const;

  BpeDescription description_;
  std::vector<std::string> bytes_;  // what each id decodes to
  std::vector<bool> is_special_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::unordered_map<std::string, std::int32_t> id_of_;
  std::unordered_map<std::uint32_t, std::int32_t> character_ids_;  // by the character's bytes
  std::unordered_map<std::uint64_t, Merge> merges_;                // by the pair of ids
  bool cut_at_spaces_ = true;  // no piece runs over the beginning of a word: words can be encoded one by one
};

}  // namespace rondo
