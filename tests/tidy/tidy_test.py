#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each rule of tidy.py refuses what it is there for, and lets the usual shapes pass."""

import unittest

import tidy


def found(rule, path, text):
    return [line for line, _ in rule(path, text)]


class TidyTest(unittest.TestCase):
    def test_refuses_an_include_that_runs_upward(self):
        self.assertEqual(found(tidy.check_doors, "core/map/a.cc",
                               '#include "core/base/units.h"\n#include "server/scsi/lun.h"\n'), [2])
        self.assertEqual(found(tidy.check_doors, "core/base/a.h", '#include "core/map/target.h"\n'), [1])
        self.assertEqual(found(tidy.check_doors, "server/scsi/lun.cc",
                               '#include "server/iscsi/portal.h"\n'), [1])
        self.assertEqual(found(tidy.check_doors, "cli/a.cc", '#include "core/map/target.h"\n'), [1])

    def test_lets_an_include_through_a_door(self):
        self.assertEqual(found(tidy.check_doors, "server/iscsi/a.cc",
                               '#include <vector>\n#include "server/scsi/lun.h"\n'), [])
        self.assertEqual(found(tidy.check_doors, "server/main.cc",
                               '#include "targets/builtin_targets.h"\n'), [])

    def test_keeps_wire_formats_in_their_rooms(self):
        self.assertEqual(found(tidy.check_doors, "server/control/a.cc",
                               '#include "server/iscsi/pdu.h"\n'), [1])

    def test_keeps_foreign_libraries_out_of_core(self):
        self.assertEqual(found(tidy.check_doors, "targets/a.cc", "#include <grpcpp/grpcpp.h>\n"), [1])
        self.assertEqual(found(tidy.check_doors, "core/map/a.cc", '#include "absl/status/status.h"\n'),
                         [])

    def test_wants_a_licence_line(self):
        self.assertEqual(found(tidy.check_licence, "a.cc", "int x;\n"), [1])
        self.assertEqual(found(tidy.check_licence, "a.sh",
                               "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n"), [])

    def test_refuses_unfinished_work(self):
        self.assertEqual(found(tidy.check_unfinished, "a.cc", "// TO" + "DO: later\n"), [1])

    def test_refuses_a_long_file(self):
        self.assertEqual(len(found(tidy.check_length, "a.cc", "\n" * (tidy.LINES_MAX + 1))), 1)
        self.assertEqual(found(tidy.check_length, "a.cc", "\n" * tidy.LINES_MAX), [])

    def test_refuses_a_capturing_lambda_that_is_a_coroutine(self):
        for text in ("auto f = [this]() -> Task<void> {", "Detach([&] -> Task<int> {",
                     "[a = b](std::span<int> x, int (*f)(int)) mutable -> Task<IoStatus> {",
                     "[this](int x)\n    -> sectormap::Task<void> {"):
            self.assertEqual(found(tidy.check_lambda_coroutines, "a.cc", text), [1], text)

    def test_lets_other_lambdas_pass(self):
        for text in ("[](Task<void> owned) -> Task<void> {", "[this] { return 1; }",
                     "[&](int x) -> int {", "values[i]->Submit(x)",
                     "class [[nodiscard]] Task {\n  explicit Task(Handle h);"):
            self.assertEqual(found(tidy.check_lambda_coroutines, "a.cc", text), [], text)

    def test_wants_a_test_of_every_source(self):
        files = {"core/map/a.cc": '#include "core/map/part.h"\n#include "core/block/c.h"\n',
                 "core/map/part.cc": '#include "core/map/shared.h"\n', "core/map/part.h": "",
                 "core/map/other_part.cc": '#include "core/map/shared.h"\n', "core/map/shared.h": "", "core/map/b.cc": "", "core/block/c.cc": "",
                 "targets/d.cc": "", "tests/targets/d_test.cc": "",
                 "server/main.cc": "", "tests/core/map/a_test.cc": '#include "core/map/a.h"\n'}
        self.assertEqual(list(tidy.untested(files)), ["core/block/c.cc", "core/map/b.cc"])


if __name__ == "__main__":
    unittest.main()
