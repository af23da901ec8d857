// A step allocates nothing large after the first: neither in the ledger nor behind its back.

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

#include "tests/train/training_support.h"

namespace {

constexpr std::size_t kLarge = 64 << 10;
std::atomic<bool> counting = false;
std::atomic<int> large = 0;
std::atomic<std::size_t> largest = 0;  // bytes

void raise(std::atomic<std::size_t>& most, std::size_t bytes) {
  std::size_t before = most;
  while (bytes > before && !most.compare_exchange_weak(before, bytes)) {
  }
}

void note(std::size_t bytes) {
  if (!counting || bytes <= kLarge) return;
  ++large;
  raise(largest, bytes);
}

}  // namespace

// Every allocation of the process, those of libraries included, comes through here. Sanitizers bring their
// own: this test is not built with them.
extern "C" {
void* __libc_malloc(std::size_t);                 // NOLINT
void* __libc_calloc(std::size_t, std::size_t);    // NOLINT
void* __libc_realloc(void*, std::size_t);         // NOLINT
void* __libc_memalign(std::size_t, std::size_t);  // NOLINT
void* malloc(std::size_t bytes) noexcept {
  note(bytes);
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) noexcept {
  note(count * bytes);
  return __libc_calloc(count, bytes);
}
void* realloc(void* old, std::size_t bytes) noexcept {
  note(bytes);
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  note(bytes);
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** out, std::size_t alignment, std::size_t bytes) noexcept {
  note(bytes);
  *out = __libc_memalign(alignment, bytes);
  return *out != nullptr ? 0 : ENOMEM;
}
}

namespace rondo {
namespace {

TEST(Allocations, AreCountedAtAll) {
  large = 0;
  counting = true;
  std::vector<char> vector(kLarge + 1);
  void* raw = std::malloc(kLarge + 2);
  counting = false;
  EXPECT_NE(vector.data(), raw);
  std::free(raw);
  EXPECT_EQ(large, 2);
}

void expect_none_after_the_first_step(const TrainingRecipe& recipe, const ExecutionOptions& execution) {
  const test::Text files({60000, 20000, 40000, 5000});
  const Corpus corpus = files.corpus();
  ModelConfig config = test::small_config();
  config.width = 16, config.ffn = 16, config.layers = 1, config.head_dim = 4, config.sliding_window = 40;
  large = 0, largest = 0;
  run_ring(execution.ring, [&](Context& context, Communicator& communicator) {
    Trainer trainer(context, communicator, config, recipe, execution, corpus);
    trainer.initialise();
    trainer.step();
    const std::int64_t before = context.ledger.allocations();
    communicator.barrier();
    if (context.device == 0) counting = true;
    communicator.barrier();
    for (int n = 0; n < 3; ++n) trainer.step();
    communicator.barrier();
    if (context.device == 0) counting = false;
    EXPECT_EQ(context.ledger.allocations(), before);
  });
  EXPECT_EQ(large, 0) << "the largest of " << largest << " bytes";
}

TEST(Allocations, NoneAreLargeAfterTheFirstStep) {
  TrainingRecipe recipe =
      test::small_recipe(60000, 4);  // 30,000 tokens a device: four bytes for each are large
  ExecutionOptions execution{.ring = {.devices = 2, .timeout = std::chrono::seconds(600)},
                             .layout = Layout::contiguous,
                             .block_tokens = 256};
  expect_none_after_the_first_step(recipe, execution);
  execution.exchange = Exchange::share;
  execution.remat = Remat::none;
  recipe.separate_documents = true;
  recipe.dtype = DType::bf16;
  expect_none_after_the_first_step(recipe, execution);
}

}  // namespace
}  // namespace rondo
