#include <fcntl.h>
#include <stdio.h>  // renameat2
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "rondo/io/atomic_file.h"
#include "rondo/io/file_error.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;
constexpr const char* kCommit = "AtomicDirectory::commit";

fs::path without_trailing_slash(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

void sync_file(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  check_file(fd >= 0, kCommit, path, "expected to open it for syncing, got: {}", errno_text(errno));
  const int failed = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  check_file(failed == 0, kCommit, path, "sync failed: {}", errno_text(failed));
}

void sync_tree(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::file_status status = entry.symlink_status();
    if (fs::is_directory(status)) sync_tree(entry.path());
    if (fs::is_regular_file(status)) sync_file(entry.path());
  }
  sync_directory(folder);
}

void rename_or_throw(const fs::path& from, const fs::path& to) {
  check_file(::rename(from.c_str(), to.c_str()) == 0, kCommit, to, "expected to rename {} to it, got: {}",
             from.string(), errno_text(errno));
}

}  // namespace

AtomicDirectory::AtomicDirectory(const fs::path& path) : path_(without_trailing_slash(path)) {
  check_argument(path_.has_filename(), "AtomicDirectory", "expected the path of a folder, got '{}'",
                 path.string());
  const fs::file_status status = fs::symlink_status(path_);
  check_file(!fs::exists(status) || fs::is_directory(status), "AtomicDirectory", path_,
             "expected a folder or nothing there, got something else");
  temporary_ = temporary_name(path_);
  std::error_code error;
  const bool created = fs::create_directory(temporary_, error);
  check_file(created, "AtomicDirectory", temporary_, "expected to create this folder, got: {}",
             error ? error.message() : "it exists");
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;  // a destructor has nobody to tell
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  check_argument(!committed_, kCommit, "expected one commit, got a second of {}", path_.string());
  const fs::path parent = path_.has_parent_path() ? path_.parent_path() : fs::path(".");
  try {
    sync_tree(temporary_);
  } catch (const fs::filesystem_error& error) {
    io_error(kCommit, temporary_, "expected to list it for syncing, got: {}", error.code().message());
  }
  if (!fs::exists(fs::symlink_status(path_))) {
    rename_or_throw(temporary_, path_);
    committed_ = true;
    sync_directory(parent);
    return;
  }
  replace_existing();
  sync_directory(parent);
}

void AtomicDirectory::replace_existing() {
  fs::path old = temporary_;  // after an exchange the old folder has the temporary name
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0) {
    check_file(errno == EINVAL || errno == ENOSYS, kCommit, path_, "expected to exchange it with {}, got: {}",
               temporary_.string(), errno_text(errno));
    old = temporary_name(path_);
    rename_or_throw(path_, old);
    try {
      rename_or_throw(temporary_, path_);
    } catch (...) {
      ::rename(old.c_str(), path_.c_str());
      throw;
    }
  }
  committed_ = true;
  sync_directory(path_.has_parent_path() ? path_.parent_path() : fs::path("."));  // before the old one goes
  std::error_code error;
  fs::remove_all(old, error);
  check_file(!error, kCommit, old, "{} was replaced, but its old content could not be removed: {}",
             path_.string(), error.message());
}

}  // namespace rondo
