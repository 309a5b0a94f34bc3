"""`example`: new rows of the bundled example, and a model trained on it."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Synthetic data of the bundled example, and a model trained on it.", no_args_is_help=True)

Rows = Annotated[int, typer.Option(help="How many rows.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")]


@app.command("rows")
def make_rows(
    rows: Rows,
    output: Annotated[Path, typer.Option(help="File to write: .csv or .parquet.")],
    seed: Seed = 2,
    drift: Annotated[bool, typer.Option("--drift", help="Move some columns, change the relation.")] = False,
    bad: Annotated[float, typer.Option(min=0, max=1, help="Share of rows to break.")] = 0.0,
    truth: Annotated[Path | None, typer.Option(help="File for the outcomes: columns row, actual.")] = None,
) -> None:
    """Write new rows: the inputs, and in a file of its own the truth that comes later."""
    import polars as pl

    from ..errors import ProjectError
    from ..example import as_text, dataset, publish
    from ..settings import load

    if rows < 0:
        raise ProjectError("--rows must not be negative: give how many rows to make")
    for file in (output, truth or output):
        if file.suffix not in (".csv", ".parquet"):
            raise ProjectError(f"{file} has a suffix that cannot be written: name it .csv or .parquet")
    if truth and truth.resolve() == output.resolve():
        raise ProjectError("--truth and --output name the same file: give two names")
    data = dataset(load().project.example)
    frame = data.rows(rows, seed, drift)
    inputs = frame.drop(data.TARGET.name)
    files = {output: data.bad(inputs, bad, seed) if bad else inputs}
    if truth:
        files[truth] = frame.select(row=pl.int_range(1, pl.len() + 1), actual=data.TARGET.name)
    for file, table in files.items():
        publish(file, as_text(table).write_csv if file.suffix == ".csv" else table.write_parquet)
    notes = f", {round(bad * rows)} of them broken" * (bad > 0) + ", with drift" * drift
    typer.echo(f"wrote {rows} synthetic rows to {output}{notes}")
    if truth:
        typer.echo(f"wrote what really happened to {truth}")


@app.command("train")
def train_model(
    output: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="data/example")] = None,
    rows: Rows = 20_000,
    seed: Seed = 1,
) -> None:
    """Train a model on the example's history, and measure it on rows that it has not seen."""
    from ..example.train import train
    from ..settings import load

    result = train(load(), output and output.absolute(), rows, seed)
    counts = result.details["rows"]
    typer.echo(f"trained on {counts['training']} rows in {result.seconds:.1f} s: {result.details['algorithm']}")
    typer.echo(f"measured on {counts['holdout']} held out ({result.details['split']}):")
    for name, value in result.metrics.items():
        if name != "rows":
            typer.echo(f"  {name:<18}{value:>8.3f}   without a model {result.baseline[name]:>8.3f}")
    typer.echo(f"wrote model.skops, sample.csv, signature.json and training.json to {result.folder}")
