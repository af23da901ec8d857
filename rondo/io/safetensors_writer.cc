#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "rondo/core/error.h"
#include "rondo/io/safetensors.h"

namespace rondo {
namespace {

constexpr const char* kOperation = "SafetensorsWriter";
constexpr std::size_t kHeaderAlignment = 8;

/// Bytes of an entry; throws ArgumentError for what the format cannot hold.
std::int64_t checked_bytes(const SafetensorsEntry& entry) {
  check_argument(!entry.name.empty() && entry.name != "__metadata__", kOperation, "expected a name, got '{}'",
                 entry.name);
  std::int64_t bytes = safetensors_element_bytes(entry.dtype);
  check_argument(bytes > 0, kOperation, "tensor '{}': unknown dtype '{}'", entry.name, entry.dtype);
  for (const std::int64_t extent : entry.shape) {
    check_argument(extent >= 0, kOperation, "tensor '{}': expected extents of at least 0, got {}", entry.name,
                   extent);
    check_argument(!__builtin_mul_overflow(bytes, extent, &bytes), kOperation,
                   "tensor '{}': its shape has more than 2^63 bytes", entry.name);
  }
  return bytes;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsEntry> entries,
                                     const std::map<std::string, std::string>& metadata, FileSystem& files)
    : file_(path, files), entries_(std::move(entries)) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::set<std::string_view> names;
  std::int64_t offset = 0;
  for (const SafetensorsEntry& entry : entries_) {
    check_argument(names.insert(entry.name).second, kOperation, "expected each name once, got '{}' twice",
                   entry.name);
    const std::int64_t bytes = checked_bytes(entry), element = safetensors_element_bytes(entry.dtype);
    check_argument(offset % element == 0, kOperation,
                   "tensor '{}': expected an offset divisible by {}, got {} (declare wider types first)",
                   entry.name, element, offset);
    std::int64_t end = 0;
    check_argument(!__builtin_add_overflow(offset, bytes, &end), kOperation,
                   "expected less than 2^63 bytes in all");
    header[entry.name] = {{"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {offset, end}}};
    bytes_.push_back(bytes);
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    argument_error(kOperation, "expected names and metadata of valid UTF-8, got: {}", error.what());
  }
  text.append((kHeaderAlignment - text.size() % kHeaderAlignment) % kHeaderAlignment, ' ');
  check_argument(static_cast<std::int64_t>(text.size()) <= kLongestSafetensorsHeader, kOperation,
                 "expected a header of at most {} bytes, got {}", kLongestSafetensorsHeader, text.size());
  const auto length = static_cast<std::uint64_t>(text.size());
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(text);
  skip_complete();
}

void SafetensorsWriter::skip_complete() {
  while (current_ < entries_.size() && current_written_ == bytes_[current_]) {
    ++current_;
    current_written_ = 0;
  }
}

void SafetensorsWriter::append(std::string_view name, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;  // a tensor without elements is complete from the start
  check_argument(current_ < entries_.size(), kOperation, "expected no more data, got {} bytes for '{}'",
                 bytes.size(), name);
  const std::string& expected = entries_[current_].name;
  check_argument(name == expected, kOperation, "expected data of '{}', got '{}'", expected, name);
  const std::int64_t left = bytes_[current_] - current_written_;
  check_argument(static_cast<std::int64_t>(bytes.size()) <= left, kOperation,
                 "tensor '{}': expected at most {} more bytes, got {}", name, left, bytes.size());
  file_.write(bytes);
  current_written_ += static_cast<std::int64_t>(bytes.size());
  skip_complete();
}

FileStamp SafetensorsWriter::finish() {
  if (current_ < entries_.size())
    argument_error(kOperation, "tensor '{}': expected {} bytes, got {}", entries_[current_].name,
                   bytes_[current_], current_written_);
  file_.commit();
  return file_.stamp();
}

}  // namespace rondo
