#!/usr/bin/env python3
"""Runs a folder of cases against a built program.

    tests/cases.py BINARY FOLDER [NAME...] [--timeout SECONDS] [--jobs N] [--verbose] [--no-force]

A case is a folder with an executable `check` in it. It is called as `CASE/check PROGRAM`, exits
with 0 where the program does the right thing, and prints what it found. Output of which every line
begins with "skip" and an exit of 0 mean that something it needs is missing; so does exit 77.

Checks may write to one output several times, and `generate` does not replace a file unless it is
told to. So they are given a script that becomes the program (`exec`: the same process, limits and
signals) and adds `--force` to `generate`. A case with a file `no-force` in it, and every case with
the option of that name, gets the program itself.

One line a case: ok, FAIL or skip, its name and its seconds; of those that fail, what they printed.
Ends with 0 where nothing failed, 1 where something did, 2 where nothing could be run.
"""

import argparse
import concurrent.futures
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

WRAPPER = """#!/bin/sh
program={program}
if [ "$1" = generate ]; then
    shift
    for argument in "$@"; do
        if [ "$argument" = --force ]; then exec "$program" generate "$@"; fi
    done
    exec "$program" generate --force "$@"
fi
exec "$program" "$@"
"""


def knows_force(program):
    """Whether `generate` has the flag: older programs replace without it."""
    text = subprocess.run([program, "generate", "--help"], capture_output=True, text=True)
    return "--force" in text.stdout


def wrapped(program, folder):
    """The script that stands in for the program."""
    path = os.path.join(folder, "anyid-rt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(WRAPPER.format(program=shlex.quote(program)))
    os.chmod(path, 0o755)
    return path


def run(case, program, limit):
    """Runs one check; gives the word, what it printed, and its seconds."""
    begun = time.monotonic()
    # A session of its own, so that everything it started can be ended with it.
    process = subprocess.Popen(
        [os.path.join(case, "check"), program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
        late = False
    except subprocess.TimeoutExpired:
        late = True
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if late:
        output, _ = process.communicate()
    text = output.decode(errors="replace").strip()
    seconds = time.monotonic() - begun
    if late:
        return "FAIL", f"{text}\nnot done after {limit} seconds".strip(), seconds
    lines = text.splitlines()
    skipped = lines and all(line.startswith("skip") for line in lines)
    if process.returncode == 77 or (process.returncode == 0 and skipped):
        return "skip", text, seconds
    if process.returncode != 0:
        return "FAIL", f"{text}\nexit code {process.returncode}".strip(), seconds
    return "ok", text, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", help="the program")
    parser.add_argument("folder", help="the folder of cases")
    parser.add_argument("names", nargs="*", help="cases to run (default: all)")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS")
    parser.add_argument("--jobs", type=int, default=1, metavar="N")
    parser.add_argument("--verbose", action="store_true", help="show what every check printed")
    parser.add_argument("--no-force", action="store_true", help="give checks the program itself")
    options = parser.parse_args()

    program = shutil.which(options.binary)
    if program is None:
        print(f"{options.binary} is no program", file=sys.stderr)
        return 2
    program = os.path.abspath(program)
    folder = os.path.abspath(options.folder)
    found = sorted(
        name
        for name in (os.listdir(folder) if os.path.isdir(folder) else [])
        if os.access(os.path.join(folder, name, "check"), os.X_OK)
    )
    unknown = [name for name in options.names if name not in found]
    names = options.names or found
    if not names or unknown:
        what = ", ".join(unknown) or "no case"
        print(f"{what}: not in {folder}", file=sys.stderr)
        return 2

    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    with tempfile.TemporaryDirectory(prefix="anyid-cases-") as scratch:
        forced = program
        if not options.no_force and knows_force(program):
            forced = wrapped(program, scratch)

        def one(name):
            case = os.path.join(folder, name)
            plain = os.path.exists(os.path.join(case, "no-force"))
            return name, *run(case, program if plain else forced, options.timeout)

        with concurrent.futures.ThreadPoolExecutor(max(1, options.jobs)) as pool:
            for name, word, text, seconds in pool.map(one, names):
                counts[word] += 1
                print(f"{word:4}  {name}  {seconds:.1f} s", flush=True)
                if text and (word != "ok" or options.verbose):
                    print("\n".join("        " + line for line in text.splitlines()), flush=True)
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
