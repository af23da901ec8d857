#include "rondo/text/tokenizer.h"

#include <cerrno>
#include <fstream>
#include <system_error>

#include "rondo/core/error.h"
#include "rondo/text/utf8.h"

namespace rondo {

std::vector<std::int32_t> Tokenizer::encode_with_bos(std::string_view text) const {
  const auto first = bos();
  check_argument(first.has_value(), "encode_with_bos",
                 "expected a tokenizer with a beginning-of-sequence token, got '{}'", name());
  std::vector<std::int32_t> ids = encode(text);
  ids.insert(ids.begin(), *first);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += piece(id);
  if (drops_leading_space() && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

void Tokenizer::save(const std::filesystem::path& folder) const {
  for (const File& file : files()) {
    errno = 0;
    std::ofstream stream(folder / file.name, std::ios::binary);
    stream << file.text << std::flush;
    stream.close();
    if (!stream)
      throw IoError(fmt::format("[Tokenizer::save] {}: writing failed: {}", (folder / file.name).string(),
                                std::generic_category().message(errno)));
  }
}

std::string StreamingDecoder::feed(std::int32_t id) {
  pending_ += tokenizer_->piece(id);
  if (drop_space_ && !pending_.empty()) {
    if (pending_.front() == ' ') pending_.erase(0, 1);
    drop_space_ = false;
  }
  std::size_t complete = 0;
  while (complete < pending_.size()) {
    const int length = utf8_character_length(std::string_view(pending_).substr(complete));
    if (length < 0) break;
    complete += length == 0 ? 1 : static_cast<std::size_t>(length);
  }
  std::string text = pending_.substr(0, complete);
  pending_.erase(0, complete);
  return text;
}

std::string StreamingDecoder::flush() {
  std::string text;
  text.swap(pending_);
  return text;
}

}  // namespace rondo
