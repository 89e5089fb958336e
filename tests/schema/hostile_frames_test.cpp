// Frames that no encoder of ours makes: other versions, offsets that share what they lead to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "limpet_generated.h"
#include "schema/wire.h"

namespace limpet {
namespace {

using testing::HasSubstr;
using Builder = flatbuffers::FlatBufferBuilder;
using AnyOffset = flatbuffers::Offset<void>;

wire::DecodeError decode(const Builder& fbb, std::vector<ClientMessage>& out) {
  const auto* data = reinterpret_cast<const std::byte*>(fbb.GetBufferPointer());
  return wire::decode(std::span(data, fbb.GetSize()), out);
}

void finish(Builder& fbb, uint16_t major, uint16_t minor,
            const std::vector<fbs::ClientMessage>& types, const std::vector<AnyOffset>& messages) {
  auto type_vector = fbb.CreateVector<fbs::ClientMessage>(types);
  auto message_vector = fbb.CreateVector(messages);
  fbb.Finish(fbs::CreateClientEnvelope(fbb, major, minor, type_vector, message_vector), "LPCB");
}

TEST(HostileFrames, ANewerMajorIsRefusedByName) {
  Builder fbb;
  finish(fbb, kProtocolMajor + 1, 0, {}, {});
  std::vector<ClientMessage> out;
  const auto error = decode(fbb, out);
  EXPECT_EQ(error.code, ErrorCode::version);
  EXPECT_THAT(error.message, HasSubstr("upgrade"));
}

TEST(HostileFrames, ANewerMajorIsRefusedByNameWhateverFollows) {
  Builder fbb;  // its third field is a number here, where ours is a vector
  const auto start = fbb.StartTable();
  fbb.AddElement<uint16_t>(4, kProtocolMajor + 1, 0);
  fbb.AddElement<uint16_t>(6, 3, 0);
  fbb.AddElement<uint32_t>(8, 0xfffffff0, 0);
  fbb.AddElement<uint32_t>(10, 0xfffffff0, 0);
  fbb.Finish(flatbuffers::Offset<fbs::ClientEnvelope>(fbb.EndTable(start)), "LPCB");
  std::vector<ClientMessage> out;
  EXPECT_EQ(decode(fbb, out).code, ErrorCode::version);
}

// A message type and a field that a newer minor version has added.
TEST(HostileFrames, ANewerMinorIsUnderstoodAsFarAsItCanBe) {
  for (const int newer : {0, 1}) {
    Builder fbb;
    auto job_id = fbb.CreateString("j");
    const auto start = fbb.StartTable();
    fbb.AddOffset(4, job_id);
    fbb.AddElement<int64_t>(6, 12, 0);
    fbb.AddElement<uint64_t>(8, 99, 0);  // unknown field of a known message
    const AnyOffset attach = fbb.EndTable(start);
    const auto unknown_start = fbb.StartTable();
    fbb.AddElement<uint64_t>(4, 99, 0);
    const AnyOffset unknown = fbb.EndTable(unknown_start);
    finish(fbb, kProtocolMajor, static_cast<uint16_t>(kProtocolMinor + newer),
           {fbs::ClientMessage{77}, fbs::ClientMessage::Attach, fbs::ClientMessage{78}},
           {unknown, attach, unknown});
    std::vector<ClientMessage> out;
    const auto error = decode(fbb, out);
    if (newer == 1) {
      ASSERT_EQ(error.code, ErrorCode::none) << error.message;
      ASSERT_EQ(out.size(), 1u);
      EXPECT_EQ(std::get<Attach>(out[0]).job_id, "j");
      EXPECT_EQ(std::get<Attach>(out[0]).from_index, 12);
    } else {
      EXPECT_EQ(error.code, ErrorCode::invalid);
      EXPECT_TRUE(out.empty());
    }
  }
}

TEST(HostileFrames, SharedTextIsNotCopiedOverAndOver) {
  Builder fbb;
  auto text = fbb.CreateString(std::string(4u << 20, 'x'));
  std::vector<flatbuffers::Offset<fbs::ChatMessage>> chat(Limits::kMessages,
                                                          fbs::CreateChatMessage(fbb, 0, text));
  auto spec = fbs::CreateJobSpec(fbb, 0, 0, fbs::InputKind::messages, fbb.CreateVector(chat), text);
  const AnyOffset submit = fbs::CreateSubmit(fbb, spec).Union();
  finish(fbb, kProtocolMajor, kProtocolMinor,
         std::vector<fbs::ClientMessage>(1000, fbs::ClientMessage::Submit),
         std::vector<AnyOffset>(1000, submit));
  std::vector<ClientMessage> out;
  const auto error = decode(fbb, out);
  EXPECT_EQ(error.code, ErrorCode::invalid) << error.message;
  EXPECT_TRUE(out.empty());
}

TEST(HostileFrames, SharedTablesDoNotMultiplyTheVerifiersWork) {
  Builder fbb;
  std::vector<flatbuffers::Offset<fbs::ChatMessage>> chat(
      100000, fbs::CreateChatMessage(fbb, 0, fbb.CreateString("x")));
  auto spec = fbs::CreateJobSpec(fbb, 0, 0, fbs::InputKind::messages, fbb.CreateVector(chat));
  const AnyOffset submit = fbs::CreateSubmit(fbb, spec).Union();
  finish(fbb, kProtocolMajor, kProtocolMinor,
         std::vector<fbs::ClientMessage>(50000, fbs::ClientMessage::Submit),
         std::vector<AnyOffset>(50000, submit));
  std::vector<ClientMessage> out;  // 5e9 tables to visit if nothing stopped it
  EXPECT_EQ(decode(fbb, out).code, ErrorCode::invalid);
}

TEST(HostileFrames, AnAbsentSpecIsNamed) {
  Builder fbb;
  const AnyOffset submit = fbs::CreateSubmit(fbb).Union();
  finish(fbb, kProtocolMajor, kProtocolMinor, {fbs::ClientMessage::Submit}, {submit});
  std::vector<ClientMessage> out;
  EXPECT_THAT(decode(fbb, out).message, HasSubstr("spec"));
}

TEST(HostileFrames, NoTypeIsNoMessage) {
  Builder fbb;
  const AnyOffset cancel = fbs::CreateCancel(fbb).Union();
  finish(fbb, kProtocolMajor, kProtocolMinor, {fbs::ClientMessage::NONE}, {cancel});
  std::vector<ClientMessage> out;
  EXPECT_EQ(decode(fbb, out).code, ErrorCode::invalid);
}

}  // namespace
}  // namespace limpet
