#include "rondo/train/checkpoint_files.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "rondo/io/file_error.h"
#include "rondo/io/json_file.h"
#include "rondo/train/checkpoint.h"

namespace rondo {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

constexpr const char* kOperation = "checkpoint";
constexpr std::string_view kPrefix = "step-";
constexpr const char* kChecksum = "xxh3-64";
std::string digits_of(std::uint64_t checksum) { return fmt::format("{:016x}", checksum); }

/// A manifest names files of the checkpoint and nothing else.
bool is_inside(const fs::path& name) {
  return name.is_relative() && name.has_filename() &&
         std::none_of(name.begin(), name.end(), [](const fs::path& part) { return part == ".."; });
}

CheckpointFile parse_file(const nlohmann::json& value, const fs::path& manifest) {
  CheckpointFile file{value.at("name").get<std::string>(), {}};
  check_file(is_inside(file.name), kOperation, manifest,
             "expected names of files in its checkpoint, got '{}'", file.name);
  const auto& bytes = value.at("bytes");
  check_file(bytes.is_number_unsigned() && bytes.get<std::uint64_t>() <= INT64_MAX, kOperation, manifest,
             "expected bytes from 0 of {}, got {}", file.name, bytes.dump());
  file.stamp.bytes = bytes.get<std::int64_t>();
  const std::string digits = value.at("checksum").get<std::string>();
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), file.stamp.checksum, 16);
  check_file(digits.size() == 16 && error == std::errc() && end == digits.data() + digits.size(), kOperation,
             manifest, "expected a checksum of 16 hexadecimal digits for {}, got '{}'", file.name, digits);
  return file;
}

/// What is wrong with a file's length; empty when nothing is.
std::string wrong_size(const fs::path& checkpoint, const CheckpointFile& file) {
  std::error_code error;
  const auto bytes = fs::file_size(checkpoint / file.name, error);
  if (error) return fmt::format("{} not readable ({})", file.name, error.message());
  if (bytes == static_cast<std::uintmax_t>(file.stamp.bytes)) return "";
  return fmt::format("{} of {} bytes instead of {}", file.name, bytes, file.stamp.bytes);
}

std::string wrong_content(const fs::path& checkpoint, const CheckpointFile& file) {
  const FileStamp found = read_stamp(checkpoint / file.name);
  if (found == file.stamp) return "";
  return fmt::format("{} with the checksum {} instead of {}", file.name, digits_of(found.checksum),
                     digits_of(file.stamp.checksum));
}

}  // namespace

std::string checkpoint_name(std::int64_t step) { return fmt::format("{}{:08}", kPrefix, step); }

bool is_checkpoint_name(std::string_view name) { return name.starts_with(kPrefix); }

std::string manifest_text(const std::vector<CheckpointFile>& files) {
  ordered_json json;
  json["format"] = kManifestFormat;
  json["checksum"] = kChecksum;
  json["files"] = ordered_json::array();
  for (const CheckpointFile& file : files)
    json["files"].push_back(
        {{"name", file.name}, {"bytes", file.stamp.bytes}, {"checksum", digits_of(file.stamp.checksum)}});
  return json.dump(2) + "\n";
}

std::vector<CheckpointFile> read_manifest(const fs::path& checkpoint) {
  const fs::path path = checkpoint / kManifestFile;
  const nlohmann::json json = read_json_file(path);
  try {
    check_file(json.at("format") == kManifestFormat && json.at("checksum") == kChecksum, kOperation, path,
               "expected format {} with checksums of {}, got {} and {}", kManifestFormat, kChecksum,
               json.at("format").dump(), json.at("checksum").dump());
    std::vector<CheckpointFile> files;
    for (const nlohmann::json& file : json.at("files")) files.push_back(parse_file(file, path));
    check_file(!files.empty(), kOperation, path, "expected the files of a checkpoint, got none");
    return files;
  } catch (const nlohmann::json::exception& error) {
    io_error(kOperation, path, "expected names, bytes and checksums of files, got: {}", error.what());
  }
}

void verify_checkpoint(const fs::path& checkpoint, CheckpointPart part, RingPlace place) {
  std::error_code ignored;
  const bool has_manifest = fs::exists(checkpoint / kManifestFile, ignored);
  if (!has_manifest && part == CheckpointPart::model) return;
  if (!has_manifest && read_training_state(checkpoint).format == kFirstFormat) {
    // Nothing to compare with: at least none was cut short.
    const SafetensorsFolder model(checkpoint);
    const SafetensorsFile moments(checkpoint / kStateFolder / moments_file(1, 0));
    return;
  }
  std::vector<CheckpointFile> files = read_manifest(checkpoint);
  const auto is_state = [](const CheckpointFile& file) {
    return file.name.starts_with(std::string(kStateFolder) + "/");
  };
  if (part == CheckpointPart::model) std::erase_if(files, is_state);
  std::vector<std::string> wrong;
  const auto note = [&](std::string words) {
    if (!words.empty()) wrong.push_back(std::move(words));
  };
  // Sizes first: they cost nothing, and a file that was cut short is the most common damage.
  for (const CheckpointFile& file : files) note(wrong_size(checkpoint, file));
  for (std::size_t n = 0; n < files.size() && wrong.empty(); ++n)
    if (n % static_cast<std::size_t>(place.devices) == static_cast<std::size_t>(place.device))
      note(wrong_content(checkpoint, files[n]));
  check_file(
      wrong.empty(), kOperation, checkpoint,
      "expected the files as its manifest.json has them, got {}; use another checkpoint of the run, or bring "
      "this one's files back from a copy",
      fmt::join(wrong, ", "));
  if (part == CheckpointPart::all) read_training_state(checkpoint);
}

}  // namespace rondo
