#include "rondo/io/llama2c.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "rondo/io/file_error.h"

namespace rondo {
namespace {

constexpr const char* kOperation = "llama2c";
constexpr std::size_t kHeaderBytes = 7 * sizeof(std::int32_t);
static_assert(std::endian::native == std::endian::little,
              "the file's numbers are handed out as they lie in it");

Llama2cHeader read_header(const MappedFile& file) {
  check_file(file.bytes().size() >= kHeaderBytes, kOperation, file.path(),
             "expected a header of {} bytes, got {} bytes", kHeaderBytes, file.size());
  std::array<std::int32_t, 7> raw{};
  std::memcpy(raw.data(), file.bytes().data(), kHeaderBytes);
  Llama2cHeader header{raw[0], raw[1],    raw[2], raw[3], raw[4], std::abs(static_cast<std::int64_t>(raw[5])),
                       raw[6], raw[5] > 0};
  for (const std::int64_t extent : {header.dim, header.hidden_dim, header.layers, header.heads,
                                    header.kv_heads, header.vocabulary, header.context})
    check_file(extent > 0, kOperation, file.path(), "expected positive extents in the header, got {}",
               extent);
  check_file(header.dim % header.heads == 0 && header.head_dim() % 2 == 0, kOperation, file.path(),
             "expected heads of even width, got dim {} over {} heads", header.dim, header.heads);
  check_file(header.heads % header.kv_heads == 0, kOperation, file.path(),
             "expected heads divisible by key/value heads, got {} and {}", header.heads, header.kv_heads);
  return header;
}

}  // namespace

Llama2cWeights::Llama2cWeights(const std::filesystem::path& path) : file_(path) {
  header = read_header(file_);
  const Llama2cHeader& h = header;
  // The extents are below 2^31 each: three of them multiplied need more than 64 bits.
  __extension__ typedef __int128 Wide;
  const Wide width = h.dim, kv_width = h.kv_heads * h.head_dim(), layers = h.layers;
  struct Part {
    std::span<const float>* span;
    Wide floats;
  };
  std::span<const float> rotary;  // two tables that the file carries; angles are computed anew
  std::vector<Part> parts{{&embedding, h.vocabulary * width},
                          {&attention_norm, layers * width},
                          {&wq, layers * width * width},
                          {&wk, layers * kv_width * width},
                          {&wv, layers * kv_width * width},
                          {&wo, layers * width * width},
                          {&ffn_norm, layers * width},
                          {&w1, layers * h.hidden_dim * width},
                          {&w2, layers * h.hidden_dim * width},
                          {&w3, layers * h.hidden_dim * width},
                          {&final_norm, width},
                          {&rotary, Wide{h.context} * h.head_dim()}};
  if (!h.shared_classifier) parts.push_back({&output, h.vocabulary * width});
  Wide expected = kHeaderBytes;
  for (const Part& part : parts) expected += part.floats * Wide{sizeof(float)};
  check_file(expected == file_.size(), kOperation, path,
             "expected {:.0f} bytes (dim {}, hidden {}, layers {}, heads {}, key/value heads {}, vocabulary "
             "{}, context {}, "
             "{} classifier), got {}",
             static_cast<double>(expected), h.dim, h.hidden_dim, h.layers, h.heads, h.kv_heads, h.vocabulary,
             h.context, h.shared_classifier ? "shared" : "unshared", file_.size());
  const auto* next = reinterpret_cast<const float*>(file_.bytes().data() + kHeaderBytes);
  for (const Part& part : parts) {
    *part.span = {next, static_cast<std::size_t>(part.floats)};
    next += part.floats;
  }
  if (h.shared_classifier) output = embedding;
}

std::span<const float> Llama2cWeights::layer(std::span<const float> all, std::int64_t layer) const {
  check_argument(layer >= 0 && layer < header.layers, "Llama2cWeights::layer",
                 "expected a layer below {}, got {}", header.layers, layer);
  const std::size_t size = all.size() / static_cast<std::size_t>(header.layers);
  return all.subspan(static_cast<std::size_t>(layer) * size, size);
}

std::vector<float> permute_rotary_rows_to_halves(std::span<const float> w, std::int64_t heads,
                                                 std::int64_t head_dim, std::int64_t columns) {
  constexpr const char* kPermute = "permute_rotary_rows_to_halves";
  check_argument(heads >= 0 && columns >= 0 && head_dim >= 0 && head_dim % 2 == 0, kPermute,
                 "expected heads of even width, got {} heads of {} rows and {} columns", heads, head_dim,
                 columns);
  check_argument(static_cast<std::int64_t>(w.size()) == heads * head_dim * columns, kPermute,
                 "expected {} x {} x {} elements, got {}", heads, head_dim, columns, w.size());
  std::vector<float> halves(w.size());
  for (std::int64_t head = 0; head < heads; ++head)
    for (std::int64_t row = 0; row < head_dim; ++row) {
      const std::int64_t target = row % 2 == 0 ? row / 2 : head_dim / 2 + row / 2;
      std::copy_n(w.begin() + (head * head_dim + row) * columns, columns,
                  halves.begin() + (head * head_dim + target) * columns);
    }
  return halves;
}

}  // namespace rondo
