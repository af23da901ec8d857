#include "rondo/comm/agreement.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "rondo/core/error.h"

namespace rondo {

namespace {

std::uint64_t hash_of(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

/// The hash tells of values too long to travel.
struct Told {
  static constexpr std::size_t kShown = 160;
  std::uint64_t hash = 0;
  std::array<char, 32> name = {};
  std::array<char, kShown> value = {};
};

Told told_of(const Fact& fact) {
  Told entry{.hash = hash_of(fact.name + '\0' + fact.value)};
  std::memcpy(entry.name.data(), fact.name.data(), std::min(fact.name.size(), entry.name.size() - 1));
  const bool whole = fact.value.size() < Told::kShown;
  const std::string shown = whole ? fact.value : fact.value.substr(0, Told::kShown - 4) + "...";
  std::memcpy(entry.value.data(), shown.data(), shown.size());
  return entry;
}

/// What each process told, process by process; empty when all told the same.
std::vector<Told> gather(Communicator& communicator, std::vector<Told> own) {
  const auto processes = static_cast<std::size_t>(communicator.devices());
  // Another program could bring another number of facts: the first exchange has one size for all.
  std::array<std::uint64_t, 2> summary{own.size(), 0};
  for (const Told& entry : own) summary[1] = summary[1] * 31 + entry.hash;
  std::vector<std::array<std::uint64_t, 2>> all(processes);
  communicator.all_gather(std::as_bytes(std::span(summary)), std::as_writable_bytes(std::span(all)));
  if (std::all_of(all.begin(), all.end(), [&](const auto& other) { return other == all[0]; })) return {};
  own.resize(std::max_element(all.begin(), all.end())->at(0));
  std::vector<Told> told(processes * own.size());
  communicator.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(told)));
  return told;
}

}  // namespace

void agree(const RingOptions& ring, const std::vector<Fact>& facts) {
  if (!ring.processes) return;
  std::vector<Told> own;
  std::transform(facts.begin(), facts.end(), std::back_inserter(own), told_of);
  std::vector<Told> all;
  run_ring({.timeout = ring.timeout, .processes = ring.processes},
           [&](Context&, Communicator& communicator) { all = gather(communicator, own); });
  const auto processes = static_cast<std::size_t>(ring.processes->size());
  const std::size_t each = all.size() / processes;
  for (std::size_t n = 0; n < each; ++n)
    for (std::size_t p = 1; p < processes; ++p) {
      const Told &first = all[n], &other = all[p * each + n];
      const std::string name = first.name[0] != '\0' ? first.name.data() : other.name.data();
      check_argument(first.hash == other.hash, "start",
                     "expected the same {} on all processes, got '{}' on process 0 and '{}' on process {}",
                     name, first.value.data(), other.value.data(), p);
    }
}

}  // namespace rondo
