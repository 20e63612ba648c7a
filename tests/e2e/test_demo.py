"""What `make demo` runs: the two creates in print, the curl that does it again, and an end without remains."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from tests.stack import Api, Process, clean_environment, until

ROOT = Path(__file__).parents[2]


def test_the_demo_refuses_accepts_and_ends(tmp_path: Path) -> None:
    demo = Process((sys.executable, "-m", "demo"), tmp_path / "demo.log", clean_environment(TMPDIR=str(tmp_path)))
    demo.start()
    try:
        until(
            lambda: "Press Ctrl-C" in demo.log or (demo.popen and demo.popen.poll() is not None),
            "the demo has shown",
            180,
        )
        assert "HTTP 400\nRefused: secret_mismatch  (look at s3_secret_access_key)" in demo.log
        assert "upload    failed" in demo.log
        assert "HTTP 200" in demo.log
        assert "In the bucket now: nothing, as before" in demo.log
        delivered = demo.log.partition("3. A result set")[2].partition("4. Do it")[0]
        assert [line.split()[1] for line in delivered.splitlines() if line.startswith("ok ")] == [
            "0", "48,000", "20,971,520",
        ]  # fmt: skip
        assert len([line for line in delivered.splitlines() if line.startswith("  ")]) == 3
        url, body = the_curl(demo.log)
        answer = Api(url).create(body)
        assert answer.status == 200, answer.text
        (dashboard,) = [
            line for line in demo.log.splitlines() if line.startswith(f"The dashboard is at {url}/dashboard")
        ]
        assert Api(url, dashboard.rpartition(" ")[2]).call("GET", "/jobs").status == 200
        assert "DROPOFF_ALLOW_HTTP=1 DROPOFF_EGRESS_ALLOW=127.0.0.0/8" in demo.log
        (exports,) = [line for line in demo.log.splitlines() if line.startswith("export ")]
        named = dict(word.split("=", 1) for word in shlex.split(exports)[1:])
        for command in (("status",), ("accounts", "list"), ("keys", "list")):
            done = subprocess.run(
                [sys.executable, "-m", "app.cli", *command], env=clean_environment(**named),
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, ""), command
        demo.signal(signal.SIGINT)
        assert demo.popen
        assert demo.popen.wait(60) == 0
    finally:
        demo.stop()
    assert demo.log.endswith("Ended; nothing is left behind.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["demo.log"]


def the_curl(log: str) -> tuple[str, dict[str, object]]:
    """The address and the body of the call that the demo prints, read as a shell would."""
    printed = log[log.index("curl http") :].replace("\\\n", " ").split("\n\n")[0]
    words = shlex.split(printed)
    assert words[0] == "curl"
    return words[1].removesuffix("/destinations"), json.loads(words[words.index("-d") + 1])
