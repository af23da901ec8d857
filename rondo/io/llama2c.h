#pragma once
// Weights of a Llama in the format of llama2.c's version-0 export: seven int32, then float32 tensors.

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "rondo/io/mapped_file.h"

namespace rondo {

struct Llama2cHeader {
  std::int64_t dim = 0, hidden_dim = 0, layers = 0, heads = 0, kv_heads = 0, vocabulary = 0, context = 0;
  bool shared_classifier =
      true;  ///< the output matrix is the embedding (the file marks the contrary by -vocabulary)
  std::int64_t head_dim() const { return dim / heads; }
};

/// The tensors of a file, each row-major over all layers (L), in the file's order. Rotary pairs are
/// interleaved: rows 2i and 2i+1 of a head of wq and wk belong together.
class Llama2cWeights {
 public:
  /// Throws IoError naming the file, what was expected and what was got: extents that are not positive or do
  /// not divide, a file that is longer or shorter than they say.
  explicit Llama2cWeights(const std::filesystem::path& path);

  Llama2cHeader header;
  std::span<const float> embedding;       ///< [vocabulary, dim]
  std::span<const float> attention_norm;  ///< [L, dim]
  std::span<const float> wq;              ///< [L, heads * head_dim, dim]
  std::span<const float> wk, wv;          ///< [L, kv_heads * head_dim, dim]
  std::span<const float> wo;              ///< [L, dim, heads * head_dim]
  std::span<const float> ffn_norm;        ///< [L, dim]
  std::span<const float> w1;              ///< gate [L, hidden_dim, dim]
  std::span<const float> w2;              ///< down [L, dim, hidden_dim]
  std::span<const float> w3;              ///< up [L, hidden_dim, dim]
  std::span<const float> final_norm;      ///< [dim]
  std::span<const float> output;          ///< [vocabulary, dim]; the embedding where the classifier is shared

  /// Layer `layer` of one of the spans that run over all layers.
  std::span<const float> layer(std::span<const float> all, std::int64_t layer) const;

 private:
  MappedFile file_;
};

/// Reorders the rows of a query or key matrix w [heads * head_dim, columns] from interleaved rotary pairs
/// (2i, 2i+1) to the halves (i, head_dim/2 + i) of Hugging Face's Llama: row i of a head comes from row 2i,
/// row head_dim/2 + i from row 2i + 1. The same for queries and keys, so their products stay as they were.
std::vector<float> permute_rotary_rows_to_halves(std::span<const float> w, std::int64_t heads,
                                                 std::int64_t head_dim, std::int64_t columns);

}  // namespace rondo
