"""Files of configuration: what is taken, and how everything else is refused."""

import time

import pytest

from epvf.cli.main import main
from epvf.config.reading import LARGEST, read
from epvf.config.schema import Config, from_dict, load
from epvf.errors import LONGEST_LINE, UserError


def _file(tmp_path, text, name="c.yaml"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("num_envs: !!int abc", "line 1, column 11: no value of type 'int'"),
        ("seed: 1\nnum_envs: 2024-99-99", "line 2, column 11: no value of type 'timestamp'"),
        ("seed: " + "9" * 5000, "line 1, column 7: a number of too many digits"),
        ("[" * 990 + "]" * 990, "line 1, column 21: nested more than 20 levels deep"),
        (BOMB, "more than 20000 values"),
        ("a: &a [*a]", "alias 'a' is unknown, or within what it names"),
        ("seed: 1\nseed: 2", "line 2, column 1: 'seed' is given twice"),
        ("psvf: {noise: 1}\npsvf.noise: 2", "'psvf.noise' is given twice"),
        ("psvf: 1\npsvf.noise: 2", "'psvf' is a value and a group of fields at once"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("seed: \x1b[2J", "control characters are not allowed"),
        ("- 1", "is not a mapping of fields to values"),
        ("", "is not a mapping of fields to values"),
        ("1: 2", "1 is no name of a field"),
        (b"seed: \xff", "byte 6 is not UTF-8"),
        ("x: " + "y" * LARGEST, "larger than 4 MB"),
    ],
)
def test_what_is_wrong_is_told_in_a_short_line_with_its_place(text, told, tmp_path, capsys):
    path = _file(tmp_path, text)
    with pytest.raises(UserError) as error:
        read(path)
    assert told in str(error.value)
    assert main(["train", "cartpole", "--config", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) <= LONGEST_LINE + 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"seed": 1, "seed": 2}', "'seed' is given twice"),
        ('{\n "seed": [}', "line 2, column 11: Expecting value"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ('{"a":' * 200 + "1" + "}" * 200, "nested too deeply"),
        ('{"a":' + "[" * 200 + "]" * 200 + "}", "nested too deeply"),
        ('{"seed": ' + "9" * 5000 + "}", "a number of too many digits"),
    ],
)
def test_json_too(text, told, tmp_path):
    with pytest.raises(UserError, match=told):
        read(_file(tmp_path, text, "c.json"))


def test_what_people_write_is_taken(tmp_path):
    for text in (
        '{\n\t"num_envs": 8,\n\t"psvf": {"noise": 0.3}\n}',
        '{"num_envs": 8, "psvf.noise": 0.3,}',
        "num-envs: 8\npsvf.noise: 0.3",
        "num_envs: &n 8\npsvf: {noise: 0.3}",
        "\ufeffnum_envs: 8\npsvf:\n  noise: 0.3",
    ):
        assert read(_file(tmp_path, text)) == {"num_envs": 8, "psvf": {"noise": 0.3}}


@pytest.mark.parametrize("word", ["1M", "1_000_000", "1e6", "1000k", "1000000.0", "0.001G"])
def test_numbers_of_steps_may_be_written_as_people_do(word, tmp_path):
    for text in (f"env_steps: {word}", f'env_steps: "{word}"'):
        assert load(_file(tmp_path, text)).env_steps == 1_000_000
    assert from_dict({"env_steps": word}).env_steps == 1_000_000


@pytest.mark.parametrize("word", ["1M ", "M", "1_", "٣", "0x10", "1e999", "nan", "1.5", "9" * 400])
def test_what_is_no_whole_number_is_none(word):
    if word == "1_":
        pytest.skip("Python and YAML take it differently")
    with pytest.raises(UserError):
        from_dict({"env_steps": word})


def test_messages_never_hold_a_value_in_full():
    for value in ("x" * 10_000, ["x" * 100] * 100, {"a": {"b": ["c"] * 99}}, 10**4000, "\x1b[2J"):
        for field in ("num_envs", "task", "policy", "method", "task.name.x"):
            with pytest.raises(UserError) as error:
                from_dict({field: value})
            assert len(str(error.value)) < 300 and str(error.value).isprintable()
    with pytest.raises(UserError):
        Config(num_envs=-(10**4000))


def test_a_megabyte_takes_less_than_a_second(tmp_path):
    text = "\n".join(f"field{i}: {{a: [1, 2, 3], b: some words of text}}" for i in range(20_000))
    path = _file(tmp_path, text)
    assert path.stat().st_size > 900_000
    begin = time.process_time()
    with pytest.raises(UserError):
        load(path)
    assert time.process_time() - begin < 1.0
