#include "rondo/text/llama2c.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <tuple>

#include "rondo/core/error.h"
#include "rondo/text/utf8.h"

namespace rondo {
namespace {

constexpr const char* kOperation = "import_llama2c_tokenizer";
constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581
constexpr std::size_t kFirstByte = 3, kFirstPiece = kFirstByte + 256;
constexpr float kNeverMerged = -1e10f;  // the greedy search starts from this score

struct Scored {
  std::string piece;
  float score;
};

template <class... Args>
void check(bool condition, const std::filesystem::path& path, fmt::format_string<Args...> format,
           Args&&... args) {
  if (!condition)
    throw IoError(fmt::format("[{}] {}: {}", kOperation, path.string(),
                              fmt::format(format, std::forward<Args>(args)...)));
}

template <class T>
T take(std::string_view& bytes, const std::filesystem::path& path) {
  check(bytes.size() >= sizeof(T), path, "expected {} more bytes, got {}", sizeof(T), bytes.size());
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return value;
}

std::vector<Scored> read_pieces(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  check(file.is_open() && !file.bad(), path, "expected a readable file");
  std::string_view rest = content;
  const auto longest = take<std::int32_t>(rest, path);
  std::vector<Scored> pieces;
  while (!rest.empty()) {
    const auto score = take<float>(rest, path);
    const auto length = take<std::int32_t>(rest, path);
    check(length > 0 && length <= longest && static_cast<std::size_t>(length) <= rest.size(), path,
          "id {}: expected 1 to {} bytes and {} left in the file, got a length of {}", pieces.size(), longest,
          rest.size(), length);
    check(std::isfinite(score), path, "id {}: expected a finite score", pieces.size());
    pieces.push_back({std::string(rest.substr(0, static_cast<std::size_t>(length))), score});
    rest.remove_prefix(static_cast<std::size_t>(length));
  }
  check(pieces.size() >= kFirstPiece, path, "expected at least {} pieces, got {}", kFirstPiece,
        pieces.size());
  return pieces;
}

/// The piece as tokenizer.json has it: special tokens without the line feeds that llama2.c prints around
/// them, U+2581 for a space.
std::string stored_form(std::size_t id, const std::string& piece, const std::filesystem::path& path) {
  constexpr const char* kSpecial[] = {"<unk>", "<s>", "</s>"};
  if (id < kFirstByte) {
    check(piece == kSpecial[id] || piece == fmt::format("\n{}\n", kSpecial[id]), path,
          "id {}: expected {}, got '{}'", id, kSpecial[id], piece);
    return kSpecial[id];
  }
  if (id < kFirstPiece) {
    const std::string expected = fmt::format("<0x{:02X}>", id - kFirstByte);
    check(piece == expected, path, "id {}: expected {}, got '{}'", id, expected, piece);
    return piece;
  }
  check(is_utf8(piece) && piece.find(kSpace) == std::string::npos, path,
        "id {}: expected UTF-8 without U+2581", id);
  std::string stored;
  for (const char byte : piece) byte == ' ' ? stored += kSpace : stored += byte;
  return stored;
}

/// A split of piece `merged` into two others.
struct Split {
  float score;
  std::size_t merged;
  std::size_t left, right;
};

}  // namespace

BpeTokenizer import_llama2c_tokenizer(const std::filesystem::path& path) {
  const std::vector<Scored> scored = read_pieces(path);
  std::unordered_map<std::string_view, std::size_t> ids;
  BpeDescription description{.special = {0, 1, 2}, .unknown = 0, .bos = 1, .eos = 2, .adds_bos = true};
  for (std::size_t id = 0; id < scored.size(); ++id) {
    description.pieces.push_back(stored_form(id, scored[id].piece, path));
    if (id >= kFirstPiece)
      check(ids.emplace(scored[id].piece, id).second, path, "id {}: the piece '{}' is there twice", id,
            scored[id].piece);
  }
  std::vector<Split> splits;
  for (std::size_t id = kFirstPiece; id < scored.size(); ++id) {
    const std::string_view piece = scored[id].piece;
    if (scored[id].score <= kNeverMerged) continue;
    for (std::size_t cut = 1; cut < piece.size(); ++cut) {
      const auto left = ids.find(piece.substr(0, cut)), right = ids.find(piece.substr(cut));
      if (left == ids.end() || right == ids.end()) continue;
      splits.push_back({scored[id].score, id, left->second, right->second});
    }
  }
  std::sort(splits.begin(), splits.end(), [](const Split& a, const Split& b) {
    const auto key = [](const Split& s) { return std::tuple(-s.score, s.merged, s.left, s.right); };
    return key(a) < key(b);
  });
  for (const Split& split : splits)
    description.merges.emplace_back(description.pieces[split.left], description.pieces[split.right]);
  try {
    return BpeTokenizer(std::move(description));
  } catch (const ArgumentError& error) {
    check(false, path, "{}", error.what());
    throw;
  }
}

}  // namespace rondo
