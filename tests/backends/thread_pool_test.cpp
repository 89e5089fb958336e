#include "backends/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <ctime>
#include <memory>
#include <vector>

#include "gtest/gtest.h"

namespace limpet {
namespace {

template <class Task>
void run(ThreadPool& pool, int64_t count, Task task) {
  pool.run(
      count, [](void* t, int64_t i, int thread) { (*static_cast<Task*>(t))(i, thread); }, &task);
}

TEST(ThreadPool, DoesEachItemOnceAndShowsWhatWasWritten) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int64_t round = 0; round < 3000; ++round) {
      const int64_t count = round % 17;
      std::vector<int64_t> seen(17, 0);
      std::atomic<bool> wrong{false};
      run(pool, count, [&](int64_t i, int thread) {
        if (thread < 0 || thread >= threads) wrong = true;
        seen[static_cast<size_t>(i)] += round + 1;
      });
      ASSERT_FALSE(wrong);
      for (int64_t i = 0; i < 17; ++i) {
        ASSERT_EQ(seen[static_cast<size_t>(i)], i < count ? round + 1 : 0);
      }
    }
  }
}

TEST(ThreadPool, ThreadsWorkAtTheSameTime) {
  // Two items that each wait for the other to have begun.
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> begun{0};
    run(pool, 2, [&](int64_t, int) {
      begun.fetch_add(1);
      while (begun.load() < 2) std::this_thread::yield();
    });
    EXPECT_EQ(begun.load(), 2);
    // Long enough, every other time, for the worker to fall asleep.
    if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

TEST(ThreadPool, EndsWhateverItsThreadsAreAt) {
  for (int round = 0; round < 2000; ++round) {
    ThreadPool pool(3);
    std::atomic<int64_t> sum{0};
    for (int64_t jobs = 0; jobs < round % 4; ++jobs) {
      run(pool, 5, [&](int64_t i, int) { sum += i; });
    }
    ASSERT_EQ(sum.load(), round % 4 * 10);
  }
}

TEST(ThreadPool, IdleThreadsSleep) {
  ThreadPool pool(3);
  run(pool, 8, [](int64_t, int) {});
  const std::clock_t before = std::clock();  // processor time of all threads
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const double used = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_LT(used, 0.05);
}

}  // namespace
}  // namespace limpet
