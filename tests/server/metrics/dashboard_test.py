#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The dashboard, the alerts and /metrics as they are shipped, against the real daemon under load.

    dashboard_test.py --build-dir build/release [unittest arguments]

The classes without `Live` in their names need no daemon.
"""

import json
import math
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from daemon import IQN_PREFIX, Daemon  # noqa: E402

DASHBOARD = ROOT / "deploy" / "grafana" / "sectormap.json"
PROMETHEUS = ROOT / "deploy" / "prometheus"
DOCUMENT = ROOT / "docs" / "metrics.md"

BUILD_DIR = None         # from --build-dir
READY_SECONDS = 60       # for Prometheus to answer; a loaded machine with two cores
DATA_SECONDS = 60        # for a query to have data while the load runs
SCRAPE_SECONDS = 1       # instead of 15, so that the test need not wait for minutes
RATE_INTERVAL = "10s"    # Grafana takes four scrapes at least
GRID_COLUMNS = 24

# Panel types of Grafana 10 and later; graph, singlestat and table-old are gone.
PANEL_TYPES = {"stat", "timeseries", "table", "heatmap", "state-timeline", "row"}


def panels():
    return json.loads(DASHBOARD.read_text())["panels"]


def queries():
    """Each panel's (title, query, is a table or a number of now)."""
    for panel in panels():
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target.get("instant", False)


def with_values(query):
    """The query as Grafana sends it with every variable on All."""
    query = query.replace("$__rate_interval", RATE_INTERVAL).replace("$__interval", "1s")
    return re.sub(r"\$\{?(instance|target|device)\b\}?", ".*", query)


def metric_names(query):
    """The daemon's metrics that a query names, without a histogram's endings."""
    names = re.findall(r"\b((?:sectormap|process)_[a-z0-9_]+)", query)
    return {re.sub(r"_seconds_(bucket|sum|count)$", "_seconds", name) for name in names}


def documented_names():
    return set(re.findall(r"^\| `((?:sectormap|process)_[a-z0-9_]+)", DOCUMENT.read_text(), re.M))


class DashboardFileTest(unittest.TestCase):
    """What Grafana would not complain of, and people would."""

    def setUp(self):
        self.dashboard = json.loads(DASHBOARD.read_text())

    def test_panels_have_types_that_grafana_still_has(self):
        self.assertEqual({panel["type"] for panel in panels()} - PANEL_TYPES, set())

    def test_panel_numbers_and_titles_are_unique(self):
        for key in ("id", "title"):
            values = [panel[key] for panel in panels()]
            self.assertEqual(len(values), len(set(values)), key)

    def test_panels_say_what_they_show_in_which_unit(self):
        for panel in panels():
            self.assertTrue(panel["title"].strip())
            if panel["type"] != "row":
                self.assertTrue(panel["description"].strip(), panel["title"])
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], panel["title"])
                self.assertTrue(panel["targets"], panel["title"])

    def test_no_panel_lies_on_another_or_outside_the_grid(self):
        taken = {}
        for panel in panels():
            position = panel["gridPos"]
            self.assertLessEqual(position["x"] + position["w"], GRID_COLUMNS, panel["title"])
            for x in range(position["x"], position["x"] + position["w"]):
                for y in range(position["y"], position["y"] + position["h"]):
                    self.assertNotIn((x, y), taken, f"{panel['title']} on {taken.get((x, y))}")
                    taken[x, y] = panel["title"]

    def test_every_query_goes_to_the_chosen_data_source(self):
        for panel in panels():
            if panel["type"] == "row":
                continue
            for part in (panel, *panel["targets"]):
                self.assertEqual(part["datasource"],
                                 {"type": "prometheus", "uid": "${datasource}"}, panel["title"])

    def test_references_of_a_panels_queries_are_unique(self):
        for panel in panels():
            references = [target["refId"] for target in panel.get("targets", [])]
            self.assertEqual(len(references), len(set(references)), panel["title"])

    def test_variables_that_are_used_exist_and_the_other_way_round(self):
        defined = {variable["name"] for variable in self.dashboard["templating"]["list"]}
        used = set(re.findall(r"\$\{?([a-z]+)\b", DASHBOARD.read_text()))
        self.assertEqual(defined, used)

    def test_rates_are_over_grafanas_interval(self):
        for title, query, _ in queries():
            for window in re.findall(r"\[([^\]]+)\]", query):
                self.assertEqual(window, "$__rate_interval", title)

    def test_queries_name_documented_metrics_only(self):
        for title, query, _ in queries():
            self.assertEqual(metric_names(query) - documented_names(), set(), title)

    def test_every_query_is_promql(self):
        # As recording rules, so that no server is needed.
        rules = [{"record": "x", "labels": {"n": str(number)}, "expr": with_values(query)}
                 for number, (_, query, _) in enumerate(queries())]
        text = json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})  # JSON is YAML
        result = subprocess.run(["promtool", "check", "rules", "/dev/stdin"], input=text,
                                capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_the_five_questions_are_headings_and_then_what_goes_on(self):
        rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
        self.assertEqual(rows, ["Is it healthy?", "How fast is it?", "How busy is it?",
                                "Which LUN, which device?", "Which errors?",
                                "Snapshots, mirrors, operations"])


class RulesFileTest(unittest.TestCase):
    def promtool(self, *words):
        result = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True,
                                check=False)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_configuration_and_rules_are_valid(self):
        self.promtool("check", "config", PROMETHEUS / "prometheus.yml")

    def test_each_alert_fires_when_it_must_and_only_then(self):
        self.promtool("test", "rules", PROMETHEUS / "sectormap.rules.test.yml")

    def test_every_alert_has_a_case_in_which_it_fires(self):
        alerts = re.findall(r"alert: (\w+)", (PROMETHEUS / "sectormap.rules.yml").read_text())
        cases = (PROMETHEUS / "sectormap.rules.test.yml").read_text()
        fired = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", cases))
        self.assertEqual(set(alerts) - fired, set())

    def test_alerts_name_documented_metrics_only(self):
        expressions = re.findall(r"expr: (\|\n(?:\s{10,}.*\n)+|.*)",
                                 (PROMETHEUS / "sectormap.rules.yml").read_text())
        self.assertTrue(expressions)
        for expression in expressions:
            self.assertEqual(metric_names(expression) - documented_names(), set())


class Prometheus:
    """Debian's, with our configuration, over one daemon. Ends only the process it started."""

    def __init__(self, daemon):
        self._directory = pathlib.Path(tempfile.mkdtemp(prefix="sectormap-prometheus."))
        address = urllib.parse.urlsplit(daemon.metrics_url).netloc
        config = (PROMETHEUS / "prometheus.yml").read_text()
        assert config.count("127.0.0.1:9360") == 1, "prometheus.yml names the daemon once"
        config = config.replace("127.0.0.1:9360", address)
        config = re.sub(r"(scrape|evaluation)_interval: \S+", rf"\1_interval: {SCRAPE_SECONDS}s",
                        config)
        (self._directory / "prometheus.yml").write_text(config)
        shutil.copy(PROMETHEUS / "sectormap.rules.yml", self._directory)
        self._log = open(self._directory / "log", "w+", encoding="utf-8")
        self._process = None

    def start(self):
        # It cannot say which port it got for port 0, so a free one is looked for; somebody may be
        # quicker in between.
        for _ in range(5):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
            self._process = subprocess.Popen(
                ["prometheus", f"--config.file={self._directory}/prometheus.yml",
                 f"--storage.tsdb.path={self._directory}/data",
                 f"--web.listen-address={self.url.removeprefix('http://')}"],
                stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT)
            if self._wait_until_ready():
                return
        raise RuntimeError("prometheus does not start:\n" + self.log())

    def _wait_until_ready(self):
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(self.url + "/-/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return True
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        return False

    def log(self):
        self._log.seek(0)
        return self._log.read()[-4000:]

    def ask(self, path, **parameters):
        """The `data` of an answer; a refused query is an error with Prometheus's words."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error).get("error", str(error))) from None

    def values(self, query, instant):
        """All numbers that a panel with this query would draw."""
        if instant:
            result = self.ask("query", query=query)["result"]
            samples = [series["value"] for series in result]
        else:
            now = time.time()
            result = self.ask("query_range", query=query, start=now - 30, end=now, step=1)["result"]
            samples = [sample for series in result for sample in series["values"]]
        return [float(value) for _, value in samples if not math.isnan(float(value))]

    def close(self):
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(READY_SECONDS)
        self._log.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class Load(threading.Thread):
    """QEMU's initiator over and over: every kind of command, a login and a logout each time; and a
    control call that fails."""

    def __init__(self, daemon, url):
        super().__init__(daemon=True)
        self._daemon, self._url = daemon, url
        self._ended = threading.Event()
        self.rounds, self.failure = 0, None

    def run(self):
        while not self._ended.is_set():
            result = subprocess.run(
                ["qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", "-c", "read -P 7 0 1M",
                 "-c", "write -P 9 64k 4k", "-c", "flush", "-c", "read -P 9 64k 4k",
                 "-c", "discard 2M 1M", self._url],
                capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
            said = result.stdout + result.stderr
            if result.returncode != 0 or "failed" in said:
                self.failure = said
                return
            self._daemon.cli("info", "no-such-device", check=False)
            self.rounds += 1

    def end(self):
        self._ended.set()
        self.join(READY_SECONDS)


class LiveTest(unittest.TestCase):
    """One daemon, one Prometheus and one load for all of these."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(BUILD_DIR, options=("--reactors", "2"))
        cls.addClassCleanup(cls.daemon.close)
        cls.daemon.start()
        cls.daemon.thin_volume("vol", 64)
        url = cls.daemon.export("vol")
        cls.daemon.cli("create", "held", "--table", "0 2048 zero")
        cls.daemon.cli("suspend", "held")  # so that an alert is about to fire
        cls.start_operations()
        cls.prometheus = Prometheus(cls.daemon)
        cls.addClassCleanup(cls.prometheus.close)
        cls.prometheus.start()
        cls.load = Load(cls.daemon, url)
        cls.addClassCleanup(cls.load.end)
        cls.load.start()

    @classmethod
    def start_operations(cls):
        """A snapshot, and a mirror whose new leg is so slow that it is copied to all the time."""
        cls.daemon.thin_volume("snapped", 8)
        cls.daemon.cli("snapshot", "create", "snap", "--of", "snapped")
        cls.daemon.thin_volume("mirrored", 64)
        leg = cls.daemon.thin_file("leg", 64)
        cls.daemon.cli("create", "slow", "--table", f"0 131072 delay {leg} 0 0 {leg} 0 200")
        cls.daemon.cli("mirror", "add", "mirrored", "/dev/mapper/slow", "--region", "64",
                       "--no-wait")

    def scrape(self):
        with urllib.request.urlopen(self.daemon.metrics_url, timeout=60) as answer:
            return answer.read().decode()

    def wait_for_values(self, query, instant):
        deadline = time.monotonic() + DATA_SECONDS
        while True:
            values = self.prometheus.values(query, instant)
            self.assertIsNone(self.load.failure)
            if values or time.monotonic() > deadline:
                return values
            time.sleep(SCRAPE_SECONDS)

    def test_every_panel_shows_data_under_load(self):
        for title, query, instant in queries():
            with self.subTest(panel=title, query=query):
                self.assertTrue(self.wait_for_values(with_values(query), instant), "no data")

    def test_the_load_is_seen_where_it_happens(self):
        labels = f'target="{IQN_PREFIX}:vol", lun="0", device="vol"'
        for query in (
                f'rate(sectormap_commands_total{{{labels}, op="write"}}[{RATE_INTERVAL}]) > 0',
                f'rate(sectormap_command_bytes_total{{{labels}, op="read"}}[{RATE_INTERVAL}]) > 0',
                f'rate(sectormap_command_duration_seconds_count{{{labels}, op="flush"}}'
                f'[{RATE_INTERVAL}]) > 0',
                f'rate(sectormap_device_bytes_total{{device="vol", op="write"}}[{RATE_INTERVAL}]) > 0',
                f'rate(sectormap_backing_bytes_total{{backing=~".*/vol.img", op="write"}}'
                f'[{RATE_INTERVAL}]) > 0',
                'sectormap_device_suspended{device="held"} == 1',
                'sum(sectormap_logins_total{result="accepted"}) > 0',
                f'rate(sectormap_grpc_requests_total{{code="NOT_FOUND"}}[{RATE_INTERVAL}]) > 0'):
            with self.subTest(query=query):
                self.assertTrue(self.wait_for_values(query, False), "no data")

    def test_reads_and_writes_count_the_bytes_that_the_initiator_moved(self):
        # 1 MiB + 4 KiB each way in each round; QEMU reads a little more when it opens the disk.
        moved = (1 << 20) + 4096
        text = self.scrape()
        rounds = self.load.rounds
        for op in ("read", "write"):
            with self.subTest(op=op):
                found = re.search(rf'^sectormap_command_bytes_total{{.*op="{op}"}} (\S+)$', text,
                                  re.M)
                self.assertIsNotNone(found)
                self.assertGreaterEqual(float(found.group(1)), max(rounds - 1, 0) * moved)

    def test_latencies_are_compared_with_the_bounds_of_buckets(self):
        buckets = "sectormap_command_duration_seconds_bucket"
        self.assertTrue(self.wait_for_values(buckets, True))
        served = set(re.findall(rf'^{buckets}{{.*le="([^"]+)"}}', self.scrape(), re.M))
        cases = (PROMETHEUS / "sectormap.rules.test.yml").read_text()
        self.assertLessEqual(set(re.findall(rf'{buckets}{{.*le="([^"]+)"}}', cases)), served)
        rules = (PROMETHEUS / "sectormap.rules.yml").read_text()
        compared = re.findall(rf"{buckets}\[\w+\]\)\)\) > (\S+)", rules)
        self.assertTrue(compared)
        self.assertLessEqual(set(compared), served)

    def test_variables_have_values(self):
        for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
            if variable["type"] != "query":
                continue
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)",
                                           variable["definition"]).groups()
            with self.subTest(variable=variable["name"]):
                self.assertTrue(self.wait_for_values(
                    f"count by ({label}) ({with_values(selector)})", True))

    def test_annotations_are_queries_that_prometheus_takes(self):
        for annotation in json.loads(DASHBOARD.read_text())["annotations"]["list"]:
            if "expr" in annotation:
                self.prometheus.values(with_values(annotation["expr"]), True)

    def test_an_alert_is_about_to_fire_for_the_suspended_device_only(self):
        self.assertTrue(self.wait_for_values(
            'ALERTS{alertname="SectormapDeviceSuspended", device="held"}', True))
        self.assertEqual(self.prometheus.values(
            'ALERTS{alertname!="SectormapDeviceSuspended"}', True), [])

    def test_metrics_follow_prometheuss_rules(self):
        result = subprocess.run(["promtool", "check", "metrics"], input=self.scrape(),
                                capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_metrics_are_those_of_the_document(self):
        served = set(re.findall(r"^# TYPE ((?:sectormap|process)_\S+)", self.scrape(), re.M))
        self.assertEqual(served, documented_names())


def main():
    global BUILD_DIR
    words = sys.argv[1:]
    if "--build-dir" in words:
        at = words.index("--build-dir")
        BUILD_DIR = pathlib.Path(words[at + 1]).resolve()
        del words[at:at + 2]
    unittest.main(argv=[sys.argv[0], *words], verbosity=2)


if __name__ == "__main__":
    main()
