#pragma once
// Text to token ids and back. A tokenizer is loaded from, and saved as, a Hugging Face `tokenizer.json`.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rondo {

/// Immutable once built, so that devices may share one.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The kind of tokenizer, for people: "bytes", "bpe".
  virtual std::string name() const = 0;
  /// Ids are 0 ... vocabulary_size() - 1.
  virtual std::int64_t vocabulary_size() const = 0;
  /// The ids that begin and end a document, where there are such.
  virtual std::optional<std::int32_t> bos() const = 0;
  virtual std::optional<std::int32_t> eos() const = 0;
  /// Whether the model's texts begin with bos(): its tokenizer.json says so.
  virtual bool adds_bos() const = 0;

  /// The ids of `text` and nothing else: no bos or eos is added, and a special token spelled out in the text
  /// is plain text. Bytes that are no UTF-8 are encoded too, each by itself.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  /// bos(), then encode(text). Throws ArgumentError when there is no bos.
  std::vector<std::int32_t> encode_with_bos(std::string_view text) const;

  /// The bytes that an id stands for inside a text; none for a special token. The view lives as long as the
  /// tokenizer. Throws ArgumentError for an id outside the vocabulary.
  virtual std::string_view piece(std::int32_t id) const = 0;
  /// Whether the text of a sequence begins behind a space that encode() put there.
  virtual bool drops_leading_space() const = 0;
  /// The bytes of a whole sequence: its pieces in order, less that space. May end inside a character.
  std::string decode(std::span<const std::int32_t> ids) const;

  /// A file of a model's folder.
  struct File {
    std::string name, text;
  };
  /// tokenizer.json and tokenizer_config.json.
  virtual std::vector<File> files() const = 0;
  /// Writes files() into `folder`, which must exist. Throws IoError.
  void save(const std::filesystem::path& folder) const;
};

/// Decodes ids one at a time, for output while they are made. All it returned, with flush() last, equals
/// decode() of all ids. The tokenizer must outlive it.
class StreamingDecoder {
 public:
  /// `at_start` is false when the ids continue a text: a leading space then belongs to it.
  explicit StreamingDecoder(const Tokenizer& tokenizer, bool at_start = true)
      : tokenizer_(&tokenizer), drop_space_(at_start && tokenizer.drops_leading_space()) {}

  /// The text that `id` completed: whole characters, and bytes that can never be part of one. At most three
  /// bytes, the beginning of a character, are held back.
  std::string feed(std::int32_t id);
  /// What was held back; the decoder may be fed further.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool drop_space_;
  std::string pending_;
};

/// Loads `folder`/tokenizer.json, and the names of bos and eos from tokenizer_config.json where there is one.
/// Knows ByteTokenizer (byte_tokenizer.h) and Llama's BPE with byte fallback (bpe_tokenizer.h); throws
/// IoError naming the file and whatever else it finds there: nothing is approximated.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder);

}  // namespace rondo
