"""What an experiment says of its time before it begins."""

from epvf.config.presets import preset
from epvf.config.schema import replace
from epvf.experiments import forecast
from epvf.experiments.paper import Arm
from epvf.training.pace import Expected, Pace


def test_settings_are_timed_once_and_count_as_often_as_they_run(monkeypatch):
    base = replace(preset("cartpole", "debug", "epvf"), {"iterations": 3})
    timed: list[int] = []
    told: list[str] = []

    def measure(setup):
        timed.append(setup.config.num_envs)
        return Pace(1.0, 0.0, 2.0 * setup.config.num_envs, 1.0)

    monkeypatch.setattr(forecast.pace, "measure", measure)
    arms = [
        Arm(f"{num} envs-s{seed}", replace(base, {"num_envs": num, "seed": seed}))
        for seed in (0, 1)
        for num in (4, 8)
    ]
    assert forecast.forecast(arms, told.append) == Expected(2 * (25 + 49), 2 * (25 + 49))
    assert timed == [4, 8]
    assert told == [
        "timing the first iterations of 4 envs-s0 ...",
        "timing the first iterations of 8 envs-s0 ...",
    ]


def test_nothing_left_takes_no_time():
    assert forecast.forecast([], lambda text: None) == (0.0, 0.0)
