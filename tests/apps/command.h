#pragma once
// Runs the built `rondo` as users do: arguments in, exit status and both streams out.

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/temporary_folder.h"

namespace rondo::test {

struct CommandResult {
  int status = -1;  ///< exit status, or 1000 + the signal that ended it
  std::string out, err;
};

/// A running process whose streams go to files.
class Process {
 public:
  Process(std::vector<std::string> arguments, const std::string& input = "",
          const std::map<std::string, std::string>& environment = {}) {
    arguments.insert(arguments.begin(), RONDO_COMMAND);
    start(std::move(arguments), input, environment);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  /// Of another program, which is the first of `words`.
  static Process of(std::vector<std::string> words, const std::string& input,
                    const std::map<std::string, std::string>& environment) {
    return Process(Program{}, std::move(words), input, environment);
  }

  pid_t id() const { return pid_; }
  /// What it has said on stderr so far.
  std::string err() const { return read_text(streams_ / "err"); }
  void signal(int number) const { ::kill(pid_, number); }
  bool running() {
    if (pid_ > 0 && ::waitpid(pid_, &wait_status_, WNOHANG) == pid_) pid_ = 0;
    return pid_ > 0;
  }
  CommandResult wait() {
    if (pid_ > 0) ::waitpid(pid_, &wait_status_, 0);
    pid_ = 0;
    const int status = WIFEXITED(wait_status_) ? WEXITSTATUS(wait_status_) : 1000 + WTERMSIG(wait_status_);
    return {status, read_text(streams_ / "out"), read_text(streams_ / "err")};
  }

 private:
  struct Program {};
  Process(Program, std::vector<std::string> words, const std::string& input,
          const std::map<std::string, std::string>& environment) {
    start(std::move(words), input, environment);
  }
  void start(std::vector<std::string> arguments, const std::string& input,
             const std::map<std::string, std::string>& environment) {
    write_text(streams_ / "in", input);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    // Of two values of one name programs see the first.
    std::vector<std::string> variables;
    for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
    for (char** variable = environ; *variable != nullptr; ++variable) variables.emplace_back(*variable);
    std::vector<char*> envp;
    for (std::string& variable : variables) envp.push_back(variable.data());
    envp.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const auto redirect = [&](int fd, const char* name, int flags) {
      posix_spawn_file_actions_addopen(&actions, fd, (streams_ / name).c_str(), flags, 0600);
    };
    redirect(STDIN_FILENO, "in", O_RDONLY);
    redirect(STDOUT_FILENO, "out", O_WRONLY | O_CREAT);
    redirect(STDERR_FILENO, "err", O_WRONLY | O_CREAT);
    if (posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), envp.data()) != 0)
      throw std::runtime_error("cannot start " + arguments[0]);
    posix_spawn_file_actions_destroy(&actions);
  }

  TemporaryFolder streams_;
  pid_t pid_ = 0;
  int wait_status_ = 0;
};

inline CommandResult rondo(std::vector<std::string> arguments, const std::string& input = "",
                           const std::map<std::string, std::string>& environment = {}) {
  return Process(std::move(arguments), input, environment).wait();
}

/// `words` and what follows, for lists of arguments that share a beginning.
inline std::vector<std::string> operator+(std::vector<std::string> words,
                                          const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// Text with something to learn: words drawn by a small generator, `bytes` long.
inline std::string sample_text(std::size_t bytes, std::uint32_t seed = 1) {
  static const char* const kWords[] = {"the", "ring",   "passes", "keys", "and",   "values", "from",
                                       "one", "device", "to",     "next", "while", "it",     "computes"};
  std::string text;
  while (text.size() < bytes) {
    seed = seed * 1664525u + 1013904223u;
    text += kWords[(seed >> 16) % std::size(kWords)];
    text += (seed >> 28) == 0 ? ".\n" : " ";
  }
  text.resize(bytes);
  return text;
}

}  // namespace rondo::test
