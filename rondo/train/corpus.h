#pragma once
// Text files as one long stream of byte tokens, memory-mapped and never read whole: each file is <bos> and
// its bytes.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rondo/core/tensor.h"
#include "rondo/io/mapped_file.h"

namespace rondo {

class Corpus {
 public:
  /// Files, and folders searched for regular files with their names in byte order. Empty files are left out;
  /// a path that is not there, or no text at all, is an error that names it.
  static Corpus open(const std::vector<std::filesystem::path>& paths);

  /// Cuts a corpus in two: files whose name hashes below `fraction` are held out, or, of a single file, its
  /// last part. Depends on names and sizes alone. Throws ArgumentError unless 0 < fraction < 1.
  struct Split;
  Split split(double fraction) const;

  std::int64_t documents() const { return static_cast<std::int64_t>(parts_.size()); }
  std::int64_t bytes() const { return tokens() - documents(); }
  /// Bytes and one <bos> per document.
  std::int64_t tokens() const { return starts_.back(); }
  /// ids[n] = token first + n of the stream. The byte tokenizer's ids: bytes are themselves, <bos> is 256.
  void read(std::int64_t first, std::span<std::int32_t> ids) const;
  /// Where documents begin in tokens [first, first + count), counted from `first`; 0 is always the first
  /// entry.
  std::vector<std::int64_t> document_starts(std::int64_t first, std::int64_t count) const;
  /// A number that changes when names or sizes of the files do: to tell whether a resumed run sees the same
  /// data.
  std::uint64_t fingerprint() const;
  /// Calls use(bytes) for the bytes of each document, in order: for statistics over all of it.
  template <class Use>
  void for_each_document(const Use& use) const {
    for (const Part& part : parts_) use(part.bytes());
  }

 private:
  struct Part {
    std::shared_ptr<const MappedFile> file;
    std::string name;
    Range range;  // of the file's bytes
    std::span<const std::byte> bytes() const {
      return file->bytes().subspan(static_cast<std::size_t>(range.begin),
                                   static_cast<std::size_t>(range.size()));
    }
  };
  explicit Corpus(std::vector<Part> parts);
  std::vector<Part> parts_;
  std::vector<std::int64_t> starts_;  // first token of each part, and the end
};

struct Corpus::Split {
  Corpus train, held_out;
};

/// Order in which sequences are trained on: every epoch is a permutation of all of them that depends on the
/// seed and the epoch alone, so that a resumed run goes on where it stopped (a Feistel cipher with cycle
/// walking; Black, Rogaway 2002).
class SequenceOrder {
 public:
  SequenceOrder(std::int64_t sequences, std::uint64_t seed);
  /// Sequence of the n-th sample of the run, n = 0, 1, ...
  std::int64_t at(std::int64_t sample) const;
  std::int64_t sequences() const { return sequences_; }

 private:
  std::int64_t sequences_;
  std::uint64_t seed_;
  int half_bits_;
};

/// Entropy in bits per byte of `held_out` under a byte-bigram model fitted on `train` (add-one smoothing):
/// what a model must beat to have learned more than which byte follows which.
double bigram_bits_per_byte(const Corpus& train, const Corpus& held_out);

}  // namespace rondo
