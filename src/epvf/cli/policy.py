"""`epvf policy`: policies for other programs, and those of other libraries."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from epvf.cli import subcommands
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.cli.subcommands import Subcommand
from epvf.errors import UserError
from epvf.files import one_line

FORMATS = "{onnx,npz,c,json}"


@dataclass(frozen=True)
class ExportOptions:
    """Write a policy for other programs: ONNX, numpy, C or JSON.

    The file also says what the policy reads and does: order and units of observations, the scale
    of actions, the task.

    Attributes:
        what: folder of a run, or a policy file of any format.
        format: of the file to write; with none that of its name.
        out: file to write.
        policy: which of a run's policies.
        json: print the result as JSON.
    """

    what: Annotated[Path, Shown("RUN|POLICY_FILE", positional=True)]
    format: Annotated[str | None, Shown(FORMATS)] = None
    out: Annotated[Path | None, Shown("FILE", default="beside the policy")] = None
    policy: Literal["best", "last"] = "best"
    json: bool = False


@dataclass(frozen=True)
class ImportOptions:
    """Take a policy of another library: SB3, SBX, rsl_rl, CleanRL or Brax.

    Read without the library, without torch, and without running anything of the file.
    Normalisation of observations becomes part of the first layer.

    Attributes:
        file: `.zip` of SB3 and SBX, `.pt` of rsl_rl, `.cleanrl_model`, `.params` of Brax.
        task: that the policy is for.
        activation: of its hidden layers, where the file does not tell.
        output: what becomes of the last layer, where the file does not tell.
        normaliser: file of SB3's `VecNormalize`.
        out: file to write, .safetensors.
        json: print the result as JSON.
    """

    file: Annotated[Path, Shown("FILE", positional=True)]
    task: Annotated[str | None, Shown("TASK")] = None
    activation: Annotated[str | None, Shown("{tanh,relu,elu}", default="as the file tells")] = None
    output: Annotated[str | None, Shown("{argmax,clip,tanh}", default="as the file tells")] = None
    normaliser: Annotated[Path | None, Shown("FILE")] = None
    out: Annotated[Path | None, Shown("FILE", default="FILE with .safetensors")] = None
    json: bool = False


@dataclass(frozen=True)
class InfoOptions:
    """Tell what a policy file is and what it says of itself.

    Attributes:
        what: folder of a run, or a policy file of any format.
        policy: which of a run's policies.
        json: print the result as JSON.
    """

    what: Annotated[Path, Shown("RUN|POLICY_FILE", positional=True)]
    policy: Literal["best", "last"] = "best"
    json: bool = False


def run(argv: list[str]) -> int:
    """Exports, imports or tells; returns the exit code."""
    return subcommands.dispatch("epvf policy", SUBCOMMANDS, argv)


def _export(asked: ExportOptions) -> int:
    from epvf.policies.formats.contents import contents
    from epvf.policies.formats.registry import WRITERS, load_policy
    from epvf.tasks.interface import interface

    path = _file(asked.what, asked.policy)
    form = asked.format or (asked.out.suffix.removeprefix(".") if asked.out else None)
    if form is None:
        raise UserError(f"which format? --format {'|'.join(WRITERS.names())}")
    write = WRITERS[form]
    saved = load_policy(path)
    # what C names by its file's name does not begin with what a run calls its policies by chance
    out = asked.out or path.with_suffix(f".{form}")
    _check_out(out)
    files = write(out, contents(saved, interface(saved.task)))
    result = {"files": [str(file) for file in files], "policy": str(path), "format": form}
    text = f"{saved.policy.describe()}, {saved.task or 'of no task'}: {', '.join(result['files'])}"
    print_result(result, text, asked.json)
    return 0


def _import(asked: ImportOptions) -> int:
    from epvf.policies.formats.networks import Told
    from epvf.policies.formats.registry import import_policy
    from epvf.policies.formats.safetensors import save_policy

    told = Told(asked.task or "", asked.activation, asked.output, asked.normaliser)
    out = asked.out or asked.file.with_suffix(".safetensors")
    saved = import_policy(asked.file, told)
    if told.task:
        _check_task(told.task, saved.policy)
    _check_out(out)
    save_policy(out, saved.policy, saved.theta, saved.task, math.nan, saved.metadata)
    result = {"policy": str(out)} | _described(saved)
    print_result(result, _told_of(result), asked.json)
    return 0


def _info(asked: InfoOptions) -> int:
    from epvf.policies.formats.registry import load_policy

    path = _file(asked.what, asked.policy)
    result = {"policy": str(path)} | _described(load_policy(path))
    print_result(result, _told_of(result), asked.json)
    return 0


def _file(what: Path, which: str) -> Path:
    from epvf.runs.folder import policy_path, read_config

    if not what.is_dir():
        return what
    read_config(what)  # says so where it is no run
    return policy_path(what, which)


def _check_task(name: str, policy: Any) -> None:
    from epvf.tasks import make
    from epvf.tasks.base import check_policy

    check_policy(make(name).spec, policy)


def _check_out(out: Path) -> None:
    """Before anything is computed: nothing is overwritten, and the folder is there."""
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    try:
        if not out.parent.is_dir():
            raise UserError(f"cannot write {out}: there is no folder {out.parent}")
    except OSError as error:
        raise UserError(f"cannot write {out}: {one_line(error)}") from error


def _described(saved: Any) -> dict[str, Any]:
    return {
        "architecture": saved.policy.describe(),
        "parameters": saved.policy.num_parameters,
        "task": saved.task,
        "metadata": saved.metadata,
    }


def _told_of(result: dict[str, Any]) -> str:
    lines = [f"{result['policy']}: {result['architecture']}, {result['parameters']} parameters"]
    return "\n".join([*lines, *(f"  {k}: {v}" for k, v in result["metadata"].items())])


SUBCOMMANDS = {
    "export": Subcommand(ExportOptions, _export),
    "import": Subcommand(ImportOptions, _import),
    "info": Subcommand(InfoOptions, _info),
}
