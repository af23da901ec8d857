#include "rondo/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "rondo/core/dtype.h"
#include "rondo/io/file_error.h"
#include "rondo/io/json_file.h"

namespace rondo {
namespace {

using nlohmann::json;
constexpr const char* kOperation = "safetensors";
constexpr int kHeaderDepth = 3;  // header, tensor, shape
static_assert(std::endian::native == std::endian::little, "the data is handed out as it lies in the file");

struct ElementType {
  std::string_view name;
  std::int64_t bytes;
};
constexpr std::array<ElementType, 15> kElementTypes{{{"F64", 8},
                                                     {"F32", 4},
                                                     {"F16", 2},
                                                     {"BF16", 2},
                                                     {"F8_E4M3", 1},
                                                     {"F8_E5M2", 1},
                                                     {"I64", 8},
                                                     {"I32", 4},
                                                     {"I16", 2},
                                                     {"I8", 1},
                                                     {"U64", 8},
                                                     {"U32", 4},
                                                     {"U16", 2},
                                                     {"U8", 1},
                                                     {"BOOL", 1}}};

std::optional<std::int64_t> natural_number(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<std::uint64_t>();
  if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
  return static_cast<std::int64_t>(number);
}

/// A non-negative integer of the header.
std::int64_t extent(const json& value, const std::filesystem::path& path, const std::string& name) {
  const auto number = natural_number(value);
  check_file(number.has_value(), kOperation, path,
             "tensor '{}': expected integers from 0 to 2^63 - 1, got {}", name, value.dump());
  return *number;
}

std::string_view read_header(const MappedFile& file) {
  const auto bytes = file.bytes();
  check_file(file.size() >= 8, kOperation, file.path(),
             "expected at least 8 bytes of header length, got {} bytes", file.size());
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  check_file(length <= static_cast<std::uint64_t>(kLongestSafetensorsHeader), kOperation, file.path(),
             "expected a header of at most {} bytes, got a length of {}", kLongestSafetensorsHeader, length);
  check_file(length <= bytes.size() - 8, kOperation, file.path(),
             "expected a header of {} bytes, got {} bytes before the end of the file", length,
             bytes.size() - 8);
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  check_file(header.starts_with('{'), kOperation, file.path(), "expected a header that begins with '{{'");
  return header;
}

/// Where a tensor's data lies, counted from the end of the header.
struct Offsets {
  std::int64_t begin, end;
};

SafetensorsTensor parse_tensor(const std::string& name, const json& value, const std::filesystem::path& path,
                               Offsets& offsets) {
  check_file(value.is_object() && value.size() == 3 && value.contains("dtype") &&
                 value["dtype"].is_string() && value.contains("shape") && value["shape"].is_array() &&
                 value.contains("data_offsets") && value["data_offsets"].is_array() &&
                 value["data_offsets"].size() == 2,
             kOperation, path, "tensor '{}': expected exactly a dtype, a shape and two data_offsets", name);
  SafetensorsTensor tensor{
      .name = name, .dtype = value["dtype"].get<std::string>(), .shape = {}, .bytes = {}};
  const std::int64_t element_bytes = safetensors_element_bytes(tensor.dtype);
  check_file(element_bytes > 0, kOperation, path, "tensor '{}': unknown dtype '{}'", name, tensor.dtype);
  offsets = {extent(value["data_offsets"][0], path, name), extent(value["data_offsets"][1], path, name)};
  std::int64_t size = element_bytes;
  bool fits = true;
  for (const json& item : value["shape"]) {
    tensor.shape.push_back(extent(item, path, name));
    fits = !__builtin_mul_overflow(size, tensor.shape.back(), &size) && fits;
  }
  check_file(fits, kOperation, path, "tensor '{}': its shape has more than 2^63 bytes", name);
  check_file(offsets.begin <= offsets.end && offsets.end - offsets.begin == size, kOperation, path,
             "tensor '{}': expected {} bytes for its shape and dtype, got offsets {} to {}", name, size,
             offsets.begin, offsets.end);
  return tensor;
}

/// Every byte of the data belongs to one tensor: no overlap, no gap, nothing behind the last.
void check_cover(std::vector<std::pair<Offsets, SafetensorsTensor*>>& table, std::int64_t data_bytes,
                 const std::filesystem::path& path) {
  std::sort(table.begin(), table.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.begin, a.first.end) < std::pair(b.first.begin, b.first.end);
  });
  std::int64_t expected = 0;
  for (const auto& [offsets, tensor] : table) {
    check_file(offsets.end <= data_bytes, kOperation, path, "tensor '{}': ends at {} of {} data bytes",
               tensor->name, offsets.end, data_bytes);
    check_file(offsets.begin >= expected, kOperation, path, "tensor '{}': begins at {} and overlaps another",
               tensor->name, offsets.begin);
    check_file(offsets.begin == expected, kOperation, path,
               "data bytes {} to {} before tensor '{}' belong to no tensor", expected, offsets.begin,
               tensor->name);
    expected = offsets.end;
  }
  check_file(expected == data_bytes, kOperation, path, "expected {} data bytes, got {}", expected,
             data_bytes);
}

std::map<std::string, std::string> parse_metadata(const json& value, const std::filesystem::path& path) {
  check_file(value.is_object(), kOperation, path, "expected __metadata__ to be an object of strings");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    check_file(text.is_string(), kOperation, path, "expected __metadata__ '{}' to be a string", key);
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

/// IEEE 754 binary16 to binary32, exactly.
float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float subnormal = static_cast<float>(fraction) * 0x1p-24f;
  return sign != 0 ? -subnormal : subnormal;
}

template <class Convert>
void convert_16_bit(std::span<const std::byte> bytes, std::span<float> out, Convert convert) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits = 0;  // copied: the file gives no alignment
    std::memcpy(&bits, bytes.data() + 2 * i, 2);
    out[i] = convert(bits);
  }
}

}  // namespace

std::int64_t safetensors_element_bytes(std::string_view dtype) {
  for (const ElementType& type : kElementTypes)
    if (type.name == dtype) return type.bytes;
  return 0;
}

std::int64_t SafetensorsTensor::elements() const {
  return static_cast<std::int64_t>(bytes.size()) / safetensors_element_bytes(dtype);
}

void to_float32(const SafetensorsTensor& tensor, std::span<float> out) {
  check_argument(static_cast<std::int64_t>(out.size()) == tensor.elements(), "to_float32",
                 "expected room for the {} elements of '{}', got {}", tensor.elements(), tensor.name,
                 out.size());
  if (tensor.dtype == "F32") {
    if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), out.size_bytes());
  } else if (tensor.dtype == "BF16") {
    convert_16_bit(tensor.bytes, out, [](std::uint16_t bits) { return to_float(bfloat16{bits}); });
  } else if (tensor.dtype == "F16") {
    convert_16_bit(tensor.bytes, out, half_to_float);
  } else {
    argument_error("to_float32", "expected F32, BF16 or F16, got '{}' of dtype {}", tensor.name,
                   tensor.dtype);
  }
}

std::vector<float> to_float32(const SafetensorsTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  to_float32(tensor, values);
  return values;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string_view header = read_header(file_);
  const json table = parse_json(header, path, kHeaderDepth);
  const auto data = file_.bytes().subspan(8 + header.size());
  std::vector<std::pair<Offsets, SafetensorsTensor*>> order;
  for (const auto& [name, value] : table.items()) {
    if (name == "__metadata__") {
      metadata_ = parse_metadata(value, path);
      continue;
    }
    Offsets offsets{};
    SafetensorsTensor tensor = parse_tensor(name, value, path, offsets);
    order.emplace_back(offsets, &(tensors_[name] = std::move(tensor)));
  }
  check_cover(order, static_cast<std::int64_t>(data.size()), path);
  for (const auto& [offsets, tensor] : order)
    tensor->bytes = data.subspan(static_cast<std::size_t>(offsets.begin),
                                 static_cast<std::size_t>(offsets.end - offsets.begin));
}

const SafetensorsTensor& SafetensorsFile::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  check_file(found != tensors_.end(), kOperation, path(), "expected a tensor '{}', got none of that name",
             name);
  return found->second;
}

SafetensorsFolder::SafetensorsFolder(const std::filesystem::path& folder) : folder_(folder) {
  const auto single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
  if (std::filesystem::exists(single)) {
    files_.emplace_back(single);
    for (const auto& [name, tensor] : files_.front().tensors()) tensors_[name] = &tensor;
    return;
  }
  check_file(std::filesystem::exists(index), kOperation, folder,
             "expected model.safetensors or model.safetensors.index.json in it, got neither");
  open_shards(index);
}

void SafetensorsFolder::open_shards(const std::filesystem::path& index) {
  const json document = read_json_file(index);
  check_file(document.is_object() && document.contains("weight_map") && document["weight_map"].is_object(),
             kOperation, index, "expected an object with a weight_map");
  std::map<std::string, std::string> shard_of;
  std::set<std::string> shards;
  for (const auto& [name, shard] : document["weight_map"].items()) {
    check_file(shard.is_string(), kOperation, index, "tensor '{}': expected a file name", name);
    const std::filesystem::path file = shard.get<std::string>();
    // A name with folders in it could point anywhere on this machine.
    check_file(file.has_filename() && file == file.filename() && file != "." && file != "..", kOperation,
               index, "tensor '{}': expected a file in the same folder, got '{}'", name, file.string());
    shard_of[name] = file.string();
    shards.insert(file.string());
  }
  files_.reserve(shards.size());
  for (const std::string& shard : shards) {
    files_.emplace_back(folder_ / shard);
    for (const auto& [name, tensor] : files_.back().tensors()) {
      const auto named = shard_of.find(name);
      check_file(named != shard_of.end() && named->second == shard, kOperation, folder_ / shard,
                 "has a tensor '{}' that the index does not place there", name);
      tensors_[name] = &tensor;
    }
  }
  for (const auto& [name, shard] : shard_of)
    check_file(contains(name), kOperation, folder_ / shard,
               "expected a tensor '{}' (says the index), got none", name);
}

std::vector<std::string> SafetensorsFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

const SafetensorsTensor& SafetensorsFolder::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  check_file(found != tensors_.end(), kOperation, folder_, "expected a tensor '{}', got none of that name",
             name);
  return *found->second;
}

}  // namespace rondo
