// SPDX-License-Identifier: Apache-2.0
// DaemonProcess: a real sectormapd of the same build, on free ports, in a scratch directory.
#pragma once

#include <fcntl.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

namespace sectormap::testing {

class DaemonProcess {
 public:
  struct Exit {
    int code = -1;
    std::string errors;  // what it wrote to stderr
  };

  explicit DaemonProcess(std::string directory) : directory_(std::move(directory)) {}
  ~DaemonProcess() {
    if (pid_ > 0) Kill();
  }
  DaemonProcess(const DaemonProcess&) = delete;
  DaemonProcess& operator=(const DaemonProcess&) = delete;

  std::string state_dir() const { return directory_ + "/state"; }
  std::string device_dir() const { return state_dir() + "/devices"; }
  std::string control() const { return "unix:" + state_dir() + "/control.sock"; }

  // The configuration file says where to listen, not the command line.
  void ListenByConfig() { listen_.clear(); }
  void ListenOn(const std::string& address) { listen_[1] = address; }
  // `call` runs in the new process before sectormapd does; it must not allocate.
  void BeforeExec(void (*call)()) { before_exec_ = call; }
  void ShowMetricsOn(const std::string& address) { metrics_ = address; }

  // Starts it and reads its lines up to `ready`; false if it ended before.
  bool Start(std::vector<std::string> more = {}) {
    std::vector<std::string> words{SECTORMAPD, "--state-dir", state_dir(), "--reactors", "2"};
    words.insert(words.end(), listen_.begin(), listen_.end());
    words.insert(words.end(), {"--metrics", metrics_});
    words.insert(words.end(), more.begin(), more.end());
    int out[2];
    if (pipe2(out, O_CLOEXEC) != 0) return false;
    const int errors = open(ErrorFile().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(out[1], STDOUT_FILENO);
      dup2(errors, STDERR_FILENO);
      if (before_exec_ != nullptr) before_exec_();
      execv(SECTORMAPD, argv.data());
      _exit(127);
    }
    close(out[1]);
    close(errors);
    lines_.clear();
    FILE* stream = fdopen(out[0], "r");
    char line[4096];
    while (std::fgets(line, sizeof line, stream) != nullptr) {
      lines_.emplace_back(line);
      lines_.back().pop_back();
      if (lines_.back() == "ready") break;
    }
    std::fclose(stream);
    return !lines_.empty() && lines_.back() == "ready";
  }

  // What it said on stdout up to `ready`.
  const std::vector<std::string>& lines() const { return lines_; }
  // The rest of the line that begins with `prefix`; empty if there is none.
  std::string Said(const std::string& prefix) const {
    for (const std::string& line : lines_) {
      if (line.starts_with(prefix)) return line.substr(prefix.size());
    }
    return "";
  }

  // What it has written to stderr so far.
  std::string Errors() const {
    std::ifstream stream(ErrorFile());
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  }

  pid_t pid() const { return pid_; }
  void Signal(int signal) { kill(pid_, signal); }

  // Waits for its end. 128 + signal if one ended it.
  Exit Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), Errors()};
  }
  void Kill() {
    Signal(SIGKILL);
    Wait();
  }

  // A connection of its own each time: gRPC would share one with its back-off.
  std::shared_ptr<grpc::Channel> Connect() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(control(), grpc::InsecureChannelCredentials(), arguments);
  }

 private:
  std::string ErrorFile() const { return directory_ + "/stderr"; }

  const std::string directory_;
  std::vector<std::string> listen_{"--listen", "127.0.0.1:0"};
  std::string metrics_ = "127.0.0.1:0";
  void (*before_exec_)() = nullptr;
  pid_t pid_ = -1;
  std::vector<std::string> lines_;
};

}  // namespace sectormap::testing
