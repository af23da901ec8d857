#include "apps/stop.h"

#include <signal.h>
#include <unistd.h>

#include <cstring>

namespace rondo::apps {

namespace {

// A signal handler reaches nothing but what is static.
std::atomic<bool> stop_asked{false};
std::atomic<const char*> stop_words{""};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<const char*>::is_always_lock_free);

void say(const char* words) {
  if (::write(STDERR_FILENO, words, std::strlen(words)) < 0) return;  // nobody listens: nothing to be done
}

void on_signal(int) {
  if (stop_asked.exchange(true)) {
    say("\nstopped at once\n");
    ::_exit(kStoppedStatus);
  }
  say(stop_words.load());
}

}  // namespace

const std::atomic<bool>& stop_on_signals(const char* words) {
  stop_words = words;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  return stop_asked;
}

}  // namespace rondo::apps
