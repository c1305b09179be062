// SPDX-License-Identifier: Apache-2.0
// Persistent reservations: the rules one by one, random sequences against a model that is written
// another way, and the commands.
#include "server/scsi/reservations.h"

#include <map>
#include <optional>
#include <set>

#include "tests/server/scsi/unit_fixture.h"

namespace sectormap::scsi {
namespace {

NexusName Name(int number) {
  return {"iqn.x:" + std::to_string(number) + ",i,0x1", "iqn.t,t,0x1", 1};
}

using Action = ReservationAction;
constexpr auto kWe = ReservationType::kWriteExclusive;
constexpr auto kEa = ReservationType::kExclusiveAccess;
constexpr auto kWeRo = ReservationType::kWriteExclusiveRegistrantsOnly;
constexpr auto kEaAr = ReservationType::kExclusiveAccessAllRegistrants;

class ReservationsTest : public testing::Test {
 protected:
  ScsiStatus Register(int who, uint64_t key) {
    return Do(who, {Action::kRegisterAndIgnore, {}, 0, key, false});
  }
  ScsiStatus Do(int who, const ReservationRequest& request) {
    last_ = state_.Apply(Name(who), request);
    return last_.status;
  }
  ScsiStatus Reserve(int who, uint64_t key, ReservationType type) {
    return Do(who, {Action::kReserve, type, key, 0, false});
  }
  std::optional<SenseCode> TellsTo(int who) const {
    for (const auto& notice : last_.notices) {
      if (notice.nexus == Name(who)) return notice.attention;
    }
    return std::nullopt;
  }
  Reservations state_;
  ReservationOutcome last_;
};

TEST_F(ReservationsTest, RegisterChecksTheKeyItHas) {
  EXPECT_EQ(Do(1, {Action::kRegister, {}, 5, 7, false}), ScsiStatus::kReservationConflict);
  EXPECT_EQ(Do(1, {Action::kRegister, {}, 0, 7, false}), ScsiStatus::kGood);
  EXPECT_EQ(Do(1, {Action::kRegister, {}, 8, 9, false}), ScsiStatus::kReservationConflict);
  EXPECT_EQ(Do(1, {Action::kRegister, {}, 7, 9, false}), ScsiStatus::kGood);
  EXPECT_EQ(state_.registrations()[0].key, 9u);
  EXPECT_EQ(Do(1, {Action::kRegister, {}, 9, 0, false}), ScsiStatus::kGood);
  EXPECT_TRUE(state_.registrations().empty());
  EXPECT_EQ(state_.generation(), 3u);
}

TEST_F(ReservationsTest, RegistrationsAreBounded) {
  for (size_t i = 0; i < kMaxRegistrations; ++i) {
    ASSERT_EQ(Register(static_cast<int>(i), 1), ScsiStatus::kGood);
  }
  EXPECT_EQ(Register(static_cast<int>(kMaxRegistrations), 1), ScsiStatus::kCheckCondition);
  EXPECT_EQ(*last_.sense, kNoRegistrationResources);
  EXPECT_EQ(Register(0, 2), ScsiStatus::kGood);
}

TEST_F(ReservationsTest, OnlyTheHolderMayReserveAgain) {
  EXPECT_EQ(Reserve(1, 5, kWe), ScsiStatus::kReservationConflict);
  Register(1, 1);
  Register(2, 2);
  EXPECT_EQ(Reserve(1, 9, kWe), ScsiStatus::kReservationConflict);
  EXPECT_EQ(Reserve(1, 1, kWe), ScsiStatus::kGood);
  EXPECT_EQ(Reserve(1, 1, kWe), ScsiStatus::kGood);
  EXPECT_EQ(Reserve(1, 1, kEa), ScsiStatus::kReservationConflict);
  EXPECT_EQ(Reserve(2, 2, kWe), ScsiStatus::kReservationConflict);
  EXPECT_EQ(state_.HolderKey(), 1u);
}

TEST_F(ReservationsTest, ReleaseNeedsTheSameTypeAndTellsOnlyRegistrantsTypes) {
  Register(1, 1);
  Register(2, 2);
  Reserve(1, 1, kWe);
  EXPECT_EQ(Do(2, {Action::kRelease, kWe, 2, 0, false}), ScsiStatus::kGood);
  EXPECT_TRUE(state_.type());
  EXPECT_EQ(Do(1, {Action::kRelease, kEa, 1, 0, false}), ScsiStatus::kCheckCondition);
  EXPECT_EQ(*last_.sense, kInvalidRelease);
  EXPECT_EQ(Do(1, {Action::kRelease, kWe, 1, 0, false}), ScsiStatus::kGood);
  EXPECT_FALSE(state_.type());
  EXPECT_FALSE(TellsTo(2));
  Reserve(1, 1, kWeRo);
  Do(1, {Action::kRelease, kWeRo, 1, 0, false});
  EXPECT_EQ(TellsTo(2), kReservationsReleased);
  EXPECT_FALSE(TellsTo(1));
}

TEST_F(ReservationsTest, UnregisteringTheHolderReleases) {
  Register(1, 1);
  Register(2, 2);
  Reserve(1, 1, kWe);
  Register(1, 0);
  EXPECT_FALSE(state_.type());
  EXPECT_FALSE(TellsTo(2));
  Register(1, 1);
  Reserve(1, 1, kWeRo);
  Register(1, 0);
  EXPECT_FALSE(state_.type());
  EXPECT_EQ(TellsTo(2), kReservationsReleased);
  Register(1, 1);
  Reserve(1, 1, kEaAr);
  Register(1, 0);
  EXPECT_EQ(state_.type(), kEaAr);
  EXPECT_EQ(state_.HolderKey(), 0u);
  Register(2, 0);
  EXPECT_FALSE(state_.type());
}

TEST_F(ReservationsTest, ClearTellsEveryOther) {
  Register(1, 1);
  Register(2, 2);
  Reserve(2, 2, kEa);
  EXPECT_EQ(Do(1, {Action::kClear, {}, 1, 0, false}), ScsiStatus::kGood);
  EXPECT_TRUE(state_.registrations().empty());
  EXPECT_FALSE(state_.type());
  EXPECT_EQ(TellsTo(2), kReservationsPreempted);
}

TEST_F(ReservationsTest, PreemptTakesTheReservationOfThatKey) {
  Register(1, 1);
  Register(2, 2);
  Register(3, 3);
  Reserve(1, 1, kWeRo);
  EXPECT_EQ(Do(2, {Action::kPreemptAndAbort, kEa, 2, 1, false}), ScsiStatus::kGood);
  EXPECT_EQ(state_.type(), kEa);
  EXPECT_EQ(state_.HolderKey(), 2u);
  EXPECT_EQ(TellsTo(1), kRegistrationsPreempted);
  EXPECT_EQ(TellsTo(3), kReservationsReleased);
  ASSERT_EQ(last_.aborted.size(), 1u);
  EXPECT_EQ(last_.aborted[0], Name(1));
}

TEST_F(ReservationsTest, PreemptOfAnotherKeyOnlyRemovesRegistrations) {
  Register(1, 1);
  Register(2, 2);
  Register(3, 3);
  Reserve(1, 1, kWe);
  EXPECT_EQ(Do(2, {Action::kPreempt, kEa, 2, 3, false}), ScsiStatus::kGood);
  EXPECT_EQ(state_.type(), kWe);
  EXPECT_EQ(state_.registrations().size(), 2u);
  EXPECT_EQ(TellsTo(3), kRegistrationsPreempted);
  EXPECT_TRUE(last_.aborted.empty());
  EXPECT_EQ(Do(2, {Action::kPreempt, kEa, 2, 99, false}), ScsiStatus::kReservationConflict);
  EXPECT_EQ(Do(2, {Action::kPreempt, kEa, 2, 0, false}), ScsiStatus::kCheckCondition);
  EXPECT_EQ(*last_.sense, kInvalidFieldInParameterList);
}

TEST_F(ReservationsTest, PreemptTellsTheOthersOfAnotherTypeWhateverTheOldOneWas) {
  for (const ReservationType old : {kWe, kEa, kWeRo}) {
    for (const ReservationType next : {kWe, kEa, kWeRo}) {
      state_ = {};
      Register(1, 1);
      Register(2, 2);
      Register(3, 3);
      Reserve(1, 1, old);
      EXPECT_EQ(Do(2, {Action::kPreempt, next, 2, 1, false}), ScsiStatus::kGood);
      EXPECT_EQ(TellsTo(3), old == next ? std::nullopt : std::optional(kReservationsReleased));
      EXPECT_FALSE(TellsTo(2));
    }
  }
}

TEST_F(ReservationsTest, PreemptOfOnesOwnKeyRemovesItUnlessItTakesTheReservation) {
  Register(1, 1);
  Register(2, 2);
  Register(3, 2);
  Reserve(1, 1, kWe);
  EXPECT_EQ(Do(2, {Action::kPreemptAndAbort, kWe, 2, 2, false}), ScsiStatus::kGood);
  ASSERT_EQ(state_.registrations().size(), 1u);
  EXPECT_EQ(state_.registrations()[0].nexus, Name(1));
  EXPECT_FALSE(TellsTo(2));
  EXPECT_EQ(TellsTo(3), kRegistrationsPreempted);
  ASSERT_EQ(last_.aborted.size(), 1u);
  EXPECT_EQ(Do(1, {Action::kPreempt, kEa, 1, 1, false}), ScsiStatus::kGood);
  EXPECT_EQ(state_.HolderKey(), 1u);
  EXPECT_EQ(state_.type(), kEa);
}

TEST_F(ReservationsTest, AReservationOfAllRegistrantsEndsWithTheLastThatIsPreempted) {
  Register(1, 1);
  Reserve(1, 1, kEaAr);
  EXPECT_EQ(Do(1, {Action::kPreempt, kEaAr, 1, 1, false}), ScsiStatus::kGood);
  EXPECT_TRUE(state_.registrations().empty());
  EXPECT_FALSE(state_.type());
}

TEST_F(ReservationsTest, PreemptOfAllRegistrantsWithKeyZeroTakesAll) {
  Register(1, 1);
  Register(2, 2);
  Register(3, 3);
  Reserve(1, 1, kEaAr);
  EXPECT_EQ(Do(2, {Action::kPreempt, kWe, 2, 3, false}), ScsiStatus::kGood);
  EXPECT_EQ(state_.type(), kEaAr);
  EXPECT_EQ(Do(2, {Action::kPreempt, kWe, 2, 0, false}), ScsiStatus::kGood);
  EXPECT_EQ(state_.type(), kWe);
  EXPECT_EQ(state_.registrations().size(), 1u);
  EXPECT_EQ(TellsTo(1), kRegistrationsPreempted);
}

TEST_F(ReservationsTest, ARecordRestoresWhatSurvives) {
  Register(1, 0xffffffffffffffff);
  Do(2, {Action::kRegisterAndIgnore, {}, 0, 2, true});
  Reserve(2, 2, kWeRo);
  const std::string record = state_.ToRecord();
  const auto restored = Reservations::FromRecord(record);
  ASSERT_TRUE(restored.ok());
  EXPECT_EQ(restored->type(), kWeRo);
  EXPECT_TRUE(restored->IsHolder(Name(2)));
  EXPECT_EQ(restored->registrations().size(), 2u);
  EXPECT_EQ(restored->registrations()[0].key, 0xffffffffffffffff);
  EXPECT_EQ(restored->ToRecord(), record);
  Register(1, 3);  // without APTPL: nothing survives now
  EXPECT_EQ(state_.ToRecord(), "");
}

TEST_F(ReservationsTest, ADamagedRecordIsRefused) {
  Do(1, {Action::kRegisterAndIgnore, {}, 0, 0x1234, true});
  Do(2, {Action::kRegisterAndIgnore, {}, 0, 0x5678, true});
  Reserve(1, 0x1234, kEa);
  const std::string record = state_.ToRecord();
  for (size_t length = 1; length < record.size(); ++length) {
    EXPECT_FALSE(Reservations::FromRecord(record.substr(0, length)).ok()) << length;
  }
  EXPECT_FALSE(Reservations::FromRecord(record + "x").ok());
  EXPECT_FALSE(Reservations::FromRecord(std::string(100000, '\n')).ok());
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = record;
    damaged[random() % damaged.size()] = static_cast<char>(random());
    (void)Reservations::FromRecord(damaged);  // an answer, never a crash
  }
}

// --- A model that knows only who may do what ---

struct Model {
  std::map<int, uint64_t> keys;
  std::optional<int> type;
  std::optional<int> holder;

  bool all() const { return type == 7 || type == 8; }
  bool Holds(int who) const { return type && (all() ? keys.contains(who) : holder == who); }
  bool MayRead(int who) const {
    if (!type || Holds(who)) return true;
    if (*type >= 5 && keys.contains(who)) return true;
    return *type == 1 || *type == 5 || *type == 7;
  }
  bool MayWrite(int who) const { return !type || Holds(who) || (*type >= 5 && keys.contains(who)); }
  void Forget(int who) {
    const bool held = Holds(who);
    keys.erase(who);
    if (held && (!all() || keys.empty())) type.reset();
  }

  // True for GOOD.
  bool Apply(int who, const ReservationRequest& request) {
    const bool known = keys.contains(who);
    const int wanted = request.type ? static_cast<int>(*request.type) : 0;
    if (request.action == Action::kRegister || request.action == Action::kRegisterAndIgnore) {
      const uint64_t mine = known ? keys[who] : 0;
      if (request.action == Action::kRegister && request.key != mine) return false;
      if (request.action_key != 0) {
        keys[who] = request.action_key;
      } else if (known) {
        Forget(who);
      }
      return true;
    }
    if (!known || keys[who] != request.key) return false;
    if (request.action == Action::kReserve) {
      if (type) return Holds(who) && *type == wanted;
      type = wanted;
      holder = who;
    } else if (request.action == Action::kRelease) {
      if (!Holds(who)) return true;
      if (*type != wanted) return false;
      type.reset();
    } else if (request.action == Action::kClear) {
      keys.clear();
      type.reset();
    } else {
      std::set<int> victims;
      for (const auto& [other, key] : keys) {
        if (key == request.action_key || (request.action_key == 0 && all() && type)) {
          victims.insert(other);
        }
      }
      if (request.action_key == 0 && !(type && all())) return false;
      if (victims.empty()) return false;
      const bool takes =
          type && (all() ? request.action_key == 0
                         : keys.contains(*holder) && keys[*holder] == request.action_key);
      for (int victim : victims) {
        if (victim != who || !takes) keys.erase(victim);
      }
      if (all() && keys.empty()) type.reset();
      if (takes) {
        type = wanted;
        holder = who;
      }
    }
    return true;
  }
};

TEST_F(ReservationsTest, RandomSequencesAgreeWithTheModel) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  constexpr std::array<int, 6> kTypes = {1, 3, 5, 6, 7, 8};
  for (int run = 0; run < 300; ++run) {
    Model model;
    state_ = {};
    for (int step = 0; step < 60; ++step) {
      const int who = static_cast<int>(random() % 4);
      ReservationRequest request;
      request.action = static_cast<Action>(random() % 7);
      request.key = random() % 3 == 0          ? random() % 4
                    : model.keys.contains(who) ? model.keys[who]
                                               : 0;
      request.action_key = random() % 4;
      request.type = static_cast<ReservationType>(kTypes[random() % kTypes.size()]);
      const bool good = model.Apply(who, request);
      ASSERT_EQ(Do(who, request) == ScsiStatus::kGood, good) << "run " << run << " step " << step;
      ASSERT_EQ(state_.registrations().size(), model.keys.size());
      ASSERT_EQ(state_.type().has_value(), model.type.has_value());
      for (int other = 0; other < 4; ++other) {
        const Hindrance hindrance = state_.HindranceOf(Name(other));
        ASSERT_EQ(hindrance != Hindrance::kReadsAndWrites, model.MayRead(other));
        ASSERT_EQ(hindrance == Hindrance::kNone, model.MayWrite(other));
      }
    }
  }
}

// --- The commands ---

class ReservationCommandsTest : public UnitTest {
 protected:
  void SetUp() override {
    UnitTest::SetUp();
    a_ = &Login(1, 0);
    b_ = &Login(2, 1);
  }

  Answer Out(Initiator& who, int action, uint64_t key, uint64_t action_key, int type = 0,
             uint8_t flags = 0) {
    Bytes8 list(24);
    for (size_t i = 0; i < 8; ++i) {
      list[i] = static_cast<uint8_t>(key >> (8 * (7 - i)));
      list[8 + i] = static_cast<uint8_t>(action_key >> (8 * (7 - i)));
    }
    list[20] = flags;
    return Run(who, Cdb({0x5f, action, type, 0, 0, 0, 0, 0, 24}), list);
  }
  Answer In(Initiator& who, int action, int length = 0xffff) {
    return Run(who, Cdb({0x5e, action, 0, 0, 0, 0, 0, length >> 8, length}));
  }
  Answer ReadBlock(Initiator& who) { return Run(who, Cdb10(0x28, 0, 0, 1)); }
  Answer WriteBlock(Initiator& who) { return Run(who, Cdb10(0x2a, 0, 0, 1), Fill(1, 1)); }

  const CdbBytes kStart = Cdb({0x1b, 0, 0, 0, 1});
  const CdbBytes kStop = Cdb({0x1b, 0, 0, 0, 0});
  Initiator* a_ = nullptr;
  Initiator* b_ = nullptr;
};

TEST_F(ReservationCommandsTest, EachTypeKeepsOutWhomItShould) {
  struct Case {
    int type;
    bool registered_reads, registered_writes, other_reads, other_writes;
  };
  for (const Case& c : {Case{1, true, false, true, false}, Case{3, false, false, false, false},
                        Case{5, true, true, true, false}, Case{6, true, true, false, false},
                        Case{7, true, true, true, false}, Case{8, true, true, false, false}}) {
    SCOPED_TRACE(c.type);
    EXPECT_GOOD(Out(*a_, 6, 0, 0xa));
    EXPECT_GOOD(Out(*b_, 6, 0, 0xb));
    EXPECT_GOOD(Out(*a_, 1, 0xa, 0, c.type));
    const Answer held = In(*a_, 1);
    ASSERT_EQ(held.data.size(), 24u);
    EXPECT_EQ(held.Number(8, 8), c.type >= 7 ? 0u : 0xau);
    EXPECT_EQ(held.data[21], c.type);
    EXPECT_GOOD(ReadBlock(*a_));
    EXPECT_GOOD(WriteBlock(*a_));
    EXPECT_EQ(ReadBlock(*b_).good(), c.registered_reads);
    EXPECT_EQ(WriteBlock(*b_).good(), c.registered_writes);
    EXPECT_GOOD(Out(*b_, 0, 0xb, 0));
    EXPECT_EQ(ReadBlock(*b_).good(), c.other_reads);
    EXPECT_EQ(WriteBlock(*b_).good(), c.other_writes);
    EXPECT_GOOD(Run(*b_, Cdb({0x00})));
    EXPECT_GOOD(Run(*b_, Cdb({0x25})));
    EXPECT_GOOD(Run(*b_, kStart));
    EXPECT_CONFLICT(Run(*b_, kStop));
    EXPECT_CONFLICT(Run(*b_, Cdb({0x1b, 0, 0, 0, 0x11})));  // a power condition
    EXPECT_GOOD(Run(*a_, kStop));
    EXPECT_GOOD(In(*b_, 0));
    EXPECT_GOOD(Out(*a_, 2, 0xa, 0, c.type));
    EXPECT_GOOD(Out(*a_, 0, 0xa, 0));
    EXPECT_EQ(In(*a_, 1).data.size(), 8u);
  }
}

TEST_F(ReservationCommandsTest, KeysAndGenerationAreRead) {
  EXPECT_EQ(In(*a_, 0).data.size(), 8u);
  Out(*a_, 6, 0, 0x1122334455667788);
  Out(*b_, 6, 0, 2);
  const Answer keys = In(*a_, 0);
  ASSERT_EQ(keys.data.size(), 24u);
  EXPECT_EQ(keys.Number(0, 4), 2u);
  EXPECT_EQ(keys.Number(4, 4), 16u);
  EXPECT_EQ(keys.Number(8, 8), 0x1122334455667788u);
  const Answer cut = In(*a_, 0, 8);
  EXPECT_EQ(cut.data.size(), 8u);
  EXPECT_EQ(cut.Number(4, 4), 16u);
}

TEST_F(ReservationCommandsTest, CapabilitiesNameAllSixTypes) {
  const Answer answer = In(*a_, 2);
  ASSERT_EQ(answer.data.size(), 8u);
  EXPECT_EQ(answer.Number(0, 2), 8u);
  EXPECT_EQ(answer.data[2], 0);
  EXPECT_EQ(answer.data[3], 0x80);
  EXPECT_EQ(answer.Number(4, 2), 0xea01u);
}

TEST_F(ReservationCommandsTest, FullStatusNamesThePorts) {
  Out(*a_, 6, 0, 0xa);
  Out(*a_, 1, 0xa, 0, 1);
  const Answer answer = In(*a_, 3);
  ASSERT_GT(answer.data.size(), 36u);
  EXPECT_EQ(answer.Number(4, 4), answer.data.size() - 8);
  EXPECT_EQ(answer.Number(8, 8), 0xau);
  EXPECT_EQ(answer.data[20], 1);
  EXPECT_EQ(answer.data[21], 1);
  EXPECT_EQ(answer.data[32], 0x45);
  EXPECT_EQ(answer.Number(34, 2) % 4, 0u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(&answer.data[36])),
            "iqn.2026-11.test:i1,i,0x00023d000001");
  for (int length = 0; length < 80; ++length) {
    EXPECT_EQ(In(*a_, 3, length).data.size(),
              std::min<size_t>(static_cast<size_t>(length), answer.data.size()));
  }
}

TEST_F(ReservationCommandsTest, BadParametersAreRefused) {
  EXPECT_FAILS(Run(*a_, Cdb({0x5f, 6, 0, 0, 0, 0, 0, 0, 23}), Bytes8(23)),
               kParameterListLengthError);
  EXPECT_FAILS(Run(*a_, Cdb({0x5f, 6, 0, 0, 0, 0, 0, 0, 25}), Bytes8(25)),
               kParameterListLengthError);
  EXPECT_FAILS(Run(*a_, Cdb({0x5f, 6, 0, 0, 0, 0, 0, 0, 24}), Bytes8(23)),
               kParameterListLengthError);
  EXPECT_FAILS(Run(*a_, Cdb({0x5f, 6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}), Bytes8(24)),
               kParameterListLengthError);
  EXPECT_FAILS(Out(*a_, 6, 0, 1, 0, 0x08), kInvalidFieldInParameterList);
  EXPECT_FAILS(Out(*a_, 6, 0, 1, 0, 0x04), kInvalidFieldInParameterList);
  EXPECT_FAILS(Out(*a_, 6, 0, 1, 0, 0x01), kInvalidFieldInParameterList);  // no store
  Out(*a_, 6, 0, 1);
  EXPECT_FAILS(Out(*a_, 1, 1, 0, 2), kInvalidFieldInCdb);
  EXPECT_FAILS(Out(*a_, 1, 1, 0, 0x11), kInvalidFieldInCdb);
  EXPECT_FAILS(Out(*a_, 7, 1, 0, 1), kInvalidFieldInCdb);
}

TEST_F(ReservationCommandsTest, PreemptAndAbortEndsTheOthersTasksAndTellsIt) {
  Out(*a_, 6, 0, 0xa);
  Out(*b_, 6, 0, 0xb);
  Out(*a_, 1, 0xa, 0, 3);
  EXPECT_CONFLICT(ReadBlock(*b_));
  EXPECT_GOOD(Out(*b_, 5, 0xb, 0xa, 3));
  EXPECT_EQ(a_->aborts.calls, 1);
  EXPECT_EQ(b_->aborts.calls, 0);
  EXPECT_FAILS(Run(*a_, Cdb({0x00})), kRegistrationsPreempted);
  EXPECT_CONFLICT(ReadBlock(*a_));
  EXPECT_GOOD(ReadBlock(*b_));
}

TEST_F(ReservationCommandsTest, ARegistrationOutlivesItsSession) {
  Out(*a_, 6, 0, 0xa);
  Out(*a_, 1, 0xa, 0, 3);
  Logout(*a_);
  EXPECT_CONFLICT(ReadBlock(*b_));
  a_ = &Login(1);
  EXPECT_GOOD(ReadBlock(*a_));
  EXPECT_GOOD(Out(*a_, 3, 0xa, 0));
  EXPECT_GOOD(ReadBlock(*b_));
}

TEST_F(ReservationCommandsTest, Reserve6KeepsAllOthersOutUntilItEnds) {
  EXPECT_GOOD(Run(*a_, Cdb({0x16})));
  EXPECT_GOOD(Run(*a_, Cdb({0x16})));
  EXPECT_CONFLICT(Run(*b_, Cdb({0x16})));
  EXPECT_GOOD(Run(*b_, Cdb({0x17})));
  EXPECT_GOOD(Run(*a_, Cdb({0x1a, 0, 0x3f, 0, 255})));
  for (const CdbBytes& cdb : {Cdb({0x00}), Cdb({0x1a, 0, 0x3f, 0, 255}), Cdb10(0x28, 0, 0, 1),
                              Cdb({0x5e, 0, 0, 0, 0, 0, 0, 0, 8}), Cdb({0x56}), kStart, kStop}) {
    EXPECT_CONFLICT(Run(*b_, cdb));
  }
  EXPECT_CONFLICT(Out(*b_, 6, 0, 1));
  EXPECT_GOOD(Run(*b_, Cdb({0x12, 0, 0, 0, 96})));
  EXPECT_GOOD(Run(*b_, Cdb({0x03, 0, 0, 0, 18})));
  EXPECT_GOOD(Run(*a_, Cdb({0x17})));
  EXPECT_GOOD(Run(*b_, Cdb({0x56})));
  Logout(*b_);
  EXPECT_GOOD(Run(*a_, Cdb({0x16})));
  EXPECT_GOOD(Run(*a_, Cdb({0x57})));
  Out(*a_, 6, 0, 1);
  EXPECT_CONFLICT(Run(*a_, Cdb({0x16})));
}

TEST_F(ReservationCommandsTest, Reserve6AndRegistrationsExcludeEachOtherWhoeverAsks) {
  EXPECT_GOOD(Run(*a_, Cdb({0x16})));
  for (int action = 0; action <= 3; ++action) EXPECT_CONFLICT(In(*a_, action));
  EXPECT_CONFLICT(Out(*a_, 6, 0, 1));
  EXPECT_GOOD(Run(*a_, Cdb({0x17})));
  EXPECT_GOOD(In(*a_, 0));
  EXPECT_GOOD(Out(*a_, 6, 0, 1));
  for (Initiator* who : {a_, b_}) {
    for (const int opcode : {0x16, 0x17, 0x56, 0x57}) {
      EXPECT_CONFLICT(Run(*who, Cdb({opcode})));
    }
  }
  EXPECT_GOOD(Out(*a_, 6, 0, 0));
  EXPECT_GOOD(Run(*b_, Cdb({0x17})));
}

LunOptions WithStore(UnitStore& store, std::string record = "") {
  LunOptions options;
  options.reservation_record = std::move(record);
  options.store = &store;
  return options;
}

TEST_F(ReservationCommandsTest, WhatSurvivesIsSavedBeforeTheAnswerAndRestored) {
  NoteSaves store;
  initiators_.clear();
  MakeUnit(WithStore(store));
  a_ = &Login(1);
  EXPECT_EQ(In(*a_, 2).data[2], 1);
  EXPECT_GOOD(Out(*a_, 6, 0, 0xa, 0, 0x01));
  EXPECT_EQ(store.identity, "a device");
  EXPECT_EQ(store.saves, 1);
  EXPECT_GOOD(Out(*a_, 1, 0xa, 0, 3));
  EXPECT_EQ(store.saves, 2);
  EXPECT_EQ(In(*a_, 2).data[3], 0x81);

  initiators_.clear();
  MakeUnit(WithStore(store, store.saved));
  b_ = &Login(2);
  EXPECT_CONFLICT(ReadBlock(*b_));
  a_ = &Login(1);
  EXPECT_GOOD(ReadBlock(*a_));
  EXPECT_GOOD(Out(*a_, 3, 0xa, 0));
  EXPECT_EQ(store.saved, "");
}

TEST_F(ReservationCommandsTest, WhatCannotBeSavedDoesNotHappen) {
  NoteSaves store;
  initiators_.clear();
  MakeUnit(WithStore(store));
  a_ = &Login(1);
  store.status = absl::ResourceExhaustedError("full");
  EXPECT_FAILS(Out(*a_, 6, 0, 0xa, 0, 0x01), kInternalTargetFailure);
  EXPECT_EQ(In(*a_, 0).data.size(), 8u);
}

// While a registration is saved, another nexus reserves the unit.
class ReserveMeanwhile final : public UnitStore {
 public:
  Task<absl::Status> SaveReservations(std::string, std::string) override {
    EXPECT_TRUE(who->unit->ReserveFor(*who));
    co_return absl::OkStatus();
  }
  Task<absl::Status> SaveBlockBytes(std::string, uint32_t) override { co_return absl::OkStatus(); }
  LunNexus* who = nullptr;
};

TEST_F(ReservationCommandsTest, AReserve6ThatOvertakesARegistrationCanBeReleased) {
  ReserveMeanwhile store;
  initiators_.clear();
  MakeUnit(WithStore(store));
  a_ = &Login(1);
  b_ = &Login(2);
  store.who = b_->nexus.get();
  EXPECT_GOOD(Out(*a_, 6, 0, 0xa, 0, 0x01));
  EXPECT_CONFLICT(In(*a_, 0));
  EXPECT_GOOD(Run(*b_, Cdb({0x17})));
  EXPECT_EQ(In(*a_, 0).data.size(), 16u);
}

TEST_F(ReservationCommandsTest, ADamagedRecordMakesNoUnit) {
  UnitBacking backing;
  backing.device = disk_.get();
  backing.identity = "x";
  LunOptions options;
  options.reservation_record = "junk";
  EXPECT_EQ(LogicalUnit::Create(std::move(backing), *pool_, options).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace sectormap::scsi
