// Evaluations that end at any moment, with or without the power: what goes on from there has the same bits.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <numeric>
#include <random>

#include "rondo/io/kept_work.h"
#include "tests/train/training_support.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;
using test::text;

/// Ends the process in the call number `last` that reaches the disk, when the disk has lost any of the writes
/// that were not synced.
class EndingFiles final : public FileSystem {
 public:
  EndingFiles(int last, unsigned seed) : left_(last), random_(seed) {}
  int calls() const { return calls_; }

  int open_blocks(const fs::path& path) override { return turn(), FileSystem::open_blocks(path); }
  int create(const fs::path& path) override { return turn(), FileSystem::create(path); }
  std::ptrdiff_t write(int descriptor, std::span<const std::byte> bytes) override {
    return turn(), FileSystem::write(descriptor, bytes);
  }
  std::ptrdiff_t write_at(int descriptor, std::span<const std::byte> bytes, std::int64_t offset) override {
    const std::lock_guard lock(mutex_);
    count();
    Undo undo{descriptor, offset, bytes.size(), Bytes(std::aligned_alloc(4096, bytes.size()))};
    const std::ptrdiff_t had = FileSystem::read_at(descriptor, undo.all(), offset);
    if (had == static_cast<std::ptrdiff_t>(bytes.size())) undo_.push_back(std::move(undo));
    return FileSystem::write_at(descriptor, bytes, offset);
  }
  int sync(int descriptor) override {
    const std::lock_guard lock(mutex_);
    count();
    const int result = FileSystem::sync(descriptor);
    std::erase_if(undo_, [&](const Undo& undo) { return undo.descriptor == descriptor; });
    return result;
  }
  int rename(const fs::path& from, const fs::path& to) override {
    return turn(), FileSystem::rename(from, to);
  }
  int remove(const fs::path& path) override { return turn(), FileSystem::remove(path); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  using Bytes = std::unique_ptr<void, Free>;
  struct Undo {
    int descriptor;
    std::int64_t offset;
    std::size_t size;
    Bytes bytes;
    std::span<std::byte> all() const { return {static_cast<std::byte*>(bytes.get()), size}; }
  };
  void turn() {
    const std::lock_guard lock(mutex_);
    count();
  }
  void count() {
    ++calls_;
    if (left_-- != 0) return;
    for (auto undo = undo_.rbegin(); undo != undo_.rend(); ++undo)
      if (random_() % 2 == 0) FileSystem::write_at(undo->descriptor, undo->all(), undo->offset);
    ::_exit(9);
  }
  std::mutex mutex_;
  std::vector<Undo> undo_;
  int left_, calls_ = 0;
  std::mt19937 random_;
};

/// Windows of four segments that overlap, and a last one that is shorter than a segment is.
const EvaluationOptions kOptions{.context = 1800, .stride = 1400, .block_tokens = 512};

struct Model {
  Model() {
    for (std::size_t n = 0; n < flat.size(); ++n)
      flat[n] = static_cast<float>(mix64(n) % 2001) / 10'000 - 0.1f;
  }
  ModelConfig config = test::small_config();
  ParameterTable table{config};
  std::vector<float> flat = std::vector<float>(static_cast<std::size_t>(table.total()));
};

using Watch = std::function<bool(std::int64_t, double)>;

Evaluation run(KeptWork* work, const Watch& within = {}) {
  const Model model;
  const Corpus corpus = text().corpus();
  EvaluationOptions options = kOptions;
  options.within = within;
  Evaluation result;
  test::spawn(1, [&](Context& context, Communicator& communicator) {
    Transformer transformer(context, communicator, model.config, model.table,
                            {.block_tokens = 32, .segment_tokens = 512, .work = work});
    result = evaluate(communicator, transformer, model.flat.data(), token_source(corpus), options);
  });
  return result;
}

/// Every bit of a result.
std::string bits_of(const Evaluation& result) {
  std::string bits = fmt::format("{} {:a} {}\n", result.windows, result.nats, result.tokens);
  for (const PositionBucket& bucket : result.by_position)
    bits += fmt::format("{} {} {:a}\n", bucket.begin, bucket.tokens, bucket.nats);
  for (const TextBlock& block : result.by_block) bits += fmt::format("{} {:a}\n", block.tokens, block.nats);
  return bits;
}

const KeptWork::Facts kFacts{{"model", "1"}, {"text", "2"}};

/// One process that works in `folder` until its call number `last`; its exit status. What it found is in
/// `result`.
int run_and_end(const fs::path& folder, int last, unsigned seed, std::chrono::milliseconds every,
                const fs::path& result) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      EndingFiles files(last, seed);
      KeptWork work(folder, kFacts, files);
      work.commit_every(every);
      test::write_text(result, bits_of(run(&work)));
      work.finish();
      ::_exit(0);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      ::_exit(1);
    }
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

TEST(KeptEvaluation, EndedAnywhereGoesOnToTheSameBits) {
  const std::string expected = bits_of(run(nullptr));
  const auto seed = std::random_device{}() % 1'000'000;
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(static_cast<unsigned>(seed));
  for (const int every : {0, 15, 30, 60, 1'000'000}) {  // milliseconds
    const test::TemporaryFolder folder;
    int calls = 0;
    {
      EndingFiles files(-1, 0);
      KeptWork work(folder / "work", kFacts, files);
      work.commit_every(std::chrono::milliseconds(every));
      EXPECT_EQ(bits_of(run(&work)), expected);
      work.finish();
      calls = files.calls();
    }
    ASSERT_FALSE(fs::exists(folder / "work"));
    int status = 9, ends = 0;
    // Without commits nothing would ever be done: the last of them is let live.
    for (; status == 9; ++ends) {
      const int most = every == 1'000'000 ? (ends + 1) * calls / 4 : calls / 3;
      status = run_and_end(folder / "work", static_cast<int>(random() % static_cast<unsigned>(most)),
                           random(), std::chrono::milliseconds(every), folder / "result");
    }
    EXPECT_EQ(status, 0);
    EXPECT_GE(ends, 2) << calls;
    EXPECT_EQ(test::read_text(folder / "result"), expected);
    EXPECT_FALSE(fs::exists(folder / "work"));
  }
}

/// Works in `folder` up to the part number `last` and stops there, in good order.
void run_until(const fs::path& folder, int last) {
  KeptWork work(folder, kFacts);
  int parts = 0;
  const Evaluation result = run(&work, [&](std::int64_t, double) { return ++parts < last; });
  EXPECT_LT(result.windows, 2);
  EXPECT_EQ(parts, last);
}

TEST(KeptEvaluation, StoppedGoesOnToTheSameBits) {
  const std::string expected = bits_of(run(nullptr));
  for (const int last : {1, 4, 6, 8, 10, 12, 13}) {  // 12 parts are a window
    const test::TemporaryFolder folder;
    run_until(folder.path(), last);
    KeptWork work(folder.path(), kFacts);
    std::vector<double> shares;
    EXPECT_EQ(bits_of(run(&work,
                          [&](std::int64_t window, double share) {
                            shares.push_back(static_cast<double>(window) + share);
                            return true;
                          })),
              expected);
    EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
    EXPECT_EQ(shares.back(), evaluation_windows(text().corpus().tokens(), kOptions));
    const std::size_t all = 12 * static_cast<std::size_t>(shares.back() - 1) + 3;  // the last: one segment
    EXPECT_EQ(shares.size(), all - static_cast<std::size_t>(last));
  }
}

void flip_bit_of_each_block(const fs::path& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto size = static_cast<std::int64_t>(fs::file_size(path));
  for (std::int64_t at = 1234 % size; at < size; at += 4096) {
    file.seekg(at);
    const int byte = file.get();
    file.seekp(at);
    file.put(static_cast<char>(byte ^ 4));
  }
}

TEST(KeptEvaluation, ABitThatChangedIsAnErrorThatNamesTheFile) {
  struct Case {
    const char* file;
    int last;  // 7: of the second layer two segments are done; 10: the losses of two
  };
  for (const Case& damaged :
       {Case{"layer-inputs-0.blocks", 6}, Case{"layer-inputs-1.blocks", 6}, Case{"keys-and-values.blocks", 6},
        Case{"layer-inputs-0.blocks", 10}, Case{"losses.blocks", 10}, Case{"journal.json", 6}}) {
    SCOPED_TRACE(fmt::format("{} after {}", damaged.file, damaged.last));
    const test::TemporaryFolder folder;
    run_until(folder.path(), damaged.last);
    flip_bit_of_each_block(folder / damaged.file);
    const auto go_on = [&] {
      KeptWork work(folder.path(), kFacts);
      run(&work);
    };
    RONDO_EXPECT_ERROR(IoError, go_on(), damaged.file, "without its folder all begins anew");
  }
}

TEST(KeptEvaluation, WantsOneDeviceAndSegments) {
  const test::TemporaryFolder folder;
  KeptWork work(folder.path(), kFacts);
  const Model model;
  const Corpus corpus = text().corpus();
  const auto run_on = [&](int devices, std::int64_t segment) {
    test::spawn(devices, [&](Context& context, Communicator& communicator) {
      Transformer transformer(context, communicator, model.config, model.table,
                              {.segment_tokens = segment, .work = &work});
    });
  };
  RONDO_EXPECT_ERROR(ArgumentError, run_on(1, 0), "expected segments of tokens for kept work");
  RONDO_EXPECT_ERROR(ArgumentError, run_on(2, 512), "expected one device for segments");
}

}  // namespace
}  // namespace rondo
