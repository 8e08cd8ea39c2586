"""The `hone` command: every part of Hone from one terminal.

A mistake of the person at the keyboard ends with one sentence and exit status 2, never with a traceback; all
statuses are in `feedback.terminal.EXIT_STATUSES`.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from deploy.lazy_commands import LazyGroup, Mounted
from feedback.errors import HoneError, Unwell

COMPLETING = "_HONE_COMPLETE"
"""Set by a shell that asks what could be typed next."""
RUN, SHIP, RECORD = "Run", "Train and ship", "Record"


class Commands(LazyGroup):
    """The commands of the other packages, by name."""

    mounted: ClassVar = {
        "gateway": Mounted("serving.cli:app", "Serve the OpenAI-compatible API until stopped.", RUN),
        "engine": Mounted(
            "serving.cli:app",
            "Run one vLLM engine in the foreground, with the adapters that the registry wants it to hold.",
            RUN,
        ),
        "worker": Mounted(
            "retrain.cli:app",
            "Train, evaluate and roll out, until stopped. Several may run; one works, the others stand by.",
            RUN,
        ),
        "console": Mounted(
            "monitoring.cli:app",
            "Serve the pages in which operators watch and decide, until stopped.",
            RUN,
        ),
        "demo": Mounted(
            "deploy.demo.command:app",
            "Close the loop before your eyes: simulated people ask, rate, and get better answers. Takes minutes.",
            RUN,
        ),
        "retrain": Mounted("retrain.cli:app", "Plan or start a training run, or search for a recipe.", SHIP),
        "run": Mounted("retrain.cli:app", "List, follow, pause and cancel training runs.", SHIP),
        "approve": Mounted(
            "feedback.cli:app", "Let a candidate meet traffic. Moves no traffic by itself.", SHIP
        ),
        "reject": Mounted(
            "feedback.cli:app", "Keep a candidate out. Cannot be undone; the version stays on disk.", SHIP
        ),
        "canary": Mounted(
            "feedback.cli:app",
            "Send the first step's share of traffic to an approved version, or to several at once. Undo with `abort`.",
            SHIP,
        ),
        "rollout": Mounted(
            "feedback.rollout_cli:app",
            "Show where a model's rollout stands, what its next step waits for, and why the last one ended.",
            SHIP,
        ),
        "pause": Mounted(
            "feedback.rollout_cli:app",
            "Keep the canary at its share. Guardrails go on watching it; undo with `resume`.",
            SHIP,
        ),
        "resume": Mounted(
            "feedback.rollout_cli:app",
            "Let a paused rollout go on. It does not pause again for what it was paused for.",
            SHIP,
        ),
        "alert": Mounted(
            "monitoring.alert_cli:app", "List and silence alerts, and try how they are delivered.", SHIP
        ),
        "drift": Mounted("monitoring.drift_cli:app", "Show whether traffic still looks as it did.", SHIP),
        "cost": Mounted(
            "monitoring.cost_cli:app",
            "Show what each version's answers and each run took, and how much better people liked the result.",
            SHIP,
        ),
        "replay": Mounted(
            "monitoring.replay_cli:app",
            "Estimate how another split would have been rated, from what was logged. Asks nobody and changes nothing.",
            SHIP,
        ),
        "promote": Mounted(
            "feedback.cli:app",
            "Make a version the champion, which answers everybody. Undo with `rollback`.",
            SHIP,
        ),
        "abort": Mounted("feedback.cli:app", "End the canary; its traffic goes back to the champion.", SHIP),
        "rollback": Mounted(
            "feedback.cli:app",
            "Put an earlier champion back. Takes effect without a restart; undo with `rollback --to`.",
            SHIP,
        ),
        "model": Mounted("feedback.cli:app", "Create and list models, and change their policies.", RECORD),
        "adapter": Mounted(
            "retrain.adapter_cli:app", "Show, compare, export and import adapter versions.", RECORD
        ),
        "dataset": Mounted(
            "feedback.dataset_cli:app",
            "List, show and export frozen datasets, and keep the golden set.",
            RECORD,
        ),
        "review": Mounted(
            "feedback.dataset_cli:app",
            "Decide what is trained on: list, approve, include, exclude, correct.",
            RECORD,
        ),
        "experiment": Mounted(
            "feedback.cli:app", "List and show traffic splits with their verdicts.", RECORD
        ),
        "feedback": Mounted(
            "feedback.cli:app", "List, show, import and export what people said of answers.", RECORD
        ),
        "completion": Mounted(
            "feedback.cli:app", "List and show answers, and say why a version gave them.", RECORD
        ),
        "privacy": Mounted(
            "feedback.privacy_cli:app", "Erase people, and keep nothing longer than said.", RECORD
        ),
        "audit": Mounted(
            "feedback.privacy_cli:app",
            "Show who decided what, newest first; `verify` proves that nobody changed it.",
            RECORD,
        ),
        "key": Mounted("feedback.cli:app", "Create, list and revoke API keys.", RECORD),
    }


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Serve a language model that learns from its ratings.",
)


@app.command(rich_help_panel=RUN)
def up(
    model: Annotated[
        str | None,
        typer.Option(
            help="Base model to serve and train: a path or a Hugging Face name. "
            "Unset: the configured one, else a small demonstration model built here."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address the gateway listens on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port the gateway listens on.")] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Directory for everything this machine keeps.")
    ] = None,
) -> None:
    """Start the whole service on this machine: database, engine, gateway, worker, console."""
    from deploy.up import run

    raise typer.Exit(run(model=model, host=host, port=port, state_dir=state_dir))


@app.command(rich_help_panel=RUN)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine and the running service, and say what to do. Changes nothing."""
    from deploy.doctor import main as examine

    raise typer.Exit(examine(as_json=as_json))


@app.command(rich_help_panel=RUN)
def config(
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
) -> None:
    """Show every setting, its value and where it came from. Secrets are masked."""
    from deploy.config import main as show

    raise typer.Exit(show(as_json=as_json))


@app.command(rich_help_panel=RUN)
def logs(
    processes: Annotated[
        list[str] | None, typer.Argument(help="Only of these: gateway, worker, console, engine, postgres.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="The least important lines to show.")
    ] = "debug",
    completion: Annotated[str | None, typer.Option(help="Only lines about this completion.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many to begin with.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Show what the processes of this machine wrote, together and in order."""
    from deploy.logs import Wanted, show
    from feedback.settings import FeedbackSettings

    wanted = Wanted(processes or (), level, completion)
    show(FeedbackSettings.load().absolute_state_dir, wanted, lines=lines, follow=follow, as_json=as_json)


@app.command(rich_help_panel=RUN)
def backup(
    target: Annotated[Path, typer.Argument(help="File to write, such as hone-backup.tar.gz.")],
) -> None:
    """Write the record, the adapters and uploaded files to one file. The service may go on running."""
    from deploy.backup import make

    raise typer.Exit(make(target))


@app.command(rich_help_panel=RUN)
def restore(
    source: Annotated[Path, typer.Argument(help="A file that `hone backup` wrote.")],
) -> None:
    """Put a backup into an empty state directory and an empty database. Changes nothing that is there."""
    from deploy.backup import restore as put_back

    raise typer.Exit(put_back(source))


class Shell(StrEnum):
    """A shell that completes commands."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@app.command(rich_help_panel=RUN)
def shell_completion(
    shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")],
) -> None:
    """Print what makes a shell complete `hone` with Tab. For bash: `source <(hone shell-completion bash)`."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # exported without saying so

    print(get_completion_script(prog_name="hone", complete_var=COMPLETING, shell=shell))


def main() -> None:
    """Run `hone`; the console script."""
    try:
        if COMPLETING in os.environ:
            from typer.completion import completion_init  # type: ignore[attr-defined]  # as above

            completion_init()
        if sys.argv[1:2] in (["gateway"], ["engine"], ["worker"], ["console"]) and "--help" not in sys.argv:
            from deploy.config import refuse_unknown_names

            refuse_unknown_names()
        app(prog_name="hone")
    except HoneError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, Unwell) else 2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
