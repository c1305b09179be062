// SPDX-License-Identifier: Apache-2.0
// export, unexport, exports, sessions.
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "cli/dm_forms.h"
#include "cli/secret_file.h"
#include "cli/verbs.h"

namespace sectormap::cli {
namespace {

using Iscsi = v1::Iscsi::Stub;

struct ChapOptions {
  std::string user, secret_file;

  void AddTo(CLI::App* verb, const std::string& prefix, const std::string& who) {
    user_option = verb->add_option("--" + prefix + "-user", user, who);
    CLI::Option* file = verb->add_option("--" + prefix + "-secret-file", secret_file,
                                         "File with the secret; not readable by everybody");
    user_option->needs(file);
    file->needs(user_option);
  }

  // Leaves `credentials` alone if none were asked for.
  absl::Status Read(v1::ChapCredentials* (v1::ExportRequest::*field)(),
                    v1::ExportRequest* request) const {
    if (user_option->count() == 0) return absl::OkStatus();
    absl::StatusOr<std::string> secret = ReadSecretFile(secret_file);
    if (!secret.ok()) return secret.status();
    v1::ChapCredentials* credentials = (request->*field)();
    credentials->set_user(user);
    credentials->set_secret(*std::move(secret));
    return absl::OkStatus();
  }

  CLI::Option* user_option = nullptr;
};

}  // namespace

void AddExportVerb(Verbs& verbs, const std::string& example) {
  struct Options {
    std::string name, iqn;
    uint64_t lun = 0;
    bool read_only = false;
    ChapOptions chap, mutual_chap;
    std::vector<std::string> allowed;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = verbs.Add(
      "export", "Make a device a LUN of an iSCSI target",
      example + "\n  " + example +
          " --chap-user backup --chap-secret-file /etc/sectormap/backup.secret \\\n"
          "      --allow iqn.1993-08.org.debian:01:abcdef",
      [options](Session& session) {
        v1::ExportRequest request;
        request.set_device(options->name);
        request.set_iqn(options->iqn);
        request.set_lun(options->lun);
        request.set_read_only(options->read_only);
        request.mutable_allowed_initiators()->Assign(options->allowed.begin(),
                                                     options->allowed.end());
        absl::Status read = options->chap.Read(&v1::ExportRequest::mutable_chap, &request);
        if (read.ok()) {
          read = options->mutual_chap.Read(&v1::ExportRequest::mutable_mutual_chap, &request);
        }
        if (!read.ok()) {
          return session.ShowError(ExitCode::kError, absl::StrCat("export: ", read.message()));
        }
        v1::Export entry;
        const ExitCode code =
            session.Call("export " + options->name, &Iscsi::Export, request, &entry);
        if (code != ExitCode::kOk) return code;
        if (session.json()) {
          session.PrintJson(entry);
        } else {
          session.out() << entry.device() << " is LUN " << entry.lun() << " of " << entry.iqn()
                        << '\n';
        }
        return code;
      });
  verb->add_option("name", options->name, "The device")->required();
  verb->add_option(
      "--iqn", options->iqn,
      "The target's name; unless given iqn.2026-11.io.sectormap:NAME, in lower case and with "
      "`-` for what an iSCSI name cannot hold");
  verb->add_option("--lun", options->lun, "The LUN number; 0 unless given")->check(Unsigned());
  verb->add_flag("-r,--readonly", options->read_only, "Refuse writes");
  options->chap.AddTo(verb, "chap", "Who may log in: the name an initiator proves by CHAP");
  options->mutual_chap.AddTo(verb, "mutual-chap", "The name the target proves in its turn");
  options->mutual_chap.user_option->needs(options->chap.user_option);
  verb->add_option("--allow", options->allowed,
                   "Only this initiator name may log in; repeat it for more")
      ->allow_extra_args(false);
}

namespace {

void AddUnexport(Verbs& verbs) {
  struct Options {
    std::string name, iqn;
    uint64_t lun = 0;
    CLI::Option* lun_option = nullptr;
    bool missing_ok = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = verbs.Add("unexport", "Take a device's LUNs away", "sectormap unexport vol",
                             [options](Session& session) {
                               v1::UnexportRequest request;
                               request.set_device(options->name);
                               request.set_iqn(options->iqn);
                               if (options->lun_option->count() > 0) request.set_lun(options->lun);
                               request.set_allow_missing(options->missing_ok);
                               v1::UnexportResponse response;
                               const ExitCode code =
                                   session.Call("unexport " + options->name, &Iscsi::Unexport,
                                                request, &response);
                               if (code == ExitCode::kOk && session.json())
                                 session.PrintJson(response);
                               return code;
                             });
  verb->add_option("name", options->name, "The device")->required();
  verb->add_option("--iqn", options->iqn, "Only from this target");
  options->lun_option =
      verb->add_option("--lun", options->lun, "Only the LUN of this number")->check(Unsigned());
  verb->add_flag("--missing-ok", options->missing_ok, "Succeed if it is not exported");
}

std::string AccessText(const v1::Export& entry) {
  std::vector<std::string> conditions;
  if (!entry.chap_user().empty()) conditions.push_back("chap " + entry.chap_user());
  if (!entry.mutual_chap_user().empty()) conditions.push_back("mutual " + entry.mutual_chap_user());
  if (!entry.allowed_initiators().empty()) {
    conditions.push_back("only " + absl::StrJoin(entry.allowed_initiators(), " "));
  }
  return conditions.empty() ? "everybody" : absl::StrJoin(conditions, ", ");
}

ExitCode ShowExports(Session& session) {
  v1::ListExportsResponse response;
  const ExitCode code =
      session.Call("exports", &Iscsi::ListExports, v1::ListExportsRequest(), &response);
  if (code != ExitCode::kOk) return code;
  if (session.json()) {
    std::vector<std::string> elements;
    for (const v1::Export& entry : response.exports()) elements.push_back(JsonOf(entry));
    session.PrintJson(elements);
    return code;
  }
  if (response.exports().empty()) {
    session.out() << "No exports found\n";
    return code;
  }
  std::vector<std::vector<std::string>> rows = {
      {"DEVICE", "TARGET", "LUN", "MODE", "SIZE", "SESSIONS", "ACCESS"}};
  for (const v1::Export& entry : response.exports()) {
    rows.push_back({entry.device(), entry.iqn(), absl::StrCat(entry.lun()),
                    entry.read_only() ? "ro" : "rw", HumanSize(entry.size_sectors()),
                    absl::StrCat(entry.session_count()), AccessText(entry)});
  }
  session.out() << Columns(rows);
  return code;
}

std::string DigestText(const v1::Session& session) {
  if (session.header_digest() && session.data_digest()) return "header,data";
  if (session.header_digest()) return "header";
  return session.data_digest() ? "data" : "none";
}

ExitCode ShowSessions(Session& session) {
  v1::ListSessionsResponse response;
  const ExitCode code =
      session.Call("sessions", &Iscsi::ListSessions, v1::ListSessionsRequest(), &response);
  if (code != ExitCode::kOk) return code;
  if (session.json()) {
    std::vector<std::string> elements;
    for (const v1::Session& entry : response.sessions()) elements.push_back(JsonOf(entry));
    session.PrintJson(elements);
    return code;
  }
  if (response.sessions().empty()) {
    session.out() << "No sessions found\n";
    return code;
  }
  std::vector<std::vector<std::string>> rows = {
      {"ID", "INITIATOR", "TARGET", "FROM", "PORTAL", "SINCE", "DIGESTS", "REACTOR"}};
  for (const v1::Session& entry : response.sessions()) {
    rows.push_back(
        {absl::StrCat(entry.id()), entry.initiator_name(),
         entry.iqn().empty() ? "(discovery)" : entry.iqn(), entry.peer_address(),
         entry.local_address(),
         absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixSeconds(entry.login_unix_seconds()),
                          absl::UTCTimeZone()),
         DigestText(entry), absl::StrCat(entry.reactor())});
  }
  session.out() << Columns(rows);
  return code;
}

}  // namespace

void AddExportVerbs(Verbs& verbs) {
  verbs.Group("iSCSI");
  AddExportVerb(verbs, "sectormap export vol");
  AddUnexport(verbs);
  verbs.Add("exports", "List what initiators can see", "sectormap -o json exports", ShowExports);
  verbs.Add("sessions", "List who is logged in", "sectormap sessions", ShowSessions);
}

}  // namespace sectormap::cli
