#include "clients/cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace limpet::client {
namespace {

constexpr std::chrono::milliseconds kLook{200};

std::string time_left(double seconds) {
  const auto whole = static_cast<uint64_t>(std::min(seconds, 3.6e8) + 0.5);
  char text[64];
  std::snprintf(text, sizeof text, "%llu:%02u:%02u",
                static_cast<unsigned long long>(whole / 3600),
                static_cast<unsigned>(whole / 60 % 60), static_cast<unsigned>(whole % 60));
  return text;
}

}  // namespace

std::string progress_line(const ProgressFigures& f) {
  char text[160];
  std::string out;
  if (f.size > 0) {
    constexpr uint64_t kWidth = 30;
    const double share =
        std::min(1.0, static_cast<double>(f.position) / static_cast<double>(f.size));
    const auto filled = static_cast<size_t>(share * kWidth);
    std::snprintf(text, sizeof text, "] %3.0f%%  ", share * 100);
    out = "[" + std::string(filled, '#') + std::string(kWidth - filled, '.') + text;
  }
  const double rate = f.seconds > 0 ? static_cast<double>(f.now_answered) / f.seconds : 0;
  std::snprintf(text, sizeof text, "%llu done  %.1f/s  %llu failed",
                static_cast<unsigned long long>(f.answered), rate,
                static_cast<unsigned long long>(f.failed));
  out += text;
  if (f.size > f.position && f.now_position > 0 && f.seconds > 0) {
    const double speed = static_cast<double>(f.now_position) / f.seconds;
    out += "  " + time_left(static_cast<double>(f.size - f.position) / speed) + " left";
  }
  return out;
}

Progress::Progress() : shown_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (shown_) std::fprintf(stderr, "\n");
}

void Progress::show(ProgressFigures figures, bool last) {
  const auto now = Clock::now();
  if (!shown_ || (!last && now - last_ < kLook)) return;
  last_ = now;
  figures.seconds = std::chrono::duration<double>(now - began_).count();
  std::fprintf(stderr, "\r%s\033[K", progress_line(figures).c_str());
}

}  // namespace limpet::client
