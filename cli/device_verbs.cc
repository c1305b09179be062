// SPDX-License-Identifier: Apache-2.0
// create, load, suspend, resume, clear, remove, rename, message, wait.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <istream>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/dm_forms.h"
#include "cli/verbs.h"

namespace sectormap::cli {
namespace {

using DeviceMapper = v1::DeviceMapper::Stub;

// Where a table comes from: --table, --table-file or the file as dmsetup takes it, standard input.
struct TableOptions {
  std::string text;
  std::string file;
  bool read_only = false;
  CLI::Option* text_option = nullptr;
  CLI::Option* file_option = nullptr;

  void AddTo(CLI::App* verb) {
    text_option =
        verb->add_option("--table", text, "The table: `START LENGTH TYPE ARGS...`, one row a line");
    file_option = verb->add_option("--table-file,table_file", file,
                                   "Read the table from this file; `-` is standard input");
    text_option->excludes(file_option);
    verb->add_flag("-r,--readonly", read_only, "Refuse writes");
  }
};

// The daemon takes no more (kRequestBytesMax of its control server), and an image of a disk that is
// named by mistake should not be read to its end.
constexpr uintmax_t kTableMebibytesMax = 128;
constexpr uintmax_t kTableBytesMax = kTableMebibytesMax << 20;

// Blocks, not characters: a table may have a hundred megabytes.
constexpr std::streamsize kReadBytes = 1 << 20;

// Room for `bytes`, in huge pages where the kernel has any: to zero and map 4 KiB after 4 KiB takes
// longer than to read them.
void ReserveLarge(size_t bytes, std::string& text) {
  text.reserve(bytes);
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(text.data());
  const uintptr_t first_page = (begin + page - 1) / page * page;
  if (first_page >= begin + bytes) return;
  static_cast<void>(
      madvise(reinterpret_cast<void*>(first_page), begin + bytes - first_page, MADV_HUGEPAGE));
}

// What went wrong; empty if nothing did.
std::string ReadAll(std::istream& in, std::string& text) {
  while (in && text.size() <= kTableBytesMax) {
    const size_t before = text.size();
    text.resize(before + kReadBytes);
    in.read(text.data() + before, kReadBytes);
    text.resize(before + static_cast<size_t>(in.gcount()));
  }
  if (in.bad()) return std::strerror(errno);
  if (text.size() <= kTableBytesMax) return "";
  return absl::StrCat("longer than ", kTableMebibytesMax, " MiB, which no table may be");
}

// Code kOk, or the error has been shown.
struct TableText {
  ExitCode code;
  std::string text;
};

TableText ReadTable(Session& session, absl::string_view verb, const TableOptions& options) {
  const auto fail = [&](ExitCode code, absl::string_view reason) {
    return TableText{session.ShowError(code, absl::StrCat(verb, ": ", reason)), ""};
  };
  if (options.text_option->count() > 0) return {ExitCode::kOk, options.text};
  const bool asked_for = !options.file.empty();
  if (asked_for && options.file != "-") {
    const std::string what = absl::StrCat("table file ", options.file, ": ");
    std::ifstream file(options.file);
    if (!file) return fail(ExitCode::kError, absl::StrCat(what, std::strerror(errno)));
    std::string text;
    std::error_code no_file;  // then its length is not known
    const uintmax_t length = std::filesystem::file_size(options.file, no_file);
    if (!no_file) ReserveLarge(std::min(length, kTableBytesMax) + kReadBytes, text);
    const std::string wrong = ReadAll(file, text);
    if (!wrong.empty()) return fail(ExitCode::kError, absl::StrCat(what, wrong));
    return {ExitCode::kOk, std::move(text)};
  }
  constexpr char kHow[] = "Give the table with --table or --table-file, or on standard input.";
  if (!asked_for && session.terminal().in_is_terminal) {
    return fail(ExitCode::kUsage, absl::StrCat("no table. ", kHow));
  }
  std::istream& in = session.terminal().in;
  std::string text;
  const std::string wrong = ReadAll(in, text);
  if (!wrong.empty()) return fail(ExitCode::kError, absl::StrCat("standard input: ", wrong));
  if (text.empty()) {
    return fail(ExitCode::kUsage, absl::StrCat("standard input is empty. ", kHow));
  }
  return {ExitCode::kOk, std::move(text)};
}

// dmsetup says nothing when all is well; -v shows the device as it is now.
void ShowChanged(Session& session, const std::vector<v1::Device>& devices, bool one) {
  if (session.json()) {
    std::vector<std::string> elements;
    for (const v1::Device& device : devices) elements.push_back(JsonOf(device));
    if (one && elements.size() == 1) {
      session.out() << elements.front() << '\n';
    } else {
      session.PrintJson(elements);
    }
  } else if (session.verbose()) {
    for (const v1::Device& device : devices) session.out() << InfoBlock(device);
  }
}

// The same call for several devices: goes on after a refusal, and gives the first one's code.
template <typename Request>
ExitCode ForEachDevice(Session& session, absl::string_view verb,
                       const std::vector<std::string>& names,
                       grpc::Status (DeviceMapper::*method)(grpc::ClientContext*, const Request&,
                                                            v1::Device*),
                       Request request) {
  ExitCode first_failure = ExitCode::kOk;
  std::vector<v1::Device> changed;
  for (const std::string& name : names) {
    request.set_name(name);
    v1::Device device;
    const ExitCode code = session.Call(absl::StrCat(verb, " ", name), method, request, &device);
    if (code == ExitCode::kOk) changed.push_back(device);
    if (first_failure == ExitCode::kOk) first_failure = code;
  }
  if (!changed.empty() || names.size() > 1) ShowChanged(session, changed, names.size() == 1);
  return first_failure;
}

void AddCreate(Verbs& verbs) {
  struct Options {
    std::string name, uuid;
    TableOptions table;
    bool no_table = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = verbs.Add(
      "create", "Make a device, load its table and let I/O go",
      "sectormap create vol --table '0 2097152 linear /var/lib/sectormap/devices/vol.img 0'\n"
      "  sectormap create vol < table.txt",
      [options](Session& session) {
        v1::CreateRequest request;
        request.set_name(options->name);
        request.set_uuid(options->uuid);
        request.set_read_only(options->table.read_only);
        if (!options->no_table) {
          TableText table = ReadTable(session, "create", options->table);
          if (table.code != ExitCode::kOk) return table.code;
          request.set_table(std::move(table.text));
        }
        v1::Device device;
        const ExitCode code = session.Call("create " + options->name, &DeviceMapper::Create,
                                           request, &device, request.table());
        if (code == ExitCode::kOk) ShowChanged(session, {device}, true);
        return code;
      });
  verb->add_option("name", options->name, "The new device's name")->required();
  options->table.AddTo(verb);
  verb->add_option("-u,--uuid", options->uuid, "A name that never changes");
  verb->add_flag("--notable,-n", options->no_table, "Make the device without a table")
      ->excludes(options->table.text_option)
      ->excludes(options->table.file_option);
}

void AddLoad(Verbs& verbs) {
  struct Options {
    std::string name;
    TableOptions table;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = verbs.Add(
      "load", "Put a table into the inactive slot; `resume` makes it the live one",
      "sectormap load vol --table '0 4194304 linear /var/lib/sectormap/devices/vol.img 0'",
      [options](Session& session) {
        TableText table = ReadTable(session, "load", options->table);
        if (table.code != ExitCode::kOk) return table.code;
        v1::LoadRequest request;
        request.set_name(options->name);
        request.set_table(std::move(table.text));
        request.set_read_only(options->table.read_only);
        v1::Device device;
        const ExitCode code = session.Call("load " + options->name, &DeviceMapper::Load, request,
                                           &device, request.table());
        if (code == ExitCode::kOk) ShowChanged(session, {device}, true);
        return code;
      });
  verb->alias("reload");
  verb->add_option("name", options->name, "The device")->required();
  options->table.AddTo(verb);
}

void AddSuspend(Verbs& verbs) {
  struct Options {
    std::vector<std::string> names;
    bool no_flush = false;
    bool no_lock_fs = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = verbs.Add("suspend", "Hold new I/O and wait for what is under way",
                             "sectormap suspend vol", [options](Session& session) {
                               v1::SuspendRequest request;
                               request.set_no_flush(options->no_flush);
                               return ForEachDevice(session, "suspend", options->names,
                                                    &DeviceMapper::Suspend, request);
                             });
  verb->add_option("name", options->names, "The devices")->required();
  verb->add_flag("--noflush", options->no_flush, "Do not flush the backing devices");
  verb->add_flag("--nolockfs", options->no_lock_fs,
                 "Taken for dmsetup's sake: this side never has a filesystem to lock");
}

void AddResumeAndClear(Verbs& verbs) {
  auto resumed = std::make_shared<std::vector<std::string>>();
  verbs
      .Add("resume", "Make the inactive table the live one, if there is one, and let I/O go on",
           "sectormap resume vol",
           [resumed](Session& session) {
             return ForEachDevice(session, "resume", *resumed, &DeviceMapper::Resume,
                                  v1::ResumeRequest());
           })
      ->add_option("name", *resumed, "The devices")
      ->required();
  auto cleared = std::make_shared<std::vector<std::string>>();
  verbs
      .Add("clear", "Drop the inactive table", "sectormap clear vol",
           [cleared](Session& session) {
             return ForEachDevice(session, "clear", *cleared, &DeviceMapper::Clear,
                                  v1::ClearRequest());
           })
      ->add_option("name", *cleared, "The devices")
      ->required();
}

void AddRemove(Verbs& verbs) {
  struct Options {
    std::vector<std::string> names;
    bool force = false, deferred = false, missing_ok = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = verbs.Add("remove", "Remove a device; its data stays where it is",
                             "sectormap remove vol", [options](Session& session) {
                               ExitCode first_failure = ExitCode::kOk;
                               std::vector<std::string> removed;
                               for (const std::string& name : options->names) {
                                 v1::RemoveRequest request;
                                 request.set_name(name);
                                 request.set_force(options->force);
                                 request.set_deferred(options->deferred);
                                 request.set_allow_missing(options->missing_ok);
                                 v1::RemoveResponse response;
                                 const ExitCode code = session.Call(
                                     "remove " + name, &DeviceMapper::Remove, request, &response);
                                 if (code == ExitCode::kOk)
                                   removed.push_back(JsonWithName(name, response));
                                 if (first_failure == ExitCode::kOk) first_failure = code;
                               }
                               if (session.json() && options->names.size() > 1) {
                                 session.PrintJson(removed);
                               } else if (session.json() && !removed.empty()) {
                                 session.out() << removed.front() << '\n';
                               }
                               return first_failure;
                             });
  verb->add_option("name", options->names, "The devices")->required();
  verb->add_flag("-f,--force", options->force,
                 "First let every I/O fail, so that backing devices are let go; also if it has "
                 "snapshots");
  verb->add_flag("--deferred", options->deferred,
                 "If it is open: remove it when nobody has it open");
  verb->add_flag("--missing-ok", options->missing_ok, "Succeed if there is no such device");
}

void AddRename(Verbs& verbs) {
  struct Options {
    std::string name, new_name, uuid;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      verbs.Add("rename", "Give a device another name, or a UUID if it has none",
                "sectormap rename vol archive\n  sectormap rename vol --setuuid LVM-0123",
                [options](Session& session) {
                  v1::RenameRequest request;
                  request.set_name(options->name);
                  request.set_new_name(options->new_name);
                  request.set_new_uuid(options->uuid);
                  if (options->new_name.empty() == options->uuid.empty()) {
                    return session.ShowError(ExitCode::kUsage,
                                             "rename: give either the new name or --setuuid UUID");
                  }
                  v1::Device device;
                  const ExitCode code = session.Call("rename " + options->name,
                                                     &DeviceMapper::Rename, request, &device);
                  if (code == ExitCode::kOk) ShowChanged(session, {device}, true);
                  return code;
                });
  verb->add_option("name", options->name, "The device")->required();
  verb->add_option("new_name", options->new_name, "Its new name");
  verb->add_option("--setuuid", options->uuid, "Its UUID from now on");
}

void AddMessage(Verbs& verbs) {
  struct Options {
    std::string name;
    uint64_t sector = 0;
    std::vector<std::string> words;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      verbs.Add("message", "Send a message to the target that maps a sector",
                "sectormap message vol 0 @cancel_deferred_remove", [options](Session& session) {
                  v1::MessageRequest request;
                  request.set_name(options->name);
                  request.set_sector(options->sector);
                  request.set_message(absl::StrJoin(options->words, " "));
                  v1::MessageResponse response;
                  const ExitCode code = session.Call("message " + options->name,
                                                     &DeviceMapper::Message, request, &response);
                  if (code != ExitCode::kOk) return code;
                  if (session.json()) {
                    session.PrintJson(response);
                  } else if (!response.answer().empty()) {
                    session.out() << response.answer() << '\n';
                  }
                  return code;
                });
  verb->add_option("name", options->name, "The device")->required();
  verb->add_option("sector", options->sector, "A sector of the row that is meant")
      ->check(Unsigned())
      ->required();
  verb->add_option("words", options->words, "The message")->required();
}

void AddWait(Verbs& verbs) {
  struct Options {
    std::string name;
    uint32_t event_number = 0;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      verbs.Add("wait", "Sleep until the device's event number differs from the one given",
                "sectormap wait vol 3", [options](Session& session) {
                  v1::WaitRequest request;
                  request.set_name(options->name);
                  request.set_event_number(options->event_number);
                  v1::Device device;
                  const ExitCode code =
                      session.Call("wait " + options->name, &DeviceMapper::Wait, request, &device);
                  if (code == ExitCode::kOk) ShowChanged(session, {device}, true);
                  return code;
                });
  verb->add_option("name", options->name, "The device")->required();
  verb->add_option("event_number", options->event_number,
                   "The last one seen, as `info` shows it; 0 unless given")
      ->check(Unsigned());
}

}  // namespace

void AddDeviceVerbs(Verbs& verbs) {
  verbs.Group("Devices");
  AddCreate(verbs);
  AddLoad(verbs);
  AddSuspend(verbs);
  AddResumeAndClear(verbs);
  AddRemove(verbs);
  AddRename(verbs);
  AddMessage(verbs);
  AddWait(verbs);
}

}  // namespace sectormap::cli
