#include "clients/cpp/job_stream.h"

#include <algorithm>
#include <utility>

namespace limpet::client {
namespace {

constexpr Millis kLongestWait{60000};
constexpr Millis kShortestBusyWait{10};
constexpr int kAskingsAtEnd = 5;

}  // namespace

bool is_last(const Event& event) {
  return std::holds_alternative<Finished>(event) || std::holds_alternative<Failed>(event) ||
         std::holds_alternative<Refused>(event) || std::holds_alternative<Lost>(event);
}

bool worth_another_try(const Event& last) {
  const auto* refused = std::get_if<Refused>(&last);
  return refused != nullptr &&
         (refused->code == ErrorCode::storage || refused->code == ErrorCode::no_worker);
}

JobStream::JobStream(std::string job_id, std::shared_ptr<const JobSpec> spec, int64_t from_index,
                     Millis ask_again)
    : job_id_(std::move(job_id)),
      spec_(std::move(spec)),
      base_(from_index),
      ask_again_(ask_again),
      wait_(ask_again) {}

void JobStream::ask(Time now, std::vector<ClientMessage>& out) {
  due_ = now + wait_;
  wait_ = std::max(ask_again_, std::min(2 * wait_, kLongestWait));
  if (spec_ != nullptr && !accepted_) {
    out.push_back(Submit{spec_, true, next_index()});
  } else {
    out.push_back(Attach{job_id_, replay_ ? base_ : next_index()});
  }
  if (cancel_wanted_) out.push_back(Cancel{job_id_});
}

void JobStream::on(Time now, BrokerToClient message, std::vector<Event>& out) {
  if (over_) return;
  const size_t before = out.size();
  std::visit([&](auto&& m) { on_message(now, std::move(m), out); }, std::move(message));
  if (over_ || out.size() == before) return;  // no news, such as the answer to an Attach
  if (std::holds_alternative<Busy>(out.back())) return;  // which says itself when to ask
  wait_ = ask_again_;
  due_ = now + wait_;
}

void JobStream::give_up(std::string why, std::vector<Event>& out) {
  if (!over_) end(Lost{job_id_, false, std::move(why)}, out);
}

void JobStream::end(Event last, std::vector<Event>& out) {
  over_ = true;
  due_ = Time::max();
  out.push_back(std::move(last));
}

void JobStream::contradiction(std::string what, std::vector<Event>& out) {
  end(Lost{job_id_, true, std::move(what)}, out);
}

void JobStream::on_message(Time, Accepted&& m, std::vector<Event>& out) {
  if (!std::exchange(accepted_, true)) out.push_back(std::move(m));
}

void JobStream::on_message(Time now, Refused&& m, std::vector<Event>& out) {
  if (m.code == ErrorCode::busy) {
    if (!accepted_ && !std::exchange(busy_told_, true)) {
      out.emplace_back(Busy{job_id_, std::move(m.message), m.retry_after_ms});
    }
    wait_ = ask_again_;
    due_ = now + std::max(Millis(m.retry_after_ms), kShortestBusyWait);
    return;
  }
  if (accepted_ && std::exchange(cancel_wanted_, false)) {
    due_ = now;  // it was over before the cancellation: its outcome is there to be asked for
    return;
  }
  if (accepted_ && m.code == ErrorCode::not_found) {
    contradiction("the broker accepted this job and knows it no more", out);
    return;
  }
  end(std::move(m), out);
}

void JobStream::on_message(Time, Started&& m, std::vector<Event>& out) {
  if (m.attempt <= last_attempt_) return;
  last_attempt_ = m.attempt;
  out.push_back(std::move(m));
}

// Length of the text before the token at `index`, where that is known.
int64_t JobStream::offset_before(int64_t index) const {
  if (index == base_) return 0;
  if (index < base_ || index > next_index()) return kUnknown;
  return ends_[static_cast<size_t>(index - base_ - 1)];
}

bool JobStream::same_as_before(const Tokens& m) const {
  for (size_t i = 0; i < m.ids.size(); ++i) {
    const int64_t at = m.first_index + static_cast<int64_t>(i) - base_;
    if (at < 0) continue;
    if (at >= static_cast<int64_t>(ids_.size())) break;
    if (ids_[static_cast<size_t>(at)] != m.ids[i]) return false;
  }
  return true;
}

// Chunks that come again need not be cut as before; their ends are as good.
void JobStream::learn_ends(const Tokens& m, size_t end_offset) {
  const int64_t last = m.first_index + static_cast<int64_t>(m.ids.size()) - 1 - base_;
  if (last >= 0 && last < static_cast<int64_t>(ends_.size())) {
    ends_[static_cast<size_t>(last)] = static_cast<int64_t>(end_offset);
  }
}

// Gives the follower the part of the chunk from next_index() on, with its text from `text_from`.
void JobStream::accept(Tokens&& m, size_t text_from, std::vector<Event>& out) {
  const auto skip = static_cast<ptrdiff_t>(next_index() - m.first_index);
  m.first_index += skip;
  m.ids.erase(m.ids.begin(), m.ids.begin() + skip);
  if (!m.logprobs.empty()) m.logprobs.erase(m.logprobs.begin(), m.logprobs.begin() + skip);
  m.text.erase(0, text_from);
  ids_.insert(ids_.end(), m.ids.begin(), m.ids.end());
  ends_.resize(ids_.size(), kUnknown);
  text_ += m.text;
  if (!ends_.empty()) ends_.back() = static_cast<int64_t>(text_.size());
  replay_ = false;
  out.push_back(std::move(m));
}

void JobStream::on_message(Time now, Tokens&& m, std::vector<Event>& out) {
  const int64_t end_index = m.first_index + static_cast<int64_t>(m.ids.size());
  if (!same_as_before(m)) {
    contradiction(
        "tokens from index " + std::to_string(m.first_index) + " differ from those given before",
        out);
    return;
  }
  if (m.first_index > next_index()) {  // something was lost on the way
    due_ = now;
    return;
  }
  if (m.first_index == next_index()) {
    if (!m.ids.empty()) accept(std::move(m), 0, out);
    return;
  }
  const int64_t before = offset_before(m.first_index);
  if (before != kUnknown) {
    const size_t known = std::min(m.text.size(), text_.size() - static_cast<size_t>(before));
    if (text_.compare(static_cast<size_t>(before), known, m.text, 0, known) != 0) {
      contradiction(
          "text from index " + std::to_string(m.first_index) + " differs from that given before",
          out);
    } else if (end_index > next_index()) {
      accept(std::move(m), known, out);
    } else {
      learn_ends(m, static_cast<size_t>(before) + m.text.size());
    }
  } else if (end_index > next_index()) {
    if (m.first_index < base_) {  // begins before what was asked for: rather too much text
      if (ids_.empty()) accept(std::move(m), 0, out);
      return;
    }
    replay_ = true;
    due_ = now;
  }
}

void JobStream::on_message(Time now, Finished&& m, std::vector<Event>& out) {
  const bool whole = m.reason == FinishReason::stop || m.reason == FinishReason::length;
  if (whole && m.usage.output_tokens < next_index() && !ids_.empty()) {
    contradiction("the job ended with " + std::to_string(m.usage.output_tokens) + " tokens, but " +
                      std::to_string(next_index()) + " were given",
                  out);
    return;
  }
  if (whole && m.usage.output_tokens > next_index() && ++askings_at_end_ <= kAskingsAtEnd) {
    due_ = now;  // the outcome has overtaken tokens that were lost on the way
    return;
  }
  if (whole && m.usage.output_tokens > next_index()) {
    end(Lost{job_id_, false,
             "the broker does not give the tokens from index " + std::to_string(next_index()) +
                 " on; attach later"},
        out);
    return;
  }
  if (!m.tail_text.empty()) {
    out.emplace_back(Tokens{job_id_, next_index(), {}, std::exchange(m.tail_text, {}), {}});
  }
  end(std::move(m), out);
}

void JobStream::on_message(Time, Failed&& m, std::vector<Event>& out) { end(std::move(m), out); }

}  // namespace limpet::client
