"""`make chaos ARGS="--seed 7 --seconds 300"`: one run, or several with the seeds that follow."""

from __future__ import annotations

import argparse
import random
import sys

from tests.chaos.run import Verdict, run
from tests.chaos.schedule import KINDS, schedule


def main() -> int:
    """Run, print a table, and how a failing seed is replayed."""
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--runs", type=int, default=1, help="with the seeds that follow")
    parser.add_argument("--kinds", default="", help="only these, such as pod,etcd.killed")
    parser.add_argument("--history", action="store_true", help="print every step at the end")
    parser.add_argument("--show", action="store_true", help="only print the schedule")
    options = parser.parse_args()
    wanted = options.kinds.split(",") if options.kinds else [""]
    kinds = [kind for kind in KINDS if any(kind.startswith(each) for each in wanted)]
    failed = False
    for seed in range(options.seed, options.seed + options.runs):
        if options.show:
            print(*schedule(seed, options.seconds, kinds), sep="\n")
            continue
        print(f"seed {seed}, {options.seconds:g} s", flush=True)
        verdict = run(seed, options.seconds, kinds, lambda line: print(line, flush=True))
        if options.history:
            print(*verdict.course, sep="\n")
        show(verdict)
        if verdict.wrong:
            failed = True
            more = f" --kinds {options.kinds}" if options.kinds else ""
            print(f'replay: make chaos ARGS="--seed {seed} --seconds {options.seconds:g}{more}"')
    return int(failed)


def show(verdict: Verdict) -> None:
    """The table of a run."""
    print("\nstep                     done  left out")
    for kind in sorted(verdict.done.keys() | verdict.left_out.keys()):
        print(f"{kind:24} {verdict.done[kind]:4}  {verdict.left_out[kind] or ''}")
    print("\nanswers  " + ", ".join(f"{app} {count}" for app, count in verdict.answers.items()))
    print(f"failed requests that a crashed pod explains: {verdict.excused}")
    print(f"like a fresh start after {verdict.converged:.1f} s")
    print(f"generation {verdict.generation:.0f}, {verdict.reloads:.0f} reloads of the last daemon")
    print(f"{verdict.growth:+} kB in the last third of the life of the last daemon")
    for line, count in verdict.logged.most_common(12):
        print(f"{count:5} x {line}")
    if verdict.wrong:
        print("\nlast steps:", *verdict.history, "\nWRONG:", *verdict.wrong, sep="\n  ")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
