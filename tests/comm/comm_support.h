#pragma once
// Shared by the tests of communicators.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "rondo/core/random.h"
#include "rondo/core/tensor.h"
#include "tests/support/spawn.h"

namespace rondo::test {

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
