// SPDX-License-Identifier: Apache-2.0
// TestDirectory: an empty directory that goes away with the test.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

namespace sectormap {

class TestDirectory {
 public:
  // Below `parent`; by default where the test runs, which is the build tree: a real disk, on which
  // O_DIRECT works, and not what a full /tmp may be.
  explicit TestDirectory(const std::filesystem::path& parent = std::filesystem::current_path()) {
    std::string name = (std::filesystem::canonical(parent) / "sectormap-test-XXXXXX").string();
    if (mkdtemp(name.data()) != nullptr) path_ = name;
    EXPECT_FALSE(path_.empty()) << "no directory below " << parent;
  }
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;
  ~TestDirectory() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

  // A sparse file; gives its path.
  std::string MakeFile(const std::string& name, uint64_t bytes) const {
    std::ofstream(path_ / name).close();
    std::filesystem::resize_file(path_ / name, bytes);
    return *this / name;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace sectormap
