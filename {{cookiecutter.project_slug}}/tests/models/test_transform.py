"""A team's transform travels with the version that it was imported with, and looks at one row at a time."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from typer.testing import CliRunner

from project.commands import build
from project.errors import ProjectError
from project.models import bundle as bundles
from project.models import transform
from project.models.bundle import pack
from project.models.importing import Source, import_model
from project.models.registry import Registry
from project.models.scorer import Scorer
from project.settings import PREFIX, Settings

RATIO = """
import polars as pl


def transform(rows):
    return rows.lazy().select(ratio=pl.col("paid") / pl.col("asked"), long=pl.col("name").str.len_chars() > 3)
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A model over two columns that only the transform makes, the transform, and a sample without them."""
    (tmp_path / "ratio.py").write_text(RATIO)
    random = np.random.default_rng(5)
    paid, asked = random.random(300) + 1, random.random(300) + 1
    name = random.choice(["Zoë", "Frédérique", "Li"], 300)
    truth = 3 * paid / asked + (name == "Frédérique")
    pl.DataFrame({"paid": paid, "asked": asked, "name": name, "y": truth}).write_csv(tmp_path / "s.csv")
    wanted = np.stack([paid / asked, name == "Frédérique"], axis=1)
    skops.io.dump(LinearRegression().fit(wanted, truth), tmp_path / "m.skops")
    return Source(str(tmp_path / "m.skops"), tmp_path / "s.csv", "y", transform=tmp_path / "ratio.py")


def rows_of(source: Source) -> pl.DataFrame:
    assert source.sample is not None
    return pl.read_csv(source.sample)


def test_the_version_scores_rows_as_they_are(settings: Settings, source: Source) -> None:
    bundle, rows = import_model(settings, source), rows_of(source)
    assert [column.name for column in bundle.signature.inputs] == ["paid", "asked", "name"]
    assert bundle.manifest["columns"] == ["ratio", "long"]
    assert bundle.metrics["rmse"] < 1e-4
    scorer = Scorer(bundle)
    np.testing.assert_allclose(scorer.frame(rows)["prediction"], rows["y"], rtol=1e-4)
    decoded = [scorer.row(f0=row["paid"], f1=row["asked"], f2=row["name"]) for row in rows.head(3).to_dicts()]
    assert scorer.rows(decoded) == scorer.frame(rows.head(3)).to_dicts()
    assert scorer.frame(rows.clear()).height == 0


def test_a_version_keeps_its_transform(settings: Settings, source: Source) -> None:
    assert source.transform is not None
    first, rows = import_model(settings, source), rows_of(source)
    assert import_model(settings, source).version == first.version
    source.transform.write_text(RATIO.replace("> 3", "< 0"))
    second = import_model(settings, source)
    source.transform.unlink()
    assert second.version != first.version
    answers = [Scorer(Registry(settings).load(one.version)).frame(rows)["prediction"] for one in (first, second)]
    np.testing.assert_allclose(answers[0], rows["y"], rtol=1e-4)
    assert (answers[0] - answers[1]).max() == pytest.approx(1, abs=1e-3)
    assert {one.provenance["transform"]["file"] for one in (first, second)} == {"ratio.py"}
    assert first.provenance["transform"]["sha256"] == first.manifest["files"]["transform.py"]
    assert transform.MODULE not in sys.modules


def test_an_exported_transform_needs_trust(settings: Settings, source: Source, tmp_path: Path) -> None:
    given = import_model(settings, source)
    assert given.manifest["runtime"] == "onnx"  # nothing else in it runs code
    pack(given, tmp_path / "given.bundle")
    there = settings.model_copy(update={"root": tmp_path / "there"})
    packed = Source(str(tmp_path / "given.bundle"))
    with pytest.raises(ProjectError, match="pass --trust-pickle"):
        import_model(there, packed)
    assert Registry(there).versions() == []
    with pytest.raises(ProjectError, match="brings its own transform"):
        import_model(there, replace(packed, transform=tmp_path / "ratio.py", trust_pickle=True))
    taken = import_model(there, replace(packed, trust_pickle=True))
    assert taken.version == given.version
    assert Scorer(taken).frame(rows_of(source)).height == 300


def test_code_that_a_bundle_does_not_tell_of_never_runs(settings: Settings, source: Source, tmp_path: Path) -> None:
    given = import_model(settings, source)
    files = {name: (given.folder / name).read_bytes() for name in given.manifest["files"]}
    files["transform.py"] = f"open({str(tmp_path / 'ran')!r}, 'w')\n{RATIO}".encode()
    manifest = {key: value for key, value in given.manifest.items() if key != "files"} | {"code": False}
    hiding = bundles.write(tmp_path / "other", manifest, files)
    with pytest.raises(ProjectError, match="does not say so"):
        Scorer(hiding)
    assert not (tmp_path / "ran").exists()


def test_a_value_missing_in_one_row_alone_changes_no_type(settings: Settings, source: Source) -> None:
    assert source.transform is not None
    source.transform.write_text(
        "import polars as pl\n"
        "def transform(rows):\n"
        "    made = [None if row['paid'] is None else row['paid'] / row['asked'] for row in rows.to_dicts()]\n"
        "    long = [len(row['name']) > 3 for row in rows.to_dicts()]\n"
        "    return pl.DataFrame({'ratio': made, 'long': long})\n"
    )
    with source.sample.open("a") as file:  # type: ignore[union-attr]
        file.write(",1.5,Li,2\n")
    skops.io.dump(HistGradientBoostingRegressor(max_iter=5).fit([[1, 2]] * 50, [1.0] * 50), source.reference)
    scorer = Scorer(import_model(settings, source))
    alone = pl.DataFrame({"paid": [None], "asked": [1.5], "name": ["Li"]}, schema_overrides={"paid": pl.Float64})
    made = scorer.features(alone)
    assert dict(made.schema) == {"ratio": pl.Float64, "long": pl.Boolean}
    assert made["ratio"].to_list() == [None]
    assert scorer.features(alone.clear()).schema == made.schema


def test_a_row_that_cannot_be_transformed_is_named(settings: Settings, source: Source) -> None:
    assert source.transform is not None
    source.transform.write_text(
        "import polars as pl\n"
        "def transform(rows):\n"
        "    ratio = [row['paid'] / row['asked'] for row in rows.to_dicts()]\n"
        "    return rows.select(pl.Series('ratio', ratio), long=pl.col('name').str.len_chars() > 3)\n"
    )
    scorer, rows = Scorer(import_model(settings, source)), rows_of(source)
    broken = rows.with_columns(asked=pl.when(pl.int_range(pl.len()) != 123).then("asked").otherwise(0.0))
    with pytest.raises(ProjectError, match=r"fails at row 124 of 300 .ZeroDivisionError: float division by zero"):
        scorer.frame(broken)
    with pytest.raises(ProjectError, match=r"fails .ZeroDivisionError"):
        scorer.frame(broken[123:124])


HEAD = """
import itertools
import polars as pl
NEXT = itertools.count().__next__
ratio, long = pl.col("paid") / pl.col("asked"), pl.col("name") == "Li"
"""


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            "ratio=pl.col('paid').rank(), long=long",
            r'row \d+ of the sample has another "ratio" alone than among others',
        ),
        ("ratio=pl.col('paid').cum_sum(), long=long", 'row 2 of the sample has another "ratio" alone'),
        ("ratio=ratio - ratio.mean(), long=long", 'row 1 of the sample has another "ratio" alone'),
        ("ratio=ratio, long=pl.col('name').shift(1) == 'Li'", 'another "long" alone.*one row at a time'),
        ("ratio=ratio.sort(), long=long", 'another "ratio" alone'),
        ("ratio=ratio, long=pl.col('name').shuffle() == 'Li'", "each time: it must not use chance"),
        ("ratio=pl.Series(range(len(rows))) + NEXT(), long=long", "each time: .* what it saw before"),
        ("ratio=ratio.mean()", "gives 1 rows for 300"),
        ("ratio=ratio", "after the transform, the model takes 2 columns"),
        ("ratio=pl.col('absent'), long=long", "fails at row 1 of 300 .ColumnNotFoundError"),
        ("ratio=pl.lit(None), long=long", 'column "ratio" that is empty in all rows'),
        ("ratio=pl.concat_list('paid', 'asked'), long=long", 'column "ratio" that is of type List'),
    ],
)
def test_what_is_no_function_of_one_row_is_refused(
    settings: Settings, source: Source, body: str, sentence: str
) -> None:
    refused(settings, source, f"{HEAD}def transform(rows):\n    return rows.select({body})\n", sentence)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("", r"no function transform\(rows\)"),
        ("transform = 3\n", r"no function transform\(rows\)"),
        ("def transform(rows:\n", "ratio.py is no Python: line 1, '.' was never closed"),
        ("import absent_library\n", "cannot be loaded .ModuleNotFoundError: No module named 'absent_library'"),
        ("import helper\n", "imports helper, which lies beside it"),
        ("from . import helper\n", "has a relative import"),
        ("raise SystemExit(3)\n", "cannot be loaded .SystemExit: 3"),
        ("x = 0\x00\n", "is no Python"),
        ("#" * 2_000_000, "more than 1 MB"),
        ("def transform(rows):\n    return 7\n", "gives a int: it must give a polars DataFrame"),
        ("def transform(rows):\n    return rows.to_pandas\n", "gives a method"),
        ("def transform(rows):\n    raise SystemExit(2)\n", "fails at row 1 of 300 .SystemExit"),
        (
            HEAD + "def transform(rows):\n    rows[0, 'paid'] = 7.0\n    return rows.select(ratio, long)\n",
            "changes the rows",
        ),
        (
            HEAD + "def transform(rows):\n    return rows.select('paid', 'name').to_dummies('name')\n",
            'row . of the sample cannot be transformed alone: .* no column "name_',
        ),
        (
            "import polars as pl\ndef transform(rows):\n"
            "    made = [round(v) if round(v) == 1 else v for v in rows['paid']]\n"
            "    return pl.DataFrame({'ratio': made if len(made) > 1 else [str(made)], 'long': made}, strict=False)\n",
            'row 1 of the sample cannot be transformed alone: .*"ratio" as String for these rows and as Float64',
        ),
    ],
)
def test_what_is_no_transform_is_refused_in_a_sentence(
    settings: Settings, source: Source, code: str, sentence: str
) -> None:
    (Path(source.reference).parent / "helper.py").touch()
    refused(settings, source, code, sentence)


def refused(settings: Settings, source: Source, code: str, sentence: str) -> None:
    assert source.transform is not None
    source.transform.write_text(code)
    with pytest.raises(ProjectError, match=sentence):
        import_model(settings, source)
    assert Registry(settings).versions() == []


def test_an_absent_transform_is_refused(settings: Settings, source: Source, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"absent\.py cannot be read: No such file"):
        import_model(settings, replace(source, transform=tmp_path / "absent.py"))


def test_rounding_is_no_neighbour(settings: Settings, source: Source) -> None:
    """A library may compute the last digit of one value in another way than of many."""
    code = RATIO.replace('pl.col("asked"), ', 'pl.col("asked") * (1 + (rows.height == 1) * 1e-14), ')
    assert source.transform is not None
    source.transform.write_text(code)
    assert import_model(settings, source).metrics["rmse"] < 1e-4


def test_dataclasses_and_late_annotations_work(settings: Settings, source: Source) -> None:
    assert source.transform is not None
    source.transform.write_text(
        "from __future__ import annotations\nimport dataclasses, typing\n@dataclasses.dataclass\n"
        f"class Limits:\n    low: typing.ClassVar[float] = 0\n    high: dataclasses.InitVar[float] = 1\n{RATIO}"
    )
    assert import_model(settings, source).manifest["columns"] == ["ratio", "long"]


def test_the_command_takes_the_setting_unless_told_otherwise(
    settings: Settings, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source.transform is not None
    monkeypatch.chdir(settings.root)
    (settings.root / "ratio.py").write_text(RATIO)
    monkeypatch.setenv(f"{PREFIX}MODELS__TRANSFORM", "ratio.py")
    command = ["model", "import", source.reference, "--sample", str(source.sample), "--target", "y"]
    done = CliRunner().invoke(build(), command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    version = done.output.split()[-1]
    assert Registry(settings).load(version).manifest["transform"] == {"ratio": "Float64", "long": "Boolean"}
    assert "columns made by ratio.py" in CliRunner().invoke(build(), ["model", "show", version]).output
    with pytest.raises(ProjectError, match="takes 2 columns and the sample has 3"):
        CliRunner().invoke(build(), [*command, "--transform", ""], catch_exceptions=False)
