#include "backends/device.h"

#include "backends/make_backend.h"
#include "gmock/gmock.h"

namespace limpet {
namespace {

TEST(Device, NamesAreReadAndWritten) {
  EXPECT_EQ(parse_device("cpu"), (Device{DeviceKind::cpu, 0}));
  EXPECT_EQ(parse_device("cuda"), (Device{DeviceKind::cuda, 0}));
  for (const char* name : {"cuda:0", "hip:3", "vulkan:1", "metal:0", "mlx:0", "webgpu:12"}) {
    EXPECT_EQ(to_string(parse_device(name)), name);
  }
  EXPECT_EQ(to_string({DeviceKind::cpu, 0}), "cpu");
}

TEST(Device, OtherNamesAreRefusedWithTheKnownOnes) {
  for (const char* name : {"", ":", "cpux", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cpu:1",
                           "CUDA:0", "cuda:99999999999999999999"}) {
    try {
      parse_device(name);
      ADD_FAILURE() << name;
    } catch (const std::runtime_error& e) {
      EXPECT_THAT(e.what(), testing::HasSubstr("cuda, hip, vulkan")) << name;
    }
  }
}

TEST(MakeBackend, OpensTheCpuWithTheThreadsAskedFor) {
  EXPECT_EQ(make_backend({}, {.threads = 3})->info().threads, 3);
  EXPECT_GE(make_backend({})->info().threads, 1);
  EXPECT_THROW(make_backend({}, {.threads = -1}), std::runtime_error);
  EXPECT_THROW(make_backend({DeviceKind::cpu, 1}), std::runtime_error);
}

TEST(MakeBackend, WhatIsNotBuiltNamesItsOption) {
  for (const auto& [kind, option] : {std::pair{DeviceKind::metal, "LIMPET_METAL"},
                                     {DeviceKind::mlx, "LIMPET_MLX"},
                                     {DeviceKind::webgpu, "LIMPET_WEBGPU"}}) {
    try {
      make_backend({kind, 0});
      ADD_FAILURE() << name_of(kind);
    } catch (const std::runtime_error& e) {
      EXPECT_THAT(e.what(), testing::HasSubstr(option));
    }
  }
}

}  // namespace
}  // namespace limpet
