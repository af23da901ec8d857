#pragma once
// How long a turn this program asks for where it shares a processor.

namespace rondo::apps {

/// Asks for turns of 100 ms, the most there is, for this thread and those that it starts, where Linux lets
/// threads choose (6.12 on) and no other policy was chosen for them. At the usual turns of a few milliseconds
/// two devices on one core throw each other's blocks out of its caches at every change, which costs them 1 to
/// 2 % (docs/numbers.md, "Processor time of processes and of threads"). Threads that ask for less still come
/// first.
void ask_for_long_time_slices();

}  // namespace rondo::apps
