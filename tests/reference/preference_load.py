"""Twenty people at once, two thousand matchups, and a kill in the middle.

Makes a project with one real pair of videos, multiplies its matchups in the database, and lets twenty
connections answer both tracks through the API of `anyid-rt annotate serve`. In the middle the server is
killed and started again. Afterwards: no vote lost, none doubled, sides balanced. Prints how long
`/api/next` and `/api/vote` took.

    python tests/reference/preference_load.py target/release/anyid-rt [people] [matchups]
"""

import collections
import http.client
import json
import os
import pathlib
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

PROGRAM = os.path.abspath(sys.argv[1])
PEOPLE = int(sys.argv[2]) if len(sys.argv) > 2 else 20
MATCHUPS = int(sys.argv[3]) if len(sys.argv) > 3 else 2000
VOTES = 3


def run(*words, **more):
    return subprocess.run([PROGRAM, *words], check=True, capture_output=True, text=True, **more).stdout


def prepare(folder):
    for seed in (1, 2):
        run("generate", "--prompt", "x", "--size", "64x64", "--frames", "5", "--steps", "1", "-q",
            "--seed", str(seed), "-o", f"{seed}.mp4", cwd=folder)
    (folder / "pairs.csv").write_text("id,path_a,path_b,prompt\nm_00000,1.mp4,2.mp4,She waves.\n")
    run("annotate", "init", "p", "--votes", str(VOTES), "--checks", "0.05", "-q", cwd=folder)
    run("annotate", "import", "p", "--pairs", "pairs.csv", cwd=folder)
    base = sqlite3.connect(folder / "p/project.sqlite")
    row = base.execute("SELECT input_set_id, asset_a, asset_b FROM matchup WHERE name='m_00000'").fetchone()
    for at in range(1, MATCHUPS):
        base.execute("INSERT INTO matchup(name, input_set_id, asset_a, asset_b) VALUES(?,?,?,?)",
                     (f"m_{at:05}", *row))
    base.commit()
    base.close()
    names = [f"p{at}" for at in range(PEOPLE)]
    links = run("annotate", "invite", "p", *names, cwd=folder)
    return [line.split("/")[-1] for line in links.splitlines()]


class Server:
    def __init__(self, folder, port=0):
        words = [PROGRAM, "annotate", "serve", "p", "--listen", f"127.0.0.1:{port}", "-q"]
        self.process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().strip().rstrip("/").rsplit(":", 1)[1])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Person(threading.Thread):
    def __init__(self, port, token):
        super().__init__()
        self.port, self.token = port, token
        self.times = collections.defaultdict(list)
        self.kept = {}
        self.again = 0
        self.connection = None

    def ask(self, method, path, body=None, headers=None):
        """As often as it takes, as the page does."""
        while True:
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                start = time.perf_counter()
                self.connection.request(method, path, body, headers or {})
                answer = self.connection.getresponse()
                data = answer.read()
                if answer.status not in (429, 503):
                    self.times[path.split("?")[0]].append(time.perf_counter() - start)
                    return answer, data
                time.sleep(0.2)
            except (OSError, http.client.HTTPException):
                self.connection = None
                time.sleep(0.05)

    def run(self):
        answer, _ = self.ask("GET", f"/join/{self.token}")
        cookies = [value.split(";")[0] for name, value in answer.getheaders() if name.lower() == "set-cookie"]
        csrf = next(c.split("=", 1)[1] for c in cookies if c.startswith("anyid_csrf="))
        origin = f"http://127.0.0.1:{self.port}"
        headers = {"Cookie": "; ".join(cookies), "X-CSRF": csrf, "Content-Type": "application/json",
                   "Origin": origin}
        for track in ("identity", "prompt"):
            while True:
                _, data = self.ask("GET", f"/api/next?track={track}", None, headers)
                item = json.loads(data)
                if item.get("finished"):
                    break
                choice = secrets.choice(["left", "right", "tie"])
                ballot = json.dumps({"assignment": item["id"], "nonce": secrets.token_hex(8),
                                     "answers": {track: choice}, "timing": {"ms": 9000}})
                answer, data = self.ask("POST", "/api/vote", ballot, headers)
                told = json.loads(data)
                assert answer.status == 200, told
                self.again += told["again"]
                self.kept[item["id"]] = choice


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        tokens = prepare(folder)
        server = Server(folder)
        people = [Person(server.port, token) for token in tokens]
        start = time.time()
        for person in people:
            person.start()
        wanted = 2 * VOTES * MATCHUPS
        while sum(len(person.kept) for person in people) < wanted / 2:
            time.sleep(0.05)
        server.kill()
        server = Server(folder, server.port)
        for person in people:
            person.join()
        seconds = time.time() - start
        server.kill()
        base = sqlite3.connect(folder / "p/project.sqlite")
        one = lambda sql: base.execute(sql).fetchone()[0]
        kept = {token: choice for person in people for token, choice in person.kept.items()}
        stored = dict(base.execute("SELECT s.token, v.choice FROM vote v JOIN assignment s ON s.id = v.assignment_id"))
        assert one("SELECT COUNT(*) FROM vote") == len(stored), "a vote is there twice"
        assert stored == kept, "what people were told is not what is there"
        plain = one("SELECT COUNT(*) FROM vote v JOIN assignment s ON s.id = v.assignment_id JOIN matchup m"
                    " ON m.id = s.matchup_id WHERE m.check_kind IS NULL")
        assert plain == wanted, (plain, wanted)
        uneven = one("SELECT COUNT(*) FROM (SELECT SUM(swap) AS n, COUNT(*) AS c FROM assignment GROUP BY"
                     " annotator_id, track, order_no / 10) WHERE c = 10 AND n <> 5")
        assert uneven == 0, "sides are not balanced"
        for path in ("/api/next", "/api/vote"):
            times = sorted(t for person in people for t in person.times[path])
            at = lambda share: 1000 * times[min(int(share * len(times)), len(times) - 1)]
            print(f"{path}: {len(times)} times, median {at(0.5):.1f} ms, p99 {at(0.99):.1f} ms, most {at(1):.1f} ms")
        print(f"{len(kept)} votes of {PEOPLE} people on {MATCHUPS} matchups in {seconds:.0f} s,"
              f" {sum(p.again for p in people)} sent twice; none lost, none doubled, sides balanced")


if __name__ == "__main__":
    main()
