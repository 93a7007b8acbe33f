"""Reading records from TOML and the command line reports all mistakes at once and says what is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from piadm_hpc.config.validation import ConfigError, Record, build, override, read, without_none
from piadm_hpc.config.validation import dotted as flat


class Engine(Record):
    """A section of the record Car."""

    cylinders: int = Field(4, ge=1, le=16)
    fuel: Literal["petrol", "diesel", "hydrogen"] = "petrol"
    limit: float | Literal["auto"] = "auto"
    boost: float | None = Field(None, gt=0)


class Car(Record):
    """A record with a section and an optional one."""

    name: str = Field(min_length=1)
    doors: tuple[int, ...] = ()
    seats: tuple[int, int] = (2, 3)
    hybrid: bool = False
    engine: Engine = Engine()
    spare: Engine | Literal["none"] = "none"


def mistakes(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Car, {"name": "a", **values}, "car.toml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nmae": "b"}, "nmae: unknown key; did you mean name?"),
        ({"engine": {"cylindres": 4}}, "engine.cylindres: unknown key; did you mean engine.cylinders?"),
        ({"cylinders": 4}, "cylinders: unknown key; did you mean engine.cylinders or spare.cylinders?"),
        ({"qqq": 1}, "qqq: unknown key; known here: doors, engine, hybrid, name, seats, spare"),
        ({"spare": {"feul": "petrol"}}, "spare.feul: unknown key; did you mean spare.fuel?"),
        ({"spare": "some"}, "spare: must be a section of its own, with keys below it or 'none' (given \"some\")"),
        ({"engine": 4}, "engine: must be a section of its own, with keys below it (given 4)"),
        ({"engine": {"cylinders": 4.5}}, "engine.cylinders: must be a whole number (given 4.5)"),
        ({"engine": {"cylinders": "many"}}, 'engine.cylinders: must be a whole number (given "many")'),
        ({"engine": {"cylinders": True}}, "engine.cylinders: cannot be true or false (given true)"),
        ({"engine": {"cylinders": 0}}, "engine.cylinders: must be at least 1 (given 0)"),
        ({"engine": {"cylinders": 17}}, "engine.cylinders: must be at most 16 (given 17)"),
        ({"engine": {"boost": 0.0}}, "engine.boost: must be more than 0 (given 0.0)"),
        ({"engine": {"boost": float("nan")}}, "engine.boost: must be a finite number (given NaN)"),
        ({"engine": {"limit": "no"}}, "engine.limit: must be a number or 'auto' (given \"no\")"),
        ({"engine": {"limit": float("inf")}}, "engine.limit: must be a finite number or 'auto' (given Infinity)"),
        (
            {"engine": {"fuel": "deisel"}},
            "engine.fuel: must be 'petrol', 'diesel' or 'hydrogen'; did you mean 'diesel'? (given \"deisel\")",
        ),
        ({"hybrid": "perhaps"}, 'hybrid: must be true or false (given "perhaps")'),
        ({"name": 7}, "name: must be text in quotes (given 7)"),
        ({"name": ""}, 'name: must be text of at least 1 character (given "")'),
        ({"doors": 4}, "doors: must be a list in brackets (given 4)"),
        ({"seats": [1]}, "seats: must be a list of 2 entries (given [1])"),
        ({"seats": []}, "seats: must be a list of 2 entries (given [])"),
        ({"seats": [1, 2, 3]}, "seats: must be a list of at most 2 entries (given [1, 2, 3])"),
        ({"doors": [1, "b"]}, 'doors.1: must be a whole number (given "b")'),
        ({"name": [1] * 100}, f"name: must be text in quotes (given {'[' + '1, ' * 19 + '1,'} ...)"),
    ],
)
def test_one_mistake_is_one_line_that_says_what_would_be_right(values: dict[str, Any], message: str) -> None:
    assert mistakes(**values) == f"car.toml: {message}"


def test_all_mistakes_come_at_once_in_the_order_of_the_record() -> None:
    text = mistakes(colour="red", hybrid=3, engine={"cylinders": 0, "limit": "x", "fule": "petrol"}, spare={"fuel": "coal"})
    head, *lines = text.splitlines()
    assert head == "car.toml: 6 mistakes"
    keys = [line.split(":")[0].strip() for line in lines]
    assert sorted(keys) == ["colour", "engine.cylinders", "engine.fule", "engine.limit", "hybrid", "spare.fuel"]
    assert "spare: must be" not in text, "a section with a mistake is not also said to be no section"


def test_what_has_no_default_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"^car\.toml: name: missing; it has no default$"):
        build(Car, {}, "car.toml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("engine.cylinders=6", 6),
        ("engine.limit = 1e-3", 1e-3),
        ("name=word", "word"),
        ("name = 'two words'", "two words"),
        ("doors=[1, 2]", [1, 2]),
        ("hybrid=true", True),
        ("name=a=b", "a=b"),
        ("name=", ""),
    ],
)
def test_an_override_is_read_as_toml_or_else_as_text(text: str, value: object) -> None:
    key, read_value = override(text)
    assert key == text.partition("=")[0].strip() and read_value == value and type(read_value) is type(value)


@pytest.mark.parametrize("text", ["engine.cylinders", "=4", " = 4", ""])
def test_an_override_without_key_or_value_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match="write it as key=value, for example"):
        override(text)


def test_overrides_win_over_the_file_and_the_last_one_over_the_others(tmp_path: Path) -> None:
    path = tmp_path / "car.toml"
    path.write_text('name = "a"\n[engine]\ncylinders = 8\nfuel = "diesel"\n')
    car = read(Car, path, [("engine.cylinders", 6), ("engine.boost", 1.5), ("engine.cylinders", 3)])
    assert car == Car(name="a", engine=Engine(cylinders=3, fuel="diesel", boost=1.5))
    assert read(Car, None, [("name", "b")]) == Car(name="b")
    with pytest.raises(ConfigError) as caught:
        read(Car, path, [("engine.cylinders", 99)])
    assert str(caught.value) == f"{path} with the command line: engine.cylinders: must be at most 16 (given 99)"
    with pytest.raises(ConfigError, match=r"--set name\.first: name is a value, not a section"):
        read(Car, path, [("name.first", 1)])


def test_files_that_cannot_be_read_or_are_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read \(No such file or directory\).*`piadm init` prints one"):
        read(Car, tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        read(Car, tmp_path)
    for content in (b"name = [", b"\x89HDF\r\n\xff\xfe", b"name = 'a'\nname = 'b'\n"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.toml: not a TOML file \(") as caught:
            read(Car, tmp_path / "bad.toml")
        assert len(str(caught.value).splitlines()) == 1


def test_a_record_is_frozen_compares_and_hashes() -> None:
    car = Car(name="a", doors=(1, 2))
    assert car == Car(name="a", doors=(1, 2)) and hash(car) == hash(Car(name="a", doors=(1, 2))) and car != Car(name="b")
    with pytest.raises(ValueError, match="frozen"):
        car.name = "b"


def test_nested_values_without_none_and_as_dotted_keys() -> None:
    values = {"a": 1, "b": {"c": None, "d": {"e": 2}}, "f": None}
    assert without_none(values) == {"a": 1, "b": {"d": {"e": 2}}}
    assert flat(values) == {"a": 1, "b.c": None, "b.d.e": 2, "f": None}
