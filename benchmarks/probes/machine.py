"""What a benchmark runs on: how many threads, and which clock, as its command line says."""

import argparse
import time
from collections.abc import Callable

import torch
from threadpoolctl import threadpool_limits

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def add_machine(parser: argparse.ArgumentParser) -> None:
    """--threads and --clock."""
    parser.add_argument("--threads", type=int, help="of torch, numpy and scipy; default: their own")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time of this process")


def settle_machine(args: argparse.Namespace) -> Callable[[], float]:
    """The threads, for good, and the clock."""
    if args.threads:
        torch.set_num_threads(args.threads)
        threadpool_limits(args.threads)
    return CLOCKS[args.clock]
