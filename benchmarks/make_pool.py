"""Make the pool of noisy clips that `stbn train --pool` learns from; a stopped run goes on where it was.

python benchmarks/make_pool.py POOL --train-dir footage/ --still-dir photos/ --hold-out park.mp4 --processes 4
"""

import argparse
import multiprocessing
import time
from pathlib import Path

import torch

from stbn_cli.synthesis.mixture import MIXES
from stbn_cli.training.footage import load_footage
from stbn_cli.training.pool import make_pool


def work(options: argparse.Namespace, process: int) -> None:
    """Make every entry whose number is `process` more than a multiple of the number of processes."""
    torch.set_num_threads(1)
    footage = load_footage(options.train_dir, options.still_dir, leave_out=options.hold_out)
    begun, made = time.monotonic(), 0

    def report(number: int, kind: str) -> None:
        nonlocal made
        made += 1
        if made % 50 == 0:
            each = (time.monotonic() - begun) / made
            print(f"process {process}: entry {number} ({kind}), {each:.2f} s each", flush=True)

    numbers = range(process, options.entries, options.processes)
    make_pool(options.pool, footage, numbers, options.seed, report, MIXES[options.mix])


def main() -> None:
    """Parse the command line and share the entries among processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", type=Path, help="folder to fill")
    parser.add_argument("--train-dir", type=Path, action="append", default=[], help="folder of clean videos")
    parser.add_argument("--still-dir", type=Path, action="append", default=[], help="folder of photographs")
    parser.add_argument("--hold-out", action="append", default=[], help="name of a clip to leave out")
    parser.add_argument("--entries", type=int, default=3000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mix", choices=list(MIXES), default="everything", help="which kinds of noise")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(options, index)) for index in range(options.processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("A process failed; start again to make what is missing.")


if __name__ == "__main__":
    main()
