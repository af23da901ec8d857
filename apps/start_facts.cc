#include "apps/start_facts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <span>

#include "rondo/core/isa.h"
#include "rondo/io/mapped_file.h"

namespace rondo::apps {

namespace fs = std::filesystem;

namespace {

class Hash {
 public:
  void add(std::string_view bytes) {
    for (const char c : bytes) value_ = (value_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325;  // FNV-1a
};

/// Sixteen pieces of the file, the first and the last among them: the files may be larger than memory.
void add_samples(Hash& hash, const fs::path& path) {
  constexpr std::size_t kSamples = 16, kBytes = 4096;
  const MappedFile file(path);
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (bytes.size() <= kSamples * kBytes) return hash.add(bytes);
  for (std::size_t n = 0; n < kSamples; ++n)
    hash.add(bytes.substr((bytes.size() - kBytes) / (kSamples - 1) * n, kBytes));
}

}  // namespace

std::vector<Fact> option_facts(const CLI::App& command, const RingOptions& ring) {
  static const std::set<std::string> kMayDiffer = {"help",  "threads", "memory-limit", "isa",
                                                   "trace", "report",  "config-file",  "resume"};
  std::vector<Fact> facts{{"--isa", name_of(ring.isa)}};
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_lnames().empty() || kMayDiffer.contains(option->get_lnames().front())) continue;
    facts.push_back({"--" + option->get_lnames().front(),
                     option->count() > 0 ? fmt::format("{}", fmt::join(option->results(), " "))
                                         : option->get_default_str()});
  }
  return facts;
}

Fact folder_fact(const std::string& name, const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  Hash hash;
  for (const fs::path& file : files) {
    hash.add(fmt::format("{} {} ", file.lexically_relative(folder).string(), fs::file_size(file)));
    add_samples(hash, file);
  }
  return {name, fmt::format("{}, {} files, contents {:016x}", folder.string(), files.size(), hash.value())};
}

FileStamp files_stamp(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  Checksum all;
  std::int64_t bytes = 0;
  for (const fs::path& file : files) {
    const FileStamp stamp = read_stamp(file);
    const std::string line = fmt::format("{} {} {} ", file.filename().string(), stamp.bytes, stamp.checksum);
    all.add(std::as_bytes(std::span(line.data(), line.size())));
    bytes += stamp.bytes;
  }
  return {bytes, all.stamp().checksum};
}

Fact text_fact(const std::string& name, const Corpus& corpus) {
  // Places spread over all of the text, which may be larger than memory.
  constexpr std::int64_t kSamples = 64, kTokens = 1024;
  const std::int64_t tokens = corpus.tokens(), samples = std::min(kSamples, (tokens + kTokens - 1) / kTokens);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(std::min(kTokens, tokens)));
  Hash hash;
  for (std::int64_t n = 0; n < samples; ++n) {
    const std::int64_t last = tokens - static_cast<std::int64_t>(ids.size());
    corpus.read(samples > 1 ? last * n / (samples - 1) : 0, ids);
    hash.add({reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(ids[0])});
  }
  return {name, fmt::format("{} bytes in {} files, names and sizes {:016x}, contents {:016x}", corpus.bytes(),
                            corpus.documents(), corpus.fingerprint(), hash.value())};
}

Fact hash_fact(const std::string& name, std::string_view value) {
  Hash hash;
  hash.add(value);
  return {name, fmt::format("{} bytes, {:016x}", value.size(), hash.value())};
}

}  // namespace rondo::apps
