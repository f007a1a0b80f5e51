"""`--devices`, `--cluster` and `--launcher`: what is refused, before anything is written."""

import sys

TRAIN = ["train", "cartpole", "--preset", "debug"]
ANT = ["train", "ant", "--preset", "debug", "--backend", "native"]

COMPARE = ["compare", "cartpole", "--arm", "a=--perturbation.scale 0.3", "--env-steps", "1e3"]


def test_bad_input(refused, monkeypatch):
    refused([*TRAIN, "--devices", "9999"], "devices is 9999, but there are 1 of kind cpu here")
    refused([*TRAIN, "--devices", "0"], "devices must be a number of at least 1, or all, not '0'")
    refused([*TRAIN, "--devices", "half"], "devices must be a number of at least 1, or all")
    refused([*ANT, "--cluster", "local:no"], "say how many workers: local:4")
    refused([*ANT, "--cluster", "here"], "must be local:N, auto, HOST:PORT or ray://HOST:PORT")
    monkeypatch.setenv("PATH", "/nowhere")
    refused([*COMPARE, "--launcher", "slurm"], "there is no SLURM here: srun is not found")
    monkeypatch.setitem(sys.modules, "submitit", None)
    refused([*COMPARE, "--launcher", "slurm"], "SLURM needs submitit: pip install 'epvf[slurm]'")
    monkeypatch.setitem(sys.modules, "ray", None)
    refused([*COMPARE, "--launcher", "ray"], "a Ray cluster needs ray: pip install 'epvf[ray]'")
    refused([*ANT, "--cluster", "local:2"], "a cluster needs ray: pip install 'epvf[ray]'")
