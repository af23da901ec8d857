#include "rondo/io/atomic_file.h"

#include <algorithm>
#include <cerrno>
#include <random>
#include <utility>

#include "rondo/io/file_error.h"

namespace rondo {
namespace {

constexpr std::size_t kLongestNameInTemporary = 200;  // file systems allow names of 255 bytes
constexpr std::string_view kTemporaryPrefix = ".tmp-";
constexpr std::size_t kRandomDigits = 16;

std::filesystem::path parent_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

std::filesystem::path temporary_name(const std::filesystem::path& path) {
  std::random_device random;
  const std::string name = path.filename().string().substr(0, kLongestNameInTemporary);
  return parent_of(path) / fmt::format("{}{}-{:08x}{:08x}", kTemporaryPrefix, name, random(), random());
}

std::string_view temporary_name_of(std::string_view name) {
  if (!name.starts_with(kTemporaryPrefix)) return {};
  name.remove_prefix(kTemporaryPrefix.size());
  if (name.size() <= kRandomDigits + 1 || name[name.size() - kRandomDigits - 1] != '-') return {};
  const std::string_view digits = name.substr(name.size() - kRandomDigits);
  if (digits.find_first_not_of("0123456789abcdef") != std::string_view::npos) return {};
  return name.substr(0, name.size() - kRandomDigits - 1);
}

void sync_directory(const std::filesystem::path& folder, FileSystem& files) {
  // Some file systems have nothing to sync in a folder and say EINVAL.
  check_call(files.sync_entry(folder) == 0 || errno == EINVAL, "sync_directory", folder,
             "expected to sync the folder");
}

OutputFile::OutputFile(const std::filesystem::path& path, Mode mode, FileSystem& files)
    : files_(&files), path_(path) {
  fd_ = mode == Mode::create_new ? files.create(path) : files.open_existing(path);
  check_file(fd_ >= 0, "OutputFile", path, "expected to open it for writing, got: {}", errno_text(errno));
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : files_(other.files_), path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  OutputFile moved(std::move(other));
  std::swap(files_, moved.files_);
  path_.swap(moved.path_);
  std::swap(fd_, moved.fd_);
  return *this;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) files_->close(fd_);
}

void OutputFile::write(std::span<const std::byte> bytes) {
  check_argument(is_open(), "OutputFile::write", "expected an open file, got one that is closed: {}",
                 path_.string());
  std::size_t done = 0;
  while (done < bytes.size()) {
    const std::ptrdiff_t count = files_->write(fd_, bytes.subspan(done));
    if (count < 0 && errno == EINTR) continue;
    check_file(count > 0, "OutputFile::write", path_, "expected to write {} bytes, got {} written: {}",
               bytes.size(), done, count < 0 ? errno_text(errno) : "the system accepts no more");
    done += static_cast<std::size_t>(count);
  }
}

void OutputFile::sync() {
  check_call(files_->sync(fd_) == 0, "OutputFile::sync", path_, "expected to sync it");
}

void OutputFile::close() {
  const int fd = std::exchange(fd_, -1);
  if (fd < 0) return;
  // After EINTR the descriptor is gone on Linux all the same.
  check_call(files_->close(fd) == 0 || errno == EINTR, "OutputFile::close", path_, "expected to close it");
}

AtomicFile::AtomicFile(const std::filesystem::path& path, FileSystem& files) : files_(&files), path_(path) {
  check_argument(path.has_filename(), "AtomicFile", "expected the path of a file, got '{}'", path.string());
  file_ = OutputFile(temporary_name(path), OutputFile::Mode::create_new, files);
}

AtomicFile::~AtomicFile() {
  if (!file_.is_open()) return;
  files_->remove(file_.path());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  file_.write(bytes);
  checksum_.add(bytes);
}

void AtomicFile::commit() {
  check_argument(file_.is_open(), "AtomicFile::commit", "expected one commit, got a second of {}",
                 path_.string());
  file_.sync();
  // Renamed while open: until then the destructor still has to remove the temporary file.
  check_call(files_->rename(file_.path(), path_) == 0, "AtomicFile::commit", path_,
             "expected to rename {} to it", file_.path().string());
  file_.close();
  sync_directory(parent_of(path_), *files_);
}

FileStamp write_file_atomically(const std::filesystem::path& path, std::string_view text, FileSystem& files) {
  AtomicFile file(path, files);
  file.write(text);
  file.commit();
  return file.stamp();
}

}  // namespace rondo
