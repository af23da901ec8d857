#pragma once
// Shared by the tests of communicators.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rondo/core/random.h"
#include "rondo/core/tensor.h"
#include "tests/support/spawn.h"

namespace rondo::test {

/// Tests of what holds however devices are divided over processes; the parameter is the most devices that a
/// process has.
class Rings : public testing::TestWithParam<int> {
 protected:
  void spawn(int devices, const std::function<void(Context&, Communicator&)>& fn,
             const RingOptions& options = {.timeout = std::chrono::seconds(60)}) const {
    int own = std::min(devices, GetParam());
    while (devices % own != 0) --own;
    spawn_divided(devices, own, fn, options);
  }
};
inline constexpr int kOneProcess = 1000;
inline auto divisions() { return testing::Values(kOneProcess, 1, 2); }

/// The same for rings of each of several sizes: devices, and devices of a process.
class RingsOfSizes : public testing::TestWithParam<std::pair<int, int>> {
 protected:
  int devices() const { return GetParam().first; }
  void spawn(const std::function<void(Context&, Communicator&)>& fn) const {
    spawn_divided(devices(), GetParam().second, fn);
  }
};
inline auto sizes() {
  std::vector<std::pair<int, int>> all;
  for (int devices = 1; devices <= 9; ++devices) all.emplace_back(devices, devices);
  for (const auto& divided : {std::pair(2, 1), {3, 1}, {4, 1}, {6, 1}, {4, 2}, {6, 2}, {6, 3}})
    all.push_back(divided);
  return testing::ValuesIn(all);
}

inline Tensor tensor_of(std::vector<float>& values) {
  return view(values.data(), DType::f32, static_cast<std::int64_t>(values.size()), 1, 1);
}
inline ConstTensor tensor_of(const std::vector<float>& values) {
  return view(values.data(), DType::f32, static_cast<std::int64_t>(values.size()), 1, 1);
}

/// Values of mixed size and sign that differ between streams; their sum depends on the order of adding.
inline std::vector<float> noise(std::size_t size, std::uint64_t stream) {
  std::vector<float> values(size);
  for (std::size_t i = 0; i < size; ++i) {
    const auto bits = philox4x32({static_cast<std::uint32_t>(i), 0, 0, 0}, philox_key(1, stream));
    values[i] = (uniform(bits[0]) - 0.5f) * static_cast<float>(1u << (bits[1] % 20));
  }
  return values;
}

/// Sleeps for up to `most` microseconds, by chance.
inline void dawdle(std::uint64_t device, std::uint64_t step, std::uint32_t most = 300) {
  const auto bits = philox4x32({static_cast<std::uint32_t>(step), 0, 0, 0}, philox_key(2, device))[0];
  std::this_thread::sleep_for(std::chrono::microseconds(bits % most));
}

/// What `Error` says when `work` throws it; a test failure otherwise.
template <class Error>
std::string words_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& other) {
    ADD_FAILURE() << "another error: " << other.what();
    return "";
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

inline void expect_words(const std::string& text, const std::vector<std::string>& words) {
  for (const std::string& word : words)
    EXPECT_NE(text.find(word), std::string::npos) << "'" << word << "' is not in: " << text;
}

}  // namespace rondo::test
