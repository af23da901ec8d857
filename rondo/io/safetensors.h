#pragma once
// The safetensors format (https://huggingface.co/docs/safetensors, "Format"): 8 bytes little-endian header
// length, a JSON header {name: {dtype, shape, data_offsets}, optional "__metadata__": {string: string}}, then
// the data.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rondo/io/atomic_file.h"
#include "rondo/io/mapped_file.h"

namespace rondo {

/// Longest header that is read or written; the format's own limit.
inline constexpr std::int64_t kLongestSafetensorsHeader = 100'000'000;

/// Bytes of one element of a safetensors dtype ("F32", "BF16", "I64", ...); 0 when the name is not known.
std::int64_t safetensors_element_bytes(std::string_view dtype);

/// A tensor to be written.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;  ///< empty: a scalar
};

/// A tensor of an open file: row-major, little-endian; bytes live as long as the file and may be unaligned.
struct SafetensorsTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::int64_t elements() const;
};

/// The values of an F32, BF16 or F16 tensor, exactly; throws ArgumentError naming any other dtype, and when
/// `out` has not its number of elements.
void to_float32(const SafetensorsTensor& tensor, std::span<float> out);
std::vector<float> to_float32(const SafetensorsTensor& tensor);

/// A safetensors file, mapped. The constructor checks the whole header: what it accepts can be read without
/// further checks, and every byte of the data belongs to exactly one tensor. Throws IoError naming file and
/// cause.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  /// Tensors by name.
  const std::map<std::string, SafetensorsTensor, std::less<>>& tensors() const { return tensors_; }
  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  /// Throws IoError when there is no tensor `name`.
  const SafetensorsTensor& tensor(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  std::map<std::string, SafetensorsTensor, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// A model's weights: `model.safetensors`, or the shards that `model.safetensors.index.json` names (the
/// single file wins where both exist). A tensor that the index places wrongly, or that a shard has and the
/// index has not, is an IoError.
class SafetensorsFolder {
 public:
  explicit SafetensorsFolder(const std::filesystem::path& folder);

  const std::filesystem::path& path() const { return folder_; }
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  const SafetensorsTensor& tensor(std::string_view name) const;
  const std::vector<SafetensorsFile>& files() const { return files_; }

 private:
  void open_shards(const std::filesystem::path& index);
  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const SafetensorsTensor*, std::less<>>
      tensors_;  // into files_, whose maps do not move
};

/// Writes a file whose tensors are declared first and whose data follows in the same order, in pieces of any
/// size, so that no tensor needs to exist whole. The file appears at finish() (AtomicFile); without it
/// nothing is left.
class SafetensorsWriter {
 public:
  /// Throws ArgumentError for a name that is empty, reserved or given twice, an unknown dtype, a negative
  /// extent, or an order that would leave a tensor unaligned (wider element types must come first).
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsEntry> entries,
                    const std::map<std::string, std::string>& metadata = {},
                    FileSystem& files = system_files());

  /// The next bytes of tensor `name`, which must be the first one that is not complete.
  void append(std::string_view name, std::span<const std::byte> bytes);
  void append(std::string_view name, std::span<const float> values) { append(name, std::as_bytes(values)); }
  /// Returns the file's size and checksum. Throws ArgumentError naming the first tensor that is not complete.
  FileStamp finish();

 private:
  void skip_complete();
  AtomicFile file_;
  std::vector<SafetensorsEntry> entries_;
  std::vector<std::int64_t> bytes_;  // of each entry
  std::size_t current_ = 0;
  std::int64_t current_written_ = 0;
};

}  // namespace rondo
