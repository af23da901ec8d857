#include "rondo/text/bpe_tokenizer.h"

#include <algorithm>
#include <functional>
#include <queue>

#include "rondo/core/error.h"
#include "rondo/text/utf8.h"

namespace rondo {
namespace {

constexpr const char* kOperation = "BpeTokenizer";
constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581

/// The byte of a piece "<0xNN>", or -1.
int byte_of_piece(std::string_view piece) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  const std::size_t high = kHex.find(piece[3]), low = kHex.find(piece[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(16 * high + low);
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (std::size_t at = 0;;) {
    const std::size_t found = text.find(from, at);
    result += text.substr(at, found - at);
    if (found == std::string_view::npos) return result;
    result += to;
    at = found + from.size();
  }
}

std::uint32_t packed(std::string_view character) {
  std::uint32_t bits = 0;
  for (const char byte : character) bits = (bits << 8) | static_cast<unsigned char>(byte);
  return bits;
}

/// Whether a U+2581 stands behind something else in `piece`.
bool runs_over_a_space(std::string_view piece) {
  while (piece.starts_with(kSpace)) piece.remove_prefix(kSpace.size());
  return piece.find(kSpace) != std::string_view::npos;
}

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(left) << 32) | static_cast<std::uint32_t>(right);
}

}  // namespace

BpeTokenizer::BpeTokenizer(BpeDescription description) : description_(std::move(description)) {
  const auto size = static_cast<std::int64_t>(description_.pieces.size());
  check_argument(size < (std::int64_t{1} << 31), kOperation, "expected less than 2^31 pieces, got {}", size);
  is_special_.resize(description_.pieces.size());
  for (const std::int32_t id : description_.special) {
    check_argument(id >= 0 && id < size, kOperation, "expected special ids below {}, got {}", size, id);
    is_special_[static_cast<std::size_t>(id)] = true;
  }
  for (const auto& id : {description_.unknown, description_.bos, description_.eos})
    check_argument(!id || (*id >= 0 && *id < size && is_special_[static_cast<std::size_t>(*id)]), kOperation,
                   "expected unknown, bos and eos among the special tokens, got id {}", id.value_or(-1));
  index_pieces();
  index_merges();
}

void BpeTokenizer::index_pieces() {
  byte_ids_.fill(-1);
  for (std::size_t id = 0; id < description_.pieces.size(); ++id) {
    const std::string& piece = description_.pieces[id];
    const auto number = static_cast<std::int32_t>(id);
    check_argument(!piece.empty() && is_utf8(piece), kOperation,
                   "expected pieces of UTF-8, got id {} with {} bytes", id, piece.size());
    check_argument(id_of_.emplace(piece, number).second, kOperation,
                   "expected each piece once, got '{}' twice", piece);
    const int byte = is_special_[id] ? -1 : byte_of_piece(piece);
    if (byte >= 0) byte_ids_[static_cast<std::size_t>(byte)] = number;
    bytes_.push_back(is_special_[id] ? std::string()
                     : byte >= 0     ? std::string(1, static_cast<char>(byte))
                                     : replaced(piece, kSpace, " "));
    if (is_special_[id] || byte >= 0) continue;
    if (utf8_character_length(piece) == static_cast<int>(piece.size()))
      character_ids_[packed(piece)] = number;
    cut_at_spaces_ = cut_at_spaces_ && !runs_over_a_space(piece);
  }
  for (std::size_t byte = 0; byte < 256; ++byte)
    check_argument(byte_ids_[byte] >= 0, kOperation,
                   "expected a piece '<0x{:02X}>' to fall back to, got none", byte);
}

void BpeTokenizer::index_merges() {
  const auto id_of = [&](const std::string& piece) {
    const auto found = id_of_.find(piece);
    check_argument(found != id_of_.end(), kOperation, "expected merges of and into pieces, got '{}'", piece);
    check_argument(!is_special_[static_cast<std::size_t>(found->second)], kOperation,
                   "expected merges without special tokens, got '{}'", piece);
    return found->second;
  };
  std::int64_t rank = 0;
  for (const auto& [left, right] : description_.merges) {
    const Merge merge{rank++, id_of(left + right)};
    check_argument(merges_.emplace(pair_key(id_of(left), id_of(right)), merge).second, kOperation,
                   "expected each merge once, got '{}' and '{}' twice", left, right);
  }
}

const BpeTokenizer::Merge* BpeTokenizer::merge_of(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids, characters;
  if (text.empty()) return ids;
  const std::string normalized = std::string(kSpace) + replaced(text, " ", kSpace);
  const std::string_view all = normalized;
  for (std::size_t begin = 0; begin < all.size();) {
    std::size_t end = all.size();
    if (cut_at_spaces_) {  // a run of spaces and what follows, up to the next run
      end = begin;
      while (all.substr(end).starts_with(kSpace)) end += kSpace.size();
      end = std::min(all.find(kSpace, end), all.size());
    }
    characters.clear();
    append_characters(all.substr(begin, end - begin), characters);
    append_merged(characters, ids);
    begin = end;
  }
  return ids;
}

void BpeTokenizer::append_characters(std::string_view text, std::vector<std::int32_t>& ids) const {
  while (!text.empty()) {
    const int length = utf8_character_length(text);
    const std::string_view character = text.substr(0, length > 0 ? static_cast<std::size_t>(length) : 1);
    const auto found = length > 0 ? character_ids_.find(packed(character)) : character_ids_.end();
    if (found != character_ids_.end()) {
      ids.push_back(found->second);
    } else {
      for (const char byte : character) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
    }
    text.remove_prefix(character.size());
  }
}

void BpeTokenizer::append_merged(std::span<const std::int32_t> characters,
                                 std::vector<std::int32_t>& ids) const {
  struct Symbol {
    std::int32_t id;
    std::size_t previous, next;
  };
  constexpr std::size_t kNone = ~std::size_t{0};
  constexpr std::int32_t kGone = -1;
  std::vector<Symbol> symbols;
  for (std::size_t i = 0; i < characters.size(); ++i)
    symbols.push_back({characters[i], i == 0 ? kNone : i - 1, i + 1 == characters.size() ? kNone : i + 1});

  using Candidate = std::pair<std::int64_t, std::size_t>;  // rank, place of the left symbol
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto merge_at = [&](std::size_t at) -> const Merge* {
    if (symbols[at].id == kGone || symbols[at].next == kNone) return nullptr;
    return merge_of(symbols[at].id, symbols[symbols[at].next].id);
  };
  const auto offer = [&](std::size_t at) {
    if (const Merge* merge = merge_at(at)) candidates.emplace(merge->rank, at);
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) offer(i);
  while (!candidates.empty()) {
    const auto [rank, at] = candidates.top();
    candidates.pop();
    const Merge* merge = merge_at(at);
    if (merge == nullptr || merge->rank != rank) continue;  // its symbols were merged with others meanwhile
    Symbol& left = symbols[at];
    const std::size_t right = left.next;
    left.id = merge->merged;
    left.next = symbols[right].next;
    symbols[right].id = kGone;
    if (left.next != kNone) symbols[left.next].previous = at;
    offer(at);
    if (left.previous != kNone) offer(left.previous);
  }
  for (const Symbol& symbol : symbols)
    if (symbol.id != kGone) ids.push_back(symbol.id);
}

std::string_view BpeTokenizer::piece(std::int32_t id) const {
  check_argument(id >= 0 && id < vocabulary_size(), kOperation, "expected an id below {}, got {}",
                 vocabulary_size(), id);
  return bytes_[static_cast<std::size_t>(id)];
}

}  // namespace rondo
