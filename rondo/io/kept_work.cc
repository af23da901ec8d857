#include "rondo/io/kept_work.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>

#include "rondo/io/atomic_file.h"
#include "rondo/io/checksum.h"
#include "rondo/io/file_error.h"
#include "rondo/io/json_file.h"

namespace rondo {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kOperation = "kept work";
constexpr const char* kJournal = "journal.json";
constexpr const char* kLock = "lock";
constexpr int kFormat = 1;

std::uint64_t checksum_of(const json& content) {
  const std::string text = content.dump();
  Checksum checksum;
  checksum.add(std::as_bytes(std::span(text.data(), text.size())));
  return checksum.stamp().checksum;
}

bool is_blocks(const fs::path& path) { return path.extension() == ".blocks"; }

double seconds_of(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

struct KeptWork::Journal {
  json facts = json::object(), entries = json::object();
  json committed = json::object();  ///< the entries on the disk
  double seconds = 0;               ///< up to the last commit
};

KeptWork::KeptWork(fs::path folder, const Facts& facts, FileSystem& files)
    : folder_(std::move(folder)), files_(files), journal_(std::make_unique<Journal>()), last_(Clock::now()) {
  check_call(files_.make_folder(folder_) == 0 || errno == EEXIST, kOperation, folder_,
             "expected to make this folder");
  lock();
  try {
    check_files();
    read_journal(facts);
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

KeptWork::~KeptWork() {
  if (lock_ >= 0) ::close(lock_);
}

/// Two processes would write over each other's blocks.
void KeptWork::lock() {
  const fs::path path = folder_ / kLock;
  lock_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  check_call(lock_ >= 0, kOperation, path, "expected to open or create this file");
  if (::flock(lock_, LOCK_EX | LOCK_NB) == 0) return;
  const int error = errno;
  ::close(std::exchange(lock_, -1));
  check_file(error != EWOULDBLOCK, kOperation, folder_,
             "expected a folder in which no other process works, got one");
  io_error(kOperation, path, "expected to lock this file, got: {}", errno_text(error));
}

/// The folder will be removed with its files: nothing else may be in it.
void KeptWork::check_files() const {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    if (temporary_name_of(name) == kJournal) {  // of a commit that was cut short
      files_.remove(entry.path());
      continue;
    }
    check_file(name == kJournal || name == kLock || is_blocks(entry.path()), kOperation, folder_,
               "expected an empty folder, or one with kept work alone, got '{}' in it", name);
  }
}

void KeptWork::read_journal(const Facts& facts) {
  for (const auto& [name, value] : facts) journal_->facts[name] = value;
  const fs::path path = folder_ / kJournal;
  std::error_code error;
  if (!fs::exists(path, error)) return;
  const json file = read_json_file(path);
  constexpr const char* kDamaged =
      "expected a whole journal, got a damaged one (without its folder all begins anew)";
  check_file(file.is_object() && file.contains("work") &&
                 file.value("checksum", json()) == json(checksum_of(file["work"])),
             kOperation, path, kDamaged);
  const json& work = file["work"];
  try {
    check_argument(work.at("format") == kFormat, kOperation, "expected a journal of format {} in {}, got {}",
                   kFormat, path.string(), work.at("format").dump());
    const json& kept = work.at("facts");
    for (const auto& [name, value] : facts) {
      const std::string other = kept.value(name, std::string("none"));
      check_argument(other == value, kOperation,
                     "expected the {} that the work in {} was begun with, {}, got {} (without the folder all "
                     "begins anew)",
                     name, folder_.string(), other, value);
    }
    journal_->seconds = work.at("seconds");
    journal_->entries = journal_->committed = work.at("entries");
  } catch (const json::exception&) {
    io_error(kOperation, path, kDamaged);
  }
}

const json& KeptWork::entry(const std::string& name) const {
  static const json kNone;
  const auto found = journal_->entries.find(name);
  return found == journal_->entries.end() ? kNone : *found;
}

void KeptWork::set(const std::string& name, json value) { journal_->entries[name] = std::move(value); }
void KeptWork::erase(const std::string& name) { journal_->entries.erase(name); }
bool KeptWork::committed(const std::string& name) const { return journal_->committed.contains(name); }

double KeptWork::seconds() const { return journal_->seconds + seconds_of(Clock::now() - last_); }

void KeptWork::commit() {
  const double seconds = this->seconds();
  const json work = {
      {"format", kFormat}, {"facts", journal_->facts}, {"seconds", seconds}, {"entries", journal_->entries}};
  write_file_atomically(folder_ / kJournal,
                        json{{"checksum", checksum_of(work)}, {"work", work}}.dump() + "\n", files_);
  journal_->committed = journal_->entries;
  journal_->seconds = seconds;
  last_ = Clock::now();
}

void KeptWork::finish() {
  const auto remove = [&](const fs::path& path) {
    check_call(files_.remove(path) == 0 || errno == ENOENT, kOperation, path, "expected to remove this file");
  };
  // The journal first: without it blocks mean nothing, whatever ends the process meanwhile.
  remove(folder_ / kJournal);
  sync_directory(folder_, files_);
  std::vector<fs::path> blocks;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_))
    if (is_blocks(entry.path())) blocks.push_back(entry.path());
  for (const fs::path& path : blocks) remove(path);
  remove(folder_ / kLock);
  ::close(std::exchange(lock_, -1));
  files_.remove(folder_);  // unless it is needed for something else: a file system of its own, say
  journal_->entries = journal_->committed = json::object();
}

}  // namespace rondo
