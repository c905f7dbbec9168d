"""The command line: subcommands from each folder's `commands.py`, errors to exit codes, and the demo."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import probecache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from probecache.store.stop import Stop


def _recompute(*arguments: Any) -> Any:
    from probecache.extract.recompute import recompute

    return recompute(*arguments)


def _check_results(path: str) -> "list[str] | None":
    """Each damage of RESULTS or of what `cka` wrote, in words; None where the path holds neither."""
    from probecache.analyze.results.verify import is_results, verify_results

    return verify_results(path) if is_results(path) else None


def _describe_results(path: str) -> "tuple[dict[str, Any], list[str]] | None":
    """RESULTS as JSON values and as lines for people; None where the path holds none."""
    from probecache.analyze.results.verify import is_results

    if not is_results(path):
        return None
    from probecache.analyze.results.about import describe_results, lines_of

    about = describe_results(path)
    return about, lines_of(about)


def _app() -> Any:
    import typer

    from probecache.analyze import commands as analyze_commands
    from probecache.extract import commands as extract_commands
    from probecache.store import commands as store_commands

    about = (probecache.__doc__ or "").split("\n")[0]
    app = typer.Typer(
        rich_markup_mode=None, help=about, context_settings={"help_option_names": ["-h", "--help"]}
    )

    @app.callback(invoke_without_command=True)
    def front(
        context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version.")
    ) -> None:
        # `verify` is the store's; backbones and RESULTS are not
        context.obj = store_commands.Lent(_recompute, _check_results, _describe_results)
        if version:
            print(f"probecache {probecache.__version__}")
        elif context.invoked_subcommand is None:
            print(context.get_help())

    for commands in (extract_commands, store_commands, analyze_commands):
        for name, function in commands.COMMANDS.items():
            app.command(name)(function)
    app.command("demo")(demo)
    return app


def demo(out: Path = Path("demo")) -> None:
    """From images to a report, on scikit-learn's digits.

    Extract, sweep, redundancy, report: each step is a command that you could type, and is printed.
    """
    from probecache.extract.digits import write_digits

    digits, features = write_digits(out / "digits"), out / "features.zarr"
    print(f"1,797 digit images: {digits}", flush=True)
    model = ["--model", "tf_efficientnet_lite0"]
    layers = ["--layers", "blocks.4", "--layers", "penultimate"]
    for split in ("train", "test"):
        _step("extract", *model, "--data-dir", digits, "--split", split, *layers, "--out", features)
    results = [out / f"{probe}.zarr" for probe in ("logistic", "ridge")]
    for where in results:
        what = ["--layer", "blocks.4", "--layer", "penultimate", "--train", "train", "--test", "test"]
        # Nearly as many neurons as images: with little penalty least squares would fit the noise.
        l2 = {"logistic": "1e-4", "ridge": "0.1"}[where.stem]
        how = ["--fractions", _FRACTIONS, "--seeds", "5", "--selection", "random", "--probe", where.stem]
        _step("sweep", features, *what, *how, "--l2", l2, "--out", where)
    for where in results:
        _step("redundancy", where, "--delta", "0.9")
    _step("report", *results, "--out", out / "report")
    picture = out / "report" / "figures" / "logistic" / "accuracy.png"
    print(f"\nstore: {features}\nresults: {results[0]}, {results[1]}\npicture: {picture}")


# Log-spaced from six neurons of a 1280-neuron layer to all of them, and the paper's 20%.
_FRACTIONS = (
    "0.005,0.007,0.01,0.013,0.017,0.023,0.031,0.041,0.055,0.073,0.1,0.13,0.16,0.2,0.27,0.36,0.48,0.63,0.8,1"
)


def _step(*words: "str | Path") -> None:
    """Print and run one probecache command; a failure ends the demo with the command's exit code."""
    import shlex
    import subprocess

    command = [str(word) for word in words]
    print(f"\n$ probecache {shlex.join(command)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "probecache", *command], check=False)
    if done.returncode:
        sys.exit(done.returncode)


READER_GONE = 141  # 128 + SIGPIPE


def main(argv: "Sequence[str] | None" = None) -> None:
    """Run the command line, and end the process with its exit code.

    0 done, 1 damage or failure, 2 wrong input, 128 + n ended by a signal: 130 Ctrl-C or the end of
    --max-hours, 143 SIGTERM, 138 SIGUSR1, 141 a reader that is gone. Errors are one line on stderr;
    `--debug`, anywhere on the line, also shows the traceback.

    Parameters
    ----------
    argv : list of str or None
        The words after `probecache`. None: those of this process.

    Raises
    ------
    SystemExit
        Always.

    Examples
    --------
    >>> try:
    ...     pc.main(["info", "features.zarr"])
    ... except SystemExit as ended:
    ...     print(ended.code)  # doctest: +ELLIPSIS
    features.zarr...
    0
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal of few letters gets `\\u732b` for those that it lacks, and not the end of the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    arguments = [_home(a) for a in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in arguments
    from probecache.analyze.threads import wait_asleep

    wait_asleep()  # before torch is imported, and for the processes that are started
    arguments = [a for a in arguments if a != "--debug"]
    from probecache.store.stop import listening

    with listening() as stop:
        code = _run(arguments, debug, stop)
    try:
        if sys.stdout is not None:  # it is None where the caller closed it
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python says so as it ends
        code = READER_GONE
    sys.exit(code)


def _home(argument: str) -> str:
    """`--out=~/f` as shells give it to us, with the home folder in it."""
    flag, equals, value = argument.partition("=")
    if flag.startswith("--") and value.startswith("~/"):
        return f"{flag}{equals}{os.path.expanduser(value)}"
    return os.path.expanduser(argument) if argument.startswith("~/") else argument


def _run(arguments: list[str], debug: bool, stop: "Stop | None" = None) -> int:
    from probecache.store.errors import on_the_command_line

    with on_the_command_line():
        return _carry_out(arguments, debug, stop)


def _carry_out(arguments: list[str], debug: bool, stop: "Stop | None") -> int:
    import typer

    from probecache.analyze.arguments import with_values
    from probecache.extract.commands import COMMANDS, as_timm
    from probecache.store.errors import ProbecacheError, first_line
    from probecache.store.stop import Stop
    from probecache.store.storage.disk_errors import disk_refused

    stop = stop or Stop()
    if arguments[:1] and arguments[0] in COMMANDS:
        arguments = as_timm(arguments)
    arguments = with_values(arguments)
    usage_error: Any = typer.BadParameter.__mro__[1]  # click's UsageError, which typer does not export
    try:
        outcome = _app()(args=arguments, prog_name="probecache", standalone_mode=False)
        if outcome == 130:  # what typer makes of Ctrl-C
            return _interrupted(stop)
        return outcome if isinstance(outcome, int) else 0
    except SystemExit as ended:
        # click's answer to a reader that is gone, such as `head`: 1, and its streams muffled
        muffled = type(sys.stdout).__name__ == "PacifyFlushWrapper"
        code = 0 if ended.code is None else ended.code
        return READER_GONE if muffled else code if isinstance(code, int) else 1
    except typer.Exit as done:
        return done.exit_code
    except usage_error as error:
        command = error.ctx.command_path if error.ctx else "probecache"
        listed = "; a list is one word, such as 0.1,1" if "extra argument" in error.format_message() else ""
        print(f"probecache: {error.format_message()}{listed} (see {command} --help)", file=sys.stderr)
        return 2
    except ProbecacheError as error:
        if debug:
            raise
        print(f"probecache: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(stop)
    except Exception as error:
        if _heard(stop):  # what fails because the run is being ended is no failure of its own
            return _interrupted(stop)
        if debug:
            raise
        if isinstance(error, OSError) and (refused := disk_refused(error)) is not None:
            print(f"probecache: {refused}", file=sys.stderr)
            return refused.exit_code
        first = first_line(error)
        print(f"probecache: {type(error).__name__}: {first} (--debug shows where)", file=sys.stderr)
        return 1


def _heard(stop: "Stop") -> bool:
    """Whether a signal was heard, or is in the next moment: a batch system sends it to children too."""
    import time

    try:
        if stop.count == 0 and any(child in str(sys.exception()) for child in ("killed by signal", "exited")):
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    return stop.count > 0


def _interrupted(stop: "Stop") -> int:
    print(f"probecache: {stop}", file=sys.stderr)
    return stop.code


if __name__ == "__main__":
    main()
