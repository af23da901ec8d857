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

void sync_tree(FileSystem& files, const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::file_status status = entry.symlink_status();
    if (fs::is_directory(status)) sync_tree(files, entry.path());
    if (fs::is_regular_file(status))
      check_call(files.sync_entry(entry.path()) == 0, kCommit, entry.path(), "expected to sync it");
  }
  sync_directory(folder, files);
}

void rename_or_throw(FileSystem& files, const fs::path& from, const fs::path& to) {
  check_call(files.rename(from, to) == 0, kCommit, to, "expected to rename {} to it", from.string());
}

}  // namespace

AtomicDirectory::AtomicDirectory(const fs::path& path, FileSystem& files)
    : files_(&files), path_(without_trailing_slash(path)) {
  check_argument(path_.has_filename(), "AtomicDirectory", "expected the path of a folder, got '{}'",
                 path.string());
  const fs::file_status status = fs::symlink_status(path_);
  check_file(!fs::exists(status) || fs::is_directory(status), "AtomicDirectory", path_,
             "expected a folder or nothing there, got something else");
  temporary_ = temporary_name(path_);
  check_call(files.make_folder(temporary_) == 0, "AtomicDirectory", temporary_,
             "expected to create this folder");
}

AtomicDirectory::~AtomicDirectory() {
  if (!committed_) remove_tree(*files_, temporary_);  // a destructor has nobody to tell of a failure
}

void AtomicDirectory::commit() {
  check_argument(!committed_, kCommit, "expected one commit, got a second of {}", path_.string());
  const fs::path parent = path_.has_parent_path() ? path_.parent_path() : fs::path(".");
  try {
    sync_tree(*files_, temporary_);
  } catch (const fs::filesystem_error& error) {
    io_error(kCommit, temporary_, "expected to list it for syncing, got: {}", error.code().message());
  }
  if (!fs::exists(fs::symlink_status(path_))) {
    rename_or_throw(*files_, temporary_, path_);
    committed_ = true;
    sync_directory(parent, *files_);
    return;
  }
  replace_existing();
  sync_directory(parent, *files_);
}

void AtomicDirectory::replace_existing() {
  fs::path old = temporary_;  // after an exchange the old folder has the temporary name
  if (files_->exchange(temporary_, path_) != 0) {
    check_file(errno == EINVAL || errno == ENOSYS, kCommit, path_, "expected to exchange it with {}, got: {}",
               temporary_.string(), errno_text(errno));
    old = temporary_name(path_);
    rename_or_throw(*files_, path_, old);
    try {
      rename_or_throw(*files_, temporary_, path_);
    } catch (...) {
      files_->rename(old, path_);
      throw;
    }
  }
  committed_ = true;
  // Before the old one goes.
  sync_directory(path_.has_parent_path() ? path_.parent_path() : fs::path("."), *files_);
  const int failed = remove_tree(*files_, old);
  check_file(failed == 0, kCommit, old, "{} was replaced, but its old content could not be removed: {}",
             path_.string(), errno_text(failed));
}

}  // namespace rondo
