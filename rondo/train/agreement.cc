#include "rondo/train/agreement.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace rondo {

namespace {
constexpr std::size_t kMostWords = 1000;
using Words = std::array<char, kMostWords + 1>;  // ends with a zero
}  // namespace

std::vector<std::string> gather_words(Communicator& communicator, const std::string& own) {
  Words mine{};
  own.copy(mine.data(), kMostWords);
  std::vector<Words> all(static_cast<std::size_t>(communicator.devices()));
  communicator.all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)));
  std::vector<std::string> words;
  for (const Words& each : all) words.emplace_back(each.data());
  return words;
}

std::filesystem::path broadcast_path(Communicator& communicator, const std::filesystem::path& own) {
  std::array<char, 4096> text{};
  if (communicator.device() == 0) own.string().copy(text.data(), text.size() - 1);
  communicator.broadcast(0, std::as_writable_bytes(std::span(text)));
  return std::string(text.data());
}

void agree(Communicator& communicator, const std::string& own_failure, const char* operation,
           const char* could_not) {
  const std::vector<std::string> failures = gather_words(communicator, own_failure);
  const auto failed =
      std::find_if(failures.begin(), failures.end(), [](const auto& f) { return !f.empty(); });
  if (failed == failures.end()) return;
  throw IoError(fmt::format("[{}] device {} could not {}: {}", operation, failed - failures.begin(),
                            could_not, *failed));
}

}  // namespace rondo
