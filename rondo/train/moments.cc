#include "rondo/train/moments.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "rondo/io/file_error.h"

namespace rondo {

namespace fs = std::filesystem;

namespace {

constexpr const char* kOperation = "checkpoint";
constexpr std::string_view kStem = "optimizer", kSuffix = ".safetensors";

std::string_view prefix_of(Moment moment) {
  return moment == Moment::first ? "first_moment." : "second_moment.";
}

/// Elements of a parameter.
struct PartOfParameter {
  const ParameterInfo* info;
  Range elements;
  bool whole() const { return elements == Range{0, info->elements()}; }
};

/// The parameters, or parts of them, that lie in a range of the flat buffer.
std::vector<PartOfParameter> parameters_in(const ParameterTable& table, const Range& flat) {
  const std::vector<ParameterInfo>& infos = table.infos();
  auto info = std::upper_bound(infos.begin(), infos.end(), flat.begin,
                               [](std::int64_t at, const ParameterInfo& i) { return at < i.offset; });
  if (info != infos.begin()) --info;
  std::vector<PartOfParameter> parts;
  for (; info != infos.end() && info->offset < flat.end; ++info) {
    const Range elements{std::max<std::int64_t>(0, flat.begin - info->offset),
                         std::min(info->elements(), flat.end - info->offset)};
    if (!elements.empty()) parts.push_back({&*info, elements});
  }
  return parts;
}

std::string name_of(Moment moment, const PartOfParameter& part) {
  std::string name = std::string(prefix_of(moment)) + part.info->name;
  if (!part.whole()) name += fmt::format("[{}:{}]", part.elements.begin, part.elements.end);
  return name;
}

std::vector<std::int64_t> shape_of(const PartOfParameter& part) {
  if (part.whole()) return {part.info->rows, part.info->columns};
  return {part.elements.size()};
}

std::span<const float> within(std::span<const float> values, std::int64_t begin, std::int64_t size) {
  return values.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(size));
}

/// The elements in a name that ends with [a:b], which are then cut off; nothing where it does not.
std::optional<Range> cut_range(std::string_view& name) {
  const auto open = name.rfind('['), colon = name.rfind(':');
  if (!name.ends_with(']') || open == name.npos || colon == name.npos || colon < open) return std::nullopt;
  Range range;
  const auto number = [&](std::size_t begin, std::size_t end, std::int64_t& value) {
    const auto [at, error] = std::from_chars(name.data() + begin, name.data() + end, value);
    return error == std::errc() && at == name.data() + end;
  };
  if (!number(open + 1, colon, range.begin) || !number(colon + 1, name.size() - 1, range.end))
    return std::nullopt;
  name = name.substr(0, open);
  return range;
}

}  // namespace

std::string moments_file(int devices, int device) {
  if (devices == 1) return fmt::format("{}{}", kStem, kSuffix);
  return fmt::format("{}-{:05}-of-{:05}{}", kStem, device + 1, devices, kSuffix);
}

std::optional<FileStamp> save_moments(const fs::path& folder, const ParameterTable& table, RingPlace place,
                                      const MomentParts& parts, FileSystem& files) {
  const std::vector<Range> buckets = table.buckets();
  const auto own = [&](std::size_t bucket) {
    return owned_part(buckets[bucket], place.devices, place.device);
  };
  std::vector<SafetensorsEntry> entries;
  for (const Moment moment : kMoments)
    for (std::size_t bucket = 0; bucket < buckets.size(); ++bucket)
      for (const PartOfParameter& part : parameters_in(table, own(bucket)))
        entries.push_back({name_of(moment, part), "F32", shape_of(part)});
  if (entries.empty()) return std::nullopt;
  SafetensorsWriter writer(folder / moments_file(place.devices, place.device), std::move(entries), {}, files);
  for (const Moment moment : kMoments)
    for (std::size_t bucket = 0; bucket < buckets.size(); ++bucket) {
      const Range flat = own(bucket);
      const std::span<const float> values = parts(moment, bucket);
      RONDO_ASSERT(static_cast<std::int64_t>(values.size()) == flat.size());
      for (const PartOfParameter& part : parameters_in(table, flat))
        writer.append(
            name_of(moment, part),
            within(values, part.info->offset + part.elements.begin - flat.begin, part.elements.size()));
    }
  return writer.finish();
}

MomentFiles::MomentFiles(const fs::path& folder, const ParameterTable& table)
    : folder_(folder), table_(&table) {
  for (auto& moment : pieces_) moment.resize(table.infos().size());
  std::vector<fs::path> paths;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kStem) && name.ends_with(kSuffix)) paths.push_back(entry.path());
  }
  check_file(!paths.empty(), kOperation, folder, "expected {} or {} in it, got neither", moments_file(1, 0),
             moments_file(2, 0));
  std::sort(paths.begin(), paths.end());
  files_.reserve(paths.size());  // pieces point into them
  for (const fs::path& path : paths) {
    files_.emplace_back(path);
    for (const auto& [name, tensor] : files_.back().tensors()) add(tensor, path);
  }
  for (const Moment moment : kMoments)
    for (std::size_t parameter = 0; parameter < table.infos().size(); ++parameter)
      check_cover(moment, parameter);
}

void MomentFiles::add(const SafetensorsTensor& tensor, const fs::path& file) {
  for (const Moment moment : kMoments) {
    std::string_view name = tensor.name;
    if (!name.starts_with(prefix_of(moment))) continue;
    name.remove_prefix(prefix_of(moment).size());
    const std::optional<Range> range = cut_range(name);
    const ParameterInfo* info = table_->find(name);
    if (info == nullptr) break;
    const PartOfParameter part{info, range.value_or(Range{0, info->elements()})};
    check_file(part.elements.begin >= 0 && part.elements.begin < part.elements.end &&
                   part.elements.end <= info->elements() && tensor.dtype == "F32" &&
                   (range ? tensor.shape == std::vector<std::int64_t>{part.elements.size()}
                          : tensor.shape == shape_of(part)),
               kOperation, file, "expected moments of {} [{}, {}] as float32, got {} of another form",
               info->name, info->rows, info->columns, tensor.name);
    pieces_of(moment, static_cast<std::size_t>(info - table_->infos().data()))
        .push_back({part.elements, &tensor});
    return;
  }
  io_error(kOperation, file, "expected moments of the model's parameters, got {}", tensor.name);
}

void MomentFiles::check_cover(Moment moment, std::size_t parameter) {
  std::vector<Piece>& pieces = pieces_of(moment, parameter);
  const ParameterInfo& info = table_->infos()[parameter];
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return a.elements.begin < b.elements.begin; });
  std::int64_t at = 0;
  for (const Piece& piece : pieces) {
    check_file(piece.elements.begin == at, kOperation, folder_,
               "expected {}{} from element {} on, got {} next; a file is missing, or one too many is there",
               prefix_of(moment), info.name, at, piece.tensor->name);
    at = piece.elements.end;
  }
  check_file(at == info.elements(), kOperation, folder_, "expected the {} elements of {}{} in {}*{}, got {}",
             info.elements(), prefix_of(moment), info.name, kStem, kSuffix, at);
}

void MomentFiles::read(Moment moment, const Range& flat, std::span<float> out) const {
  RONDO_ASSERT(static_cast<std::int64_t>(out.size()) == flat.size());
  std::fill(out.begin(), out.end(), 0.0f);
  for (const PartOfParameter& part : parameters_in(*table_, flat)) {
    const auto parameter = static_cast<std::size_t>(part.info - table_->infos().data());
    for (const Piece& piece : pieces_[static_cast<std::size_t>(moment)][parameter]) {
      const Range both{std::max(piece.elements.begin, part.elements.begin),
                       std::min(piece.elements.end, part.elements.end)};
      if (both.empty()) continue;
      const auto bytes = piece.tensor->bytes.subspan(
          static_cast<std::size_t>(both.begin - piece.elements.begin) * sizeof(float),
          static_cast<std::size_t>(both.size()) * sizeof(float));
      std::memcpy(out.data() + part.info->offset + both.begin - flat.begin, bytes.data(), bytes.size());
    }
  }
}

}  // namespace rondo
