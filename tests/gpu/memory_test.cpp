// A device that is full says so, and goes on.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tests/gpu/gpus.h"

namespace limpet {
namespace {

class GpuMemory : public ::testing::TestWithParam<std::string> {};

TEST_P(GpuMemory, WhatDoesNotFitIsAnErrorAndTheDeviceGoesOn) {
  const auto backend = make_backend(parse_device(GetParam()), {});
  const std::vector<char> text(1000, 'x');
  const auto before = backend->allocate(std::ssize(text));
  backend->write(*before, 0, text.data(), std::ssize(text));
  std::string why;
  try {
    backend->allocate(2 * backend->info().memory_bytes);
  } catch (const DeviceLost& e) {
    FAIL() << "taken for a lost device: " << e.what();
  } catch (const std::runtime_error& e) {
    why = e.what();
  }
  EXPECT_NE(why.find("out of memory"), std::string::npos) << why;
  const auto after = backend->allocate(std::ssize(text));
  backend->copy(*after, 0, *before, 0, std::ssize(text));
  std::vector<char> back(text.size());
  backend->read(*after, 0, back.data(), std::ssize(back));
  EXPECT_EQ(back, text);
}

INSTANTIATE_TEST_SUITE_P(Gpus, GpuMemory, ::testing::ValuesIn(test::gpus()),
                         [](const auto& info) {
                           return info.param.substr(0, info.param.find(':'));
                         });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GpuMemory);

}  // namespace
}  // namespace limpet
