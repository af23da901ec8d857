#pragma once
// A file layer that records what reaches the disk, and a model of what a power loss leaves of it: a file
// system promises no more than POSIX. Content is on the disk when the file was synced, names when their
// folder was. What was not synced may be there, wholly or in part, or not.

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "rondo/core/random.h"
#include "rondo/io/file_system.h"
#include "tests/support/temporary_folder.h"

namespace rondo::test {

struct FileCall {
  enum class Kind { create, write, sync_file, sync_folder, make_folder, rename, exchange, remove } kind;
  std::filesystem::path path, to;
  std::string bytes;
};

/// Carries out every call, and records those that succeed.
class RecordingFiles final : public FileSystem {
 public:
  using Path = std::filesystem::path;
  using Kind = FileCall::Kind;

  std::vector<FileCall> calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

  int create(const Path& path) override {
    const std::lock_guard lock(mutex_);  // calls are recorded in the order in which they happen
    const int descriptor = FileSystem::create(path);
    if (descriptor >= 0) names_[descriptor] = path, calls_.push_back({Kind::create, path, {}, {}});
    return descriptor;
  }
  std::ptrdiff_t write(int descriptor, std::span<const std::byte> bytes) override {
    const std::lock_guard lock(mutex_);
    const std::ptrdiff_t count = FileSystem::write(descriptor, bytes);
    if (count > 0)
      calls_.push_back({Kind::write,
                        names_.at(descriptor),
                        {},
                        {reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(count)}});
    return count;
  }
  int sync(int descriptor) override {
    const std::lock_guard lock(mutex_);
    return record(FileSystem::sync(descriptor), {Kind::sync_file, names_.at(descriptor), {}, {}});
  }
  int close(int descriptor) override {
    const std::lock_guard lock(mutex_);
    names_.erase(descriptor);
    return FileSystem::close(descriptor);
  }
  int sync_entry(const Path& path) override {
    const std::lock_guard lock(mutex_);
    const Kind kind = std::filesystem::is_directory(path) ? Kind::sync_folder : Kind::sync_file;
    return record(FileSystem::sync_entry(path), {kind, path, {}, {}});
  }
  int make_folder(const Path& path) override {
    const std::lock_guard lock(mutex_);
    return record(FileSystem::make_folder(path), {Kind::make_folder, path, {}, {}});
  }
  int rename(const Path& from, const Path& to) override {
    const std::lock_guard lock(mutex_);
    const int result = record(FileSystem::rename(from, to), {Kind::rename, from, to, {}});
    for (auto& [descriptor, name] : names_)
      if (result == 0 && name == from) name = to;
    return result;
  }
  int exchange(const Path& a, const Path& b) override {
    const std::lock_guard lock(mutex_);
    return record(FileSystem::exchange(a, b), {Kind::exchange, a, b, {}});
  }
  int remove(const Path& path) override {
    const std::lock_guard lock(mutex_);
    return record(FileSystem::remove(path), {Kind::remove, path, {}, {}});
  }

 private:
  int record(int result, FileCall call) {
    if (result == 0) calls_.push_back(std::move(call));
    return result;
  }
  mutable std::mutex mutex_;
  std::map<int, Path> names_;
  std::vector<FileCall> calls_;
};

/// What of the calls that were not synced a power loss lets through.
struct Loss {
  bool names, content;     ///< all of them
  std::uint64_t seed = 0;  ///< not 0: in each folder and file any number of the first ones
};

/// A disk under a sequence of calls.
class ModelDisk {
 public:
  using Path = std::filesystem::path;
  /// `base` is a folder that was there before.
  explicit ModelDisk(const Path& base) : base_(base), root_(std::make_shared<Node>()) {
    root_->folder = true;
  }

  void apply(const FileCall& call) {
    using Kind = FileCall::Kind;
    const std::string name = call.path.filename().string();
    switch (call.kind) {
      case Kind::create:
      case Kind::make_folder: {
        auto node = std::make_shared<Node>();
        node->folder = call.kind == Kind::make_folder;
        change(call.path, [=](Entries& entries) { entries[name] = node; });
        break;
      }
      case Kind::write:
        find(call.path)->content += call.bytes;
        break;
      case Kind::sync_file:
        find(call.path)->synced = find(call.path)->content.size();
        break;
      case Kind::sync_folder:
        if (within_base(call.path)) {
          Node& folder = *find(call.path);
          folder.durable = folder.entries;
          folder.pending.clear();
        }
        break;
      case Kind::rename:
      case Kind::exchange: {
        if (call.path.parent_path() != call.to.parent_path())
          throw std::logic_error("a move between folders");
        const bool both = call.kind == Kind::exchange;
        change(call.path, [=, to = call.to.filename().string()](Entries& entries) {
          const NodePtr moved = entries.at(name);
          if (both) {
            entries[name] = entries.at(to);
          } else {
            entries.erase(name);
          }
          entries[to] = moved;
        });
        break;
      }
      case Kind::remove:
        change(call.path, [=](Entries& entries) { entries.erase(name); });
        break;
    }
  }

  /// Names and contents when the power comes back; folders end with '/'.
  using Content = std::map<std::string, std::string>;
  Content after(const Loss& loss) const {
    Content content;
    std::uint64_t draws = loss.seed;
    collect(*root_, loss, draws, "", content);
    return content;
  }
  static void write(const Content& content, const Path& to) {
    for (const auto& [name, bytes] : content) {
      if (name.ends_with("/")) {
        std::filesystem::create_directory(to / name);
      } else {
        write_text(to / name, bytes);
      }
    }
  }

 private:
  struct Node;
  using NodePtr = std::shared_ptr<Node>;
  using Entries = std::map<std::string, NodePtr>;
  struct Node {
    bool folder = false;
    std::string content;
    std::size_t synced = 0;  // bytes
    Entries entries, durable;
    std::vector<std::function<void(Entries&)>> pending;  // from durable to entries
  };

  bool within_base(const Path& path) const {
    const std::string text = path.string(), base = base_.string();
    return text == base || text.starts_with(base + "/");
  }
  NodePtr find(const Path& path) const {
    NodePtr node = root_;
    for (const Path& part : path.lexically_relative(base_))
      if (part != ".") node = node->entries.at(part.string());
    return node;
  }
  template <class Change>
  void change(const Path& path, Change apply) {
    Node& parent = *find(path.parent_path());
    apply(parent.entries);
    parent.pending.push_back(apply);
  }

  static std::size_t draw(std::uint64_t& draws, std::size_t most) {
    draws = mix64(draws + 0x9e3779b97f4a7c15ull);
    return static_cast<std::size_t>(draws % (most + 1));
  }
  static void collect(const Node& folder, const Loss& loss, std::uint64_t& draws, const std::string& to,
                      Content& content) {
    Entries entries = folder.durable;
    const std::size_t most = folder.pending.size();
    const std::size_t kept = loss.seed != 0 ? draw(draws, most) : loss.names ? most : 0;
    for (std::size_t n = 0; n < kept; ++n) folder.pending[n](entries);
    for (const auto& [name, node] : entries) {
      if (node->folder) {
        content[to + name + "/"];
        collect(*node, loss, draws, to + name + "/", content);
        continue;
      }
      const std::size_t unsynced = node->content.size() - node->synced;
      const std::size_t more = loss.seed != 0 ? draw(draws, unsynced) : loss.content ? unsynced : 0;
      std::string bytes = node->content.substr(0, node->synced + more);
      // Space may have been given to a file before its bytes came.
      if (loss.seed % 2 != 0)
        std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(node->synced), bytes.end(), '\0');
      content[to + name] = std::move(bytes);
    }
  }

  Path base_;
  NodePtr root_;
};

/// Lets one call fail, as a full disk or a broken one does.
class FailingFiles final : public FileSystem {
 public:
  using Path = std::filesystem::path;
  /// The call number `failing` (from 0) fails with `error`, and when `lasting` all that write after it.
  FailingFiles(int failing, int error, bool lasting) : left_(failing), error_(error), lasting_(lasting) {}
  bool failed() const { return failed_; }

  int create(const Path& path) override { return fails(true) ? -1 : FileSystem::create(path); }
  std::ptrdiff_t write(int descriptor, std::span<const std::byte> bytes) override {
    return fails(true) ? -1 : FileSystem::write(descriptor, bytes);
  }
  int sync(int descriptor) override { return fails(true) ? -1 : FileSystem::sync(descriptor); }
  int sync_entry(const Path& path) override { return fails(true) ? -1 : FileSystem::sync_entry(path); }
  int make_folder(const Path& path) override { return fails(true) ? -1 : FileSystem::make_folder(path); }
  int rename(const Path& from, const Path& to) override {
    return fails(false) ? -1 : FileSystem::rename(from, to);
  }
  int exchange(const Path& a, const Path& b) override {
    return fails(false) ? -1 : FileSystem::exchange(a, b);
  }

 private:
  bool fails(bool writes) {
    const std::lock_guard lock(mutex_);
    const bool now = left_ == 0 || (failed_ && lasting_ && writes);
    if (left_ >= 0) --left_;
    if (!now) return false;
    failed_ = true;
    errno = error_;
    return true;
  }
  std::mutex mutex_;
  int left_, error_;
  bool lasting_, failed_ = false;
};

}  // namespace rondo::test
