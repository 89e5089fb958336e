#include "backends/program.h"

#include <functional>

#include "backends/make_backend.h"
#include "gmock/gmock.h"

namespace limpet {
namespace {

// y = (a + b) + slice of a, through the arena.
Program sums() {
  Program p{.name = "sums"};
  p.values = {{.name = "a", .shape = {2, 4}, .kind = ValueKind::input},
              {.name = "b", .shape = {2, 4}, .kind = ValueKind::input},
              {.name = "both", .shape = {2, 4}, .offset = 64},
              {.name = "left", .shape = {2, 2}, .offset = 64, .row_stride = 4},
              {.name = "right", .shape = {2, 2}, .offset = 72, .row_stride = 4},
              {.name = "y", .shape = {2, 2}, .kind = ValueKind::output},
              {.name = "counts", .dtype = DType::i32, .shape = {1}, .kind = ValueKind::input}};
  p.steps = {{.op = ops::Add{}, .inputs = {0, 1}, .outputs = {2}},
             {.op = ops::Add{}, .inputs = {3, 4}, .outputs = {5}, .count = 0}};
  p.counts = 6;
  p.arena_bytes = 128;
  return p;
}

struct Bound {
  std::unique_ptr<Backend> backend = make_backend({}, {.threads = 2});
  std::unique_ptr<Buffer> a = backend->allocate(32), b = backend->allocate(32),
                          y = backend->allocate(24), counts = backend->allocate(4);

  Bound() {
    const float from_a[] = {1, 2, 3, 4, 5, 6, 7, 8}, from_b[] = {10, 20, 30, 40, 50, 60, 70, 80};
    const int32_t rows = 2;
    backend->write(*a, 0, from_a, 32);
    backend->write(*b, 0, from_b, 32);
    backend->write(*counts, 0, &rows, 4);
  }
  std::vector<float> run(Executable& exe) {
    exe.run();
    std::vector<float> result(6);
    backend->read(*y, 0, result.data(), 24);
    return result;
  }
};

TEST(Program, RunsThroughTheArenaWithSlicesOffsetsAndCounts) {
  Bound with;
  const auto exe = with.backend->compile(sums());
  exe->bind(0, *with.a), exe->bind(1, *with.b), exe->bind(5, *with.y, 8),
      exe->bind(6, *with.counts);
  EXPECT_EQ(with.run(*exe), (std::vector<float>{0, 0, 44, 66, 132, 154}));
  EXPECT_EQ(exe->arena_bytes(), 128);

  // Bindings hold, and may be changed; a count is read at each run.
  exe->bind(1, *with.a);
  const int32_t rows = 1;
  with.backend->write(*with.counts, 0, &rows, 4);
  EXPECT_EQ(with.run(*exe), (std::vector<float>{0, 0, 8, 12, 132, 154}));
  EXPECT_EQ(with.backend->counters().runs, 2);
}

TEST(Program, CountsWhatCrosses) {
  Bound with;
  const auto before = with.backend->counters();
  EXPECT_EQ(before.bytes_up, 68);
  with.backend->copy(*with.y, 0, *with.a, 4, 8);
  float two[2];
  with.backend->read(*with.y, 0, two, 8);
  EXPECT_EQ(two[0], 2);
  EXPECT_EQ(two[1], 3);
  EXPECT_EQ(with.backend->counters().bytes_down, 8);
  EXPECT_EQ(with.backend->counters().bytes_copied, 8);
}

TEST(Program, WhatIsMalformedIsRefusedWithItsPlace) {
  const std::vector<std::pair<const char*, std::function<void(Program&)>>> wrong = {
      {"step 1 (Add): value id out of range", [](Program& p) { p.steps[1].inputs[0] = 7; }},
      {"step 0 (Add): value id out of range", [](Program& p) { p.steps[0].outputs[0] = -1; }},
      {"value both: lies outside the arena", [](Program& p) { p.arena_bytes = 95; }},
      {"value left: rows overlap", [](Program& p) { p.values[3].row_stride = 1; }},
      {"takes a and b", [](Program& p) { p.steps[0].inputs.pop_back(); }},
      {"of the same shape",
       [](Program& p) {
         p.values[5].shape = {2, 3};
       }},
      {"writes an input", [](Program& p) { p.steps[0].outputs[0] = 1; }},
      {"counts has no such element", [](Program& p) { p.steps[1].count = 1; }},
      {"value id out of range", [](Program& p) { p.counts = -1; }},
      {"only weights are packed", [](Program& p) { p.values[0].layout = Layout::linear; }},
  };
  auto backend = make_backend({}, {.threads = 1});
  for (const auto& [what, spoil] : wrong) {
    Program p = sums();
    spoil(p);
    try {
      backend->compile(p);
      ADD_FAILURE() << what;
    } catch (const std::logic_error& e) {
      EXPECT_THAT(e.what(), testing::HasSubstr(what));
    }
  }
}

TEST(Program, BindingsAreChecked) {
  Bound with;
  const auto exe = with.backend->compile(sums());
  exe->bind(0, *with.a), exe->bind(1, *with.b), exe->bind(6, *with.counts);
  EXPECT_THROW(exe->run(), std::logic_error);  // y is not bound
  EXPECT_THROW(exe->bind(5, *with.y, 12), std::logic_error);
  EXPECT_THROW(exe->bind(5, *with.y, -4), std::logic_error);
  EXPECT_THROW(exe->bind(2, *with.a), std::logic_error);
  EXPECT_THROW(exe->bind(7, *with.a), std::logic_error);
  float x = 0;
  EXPECT_THROW(with.backend->write(*with.a, 32, &x, 4), std::logic_error);
  EXPECT_THROW(with.backend->read(*with.a, INT64_MAX, &x, 4), std::logic_error);
}

}  // namespace
}  // namespace limpet
